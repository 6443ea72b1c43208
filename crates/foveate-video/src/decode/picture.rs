//! Decoded frames as upright RGB pictures.

use ffmpeg::format::Pixel;
use ffmpeg::software::scaling::{Context, Flags};
use ffmpeg::{color, ffi, frame};
use ffmpeg_next as ffmpeg;
use image::RgbImage;

/// How a stored picture is to be shown: flips and an exchange of the axes, which make up all turns by 90 degrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Orientation {
    /// Rows become columns, before any flip.
    transposed: bool,
    /// Left and right change places.
    flip_x: bool,
    /// Top and bottom change places.
    flip_y: bool,
}

impl Orientation {
    /// Reads a display matrix: nine 32-bit numbers in native order, of which 0, 1, 3 and 4 turn the picture
    /// (x' = m0 x + m3 y, y' = m1 x + m4 y). Other angles go to the nearest right one.
    pub(super) fn from_matrix(bytes: &[u8]) -> Self {
        let numbers: Vec<i32> = bytes.as_chunks::<4>().0.iter().map(|b| i32::from_ne_bytes(*b)).collect();
        let &[a, b, _, c, d, ..] = numbers.as_slice() else { return Self::default() };
        if a.unsigned_abs().max(d.unsigned_abs()) >= b.unsigned_abs().max(c.unsigned_abs()) {
            Self { transposed: false, flip_x: a < 0, flip_y: d < 0 }
        } else {
            Self { transposed: true, flip_x: c < 0, flip_y: b < 0 }
        }
    }

    fn size(self, (width, height): (u32, u32)) -> (u32, u32) {
        if self.transposed { (height, width) } else { (width, height) }
    }

    fn apply(self, image: RgbImage) -> RgbImage {
        if self == Self::default() {
            return image;
        }
        let (width, height) = self.size(image.dimensions());
        RgbImage::from_fn(width, height, |x, y| {
            let x = if self.flip_x { width - 1 - x } else { x };
            let y = if self.flip_y { height - 1 - y } else { y };
            if self.transposed { *image.get_pixel(y, x) } else { *image.get_pixel(x, y) }
        })
    }
}

/// Converts frames to RGB. Frames of another size, in streams that change it, are scaled to the stream's.
pub(super) struct Converter {
    size: (u32, u32),
    orientation: Orientation,
    scaler: Option<(Input, Context)>,
}

/// What a scaler was set up for.
#[derive(Clone, Copy, PartialEq)]
struct Input {
    format: Pixel,
    size: (u32, u32),
    space: color::Space,
    range: color::Range,
}

impl Converter {
    pub(super) fn new(size: (u32, u32), orientation: Orientation) -> Self {
        Self { size, orientation, scaler: None }
    }

    pub(super) fn upright_size(&self) -> (u32, u32) {
        self.orientation.size(self.size)
    }

    pub(super) fn rgb(&mut self, frame: &frame::Video) -> Result<RgbImage, ffmpeg::Error> {
        let input = Input {
            format: frame.format(),
            size: (frame.width(), frame.height()),
            space: frame.color_space(),
            range: frame.color_range(),
        };
        let scaler = match &mut self.scaler {
            Some((known, scaler)) if *known == input => scaler,
            slot => &mut slot.insert((input, scaler(input, self.size)?)).1,
        };
        let mut converted = frame::Video::empty();
        scaler.run(frame, &mut converted)?;
        let image = packed(&converted).ok_or(ffmpeg::Error::InvalidData)?;
        Ok(self.orientation.apply(image))
    }
}

fn scaler(input: Input, (width, height): (u32, u32)) -> Result<Context, ffmpeg::Error> {
    // The ffmpeg program's flags, so that pictures are equal to its own.
    let (w, h) = input.size;
    let mut scaler = Context::get(input.format, w, h, Pixel::RGB24, width, height, Flags::BICUBIC)?;
    set_colours(&mut scaler, input.space, input.range);
    Ok(scaler)
}

/// Tells a scaler the colour matrix and range of its input, as the ffmpeg program does.
fn set_colours(scaler: &mut Context, space: color::Space, range: color::Range) {
    let space: ffi::AVColorSpace = space.into();
    let matrix = match space as i32 {
        known @ (1..=7 | 9..=10) => known,
        _ => ffi::SWS_CS_DEFAULT,
    };
    let (mut inverse, mut table) = (std::ptr::null_mut(), std::ptr::null_mut());
    let (mut in_full, mut out_full) = (0, 0);
    let (mut brightness, mut contrast, mut saturation) = (0, 0, 0);
    // SAFETY: the context is alive, all outputs are plain integers or pointers to static tables, which are only read.
    // ffmpeg-next does not bind these two functions.
    unsafe {
        let known = ffi::sws_getColorspaceDetails(
            scaler.as_mut_ptr(),
            &raw mut inverse,
            &raw mut in_full,
            &raw mut table,
            &raw mut out_full,
            &raw mut brightness,
            &raw mut contrast,
            &raw mut saturation,
        );
        if known < 0 {
            return; // not a YUV input
        }
        match range {
            color::Range::JPEG => in_full = 1,
            color::Range::MPEG => in_full = 0,
            color::Range::Unspecified => {}
        }
        let coefficients = ffi::sws_getCoefficients(matrix);
        ffi::sws_setColorspaceDetails(
            scaler.as_mut_ptr(),
            coefficients,
            in_full,
            coefficients,
            out_full,
            brightness,
            contrast,
            saturation,
        );
    }
}

/// Copies rows out of FFmpeg's padded buffer.
fn packed(frame: &frame::Video) -> Option<RgbImage> {
    let (width, height) = (frame.width(), frame.height());
    let length = 3 * width as usize;
    let mut pixels = Vec::with_capacity(length * height as usize);
    for row in frame.data(0).chunks(frame.stride(0)).take(height as usize) {
        pixels.extend_from_slice(row.get(..length)?);
    }
    RgbImage::from_raw(width, height, pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(matrix: [i32; 9]) -> Vec<u8> {
        let bytes: Vec<u8> = matrix.iter().flat_map(|n| n.to_ne_bytes()).collect();
        let image = RgbImage::from_fn(2, 2, |x, y| image::Rgb([(2 * y + x) as u8; 3]));
        Orientation::from_matrix(&bytes).apply(image).pixels().map(|p| p.0[0]).collect()
    }

    #[test]
    fn display_matrices_turn_and_flip() {
        const ONE: i32 = 1 << 16;
        let matrix = |a, b, c, d| [a, b, 0, c, d, 0, 0, 0, 1 << 30];
        assert_eq!(turned(matrix(ONE, 0, 0, ONE)), [0, 1, 2, 3]);
        assert_eq!(turned(matrix(0, ONE, -ONE, 0)), [2, 0, 3, 1]); // clockwise
        assert_eq!(turned(matrix(-ONE, 0, 0, -ONE)), [3, 2, 1, 0]);
        assert_eq!(turned(matrix(0, -ONE, ONE, 0)), [1, 3, 0, 2]); // counter-clockwise
        assert_eq!(turned(matrix(-ONE, 0, 0, ONE)), [1, 0, 3, 2]);
        assert_eq!(turned(matrix(0, ONE, ONE, 0)), [0, 2, 1, 3]);
    }

    #[test]
    fn a_short_matrix_is_ignored() {
        assert_eq!(Orientation::from_matrix(&[1, 2, 3]), Orientation::default());
    }
}
