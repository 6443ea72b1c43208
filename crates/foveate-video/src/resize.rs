//! Antialiased bicubic resize of 8-bit pictures, bit for bit as PIL does it (torchvision's stays within 1 level).
//!
//! Two passes, rows first, with 22-bit fixed-point weights; the result of the first pass is rounded and clamped to
//! 8 bits before the second. Ready-made resizers skip that rounding, which shows on enlarged noise.

use image::RgbImage;
use rayon::prelude::*;

const PRECISION_BITS: u32 = 22;
/// Half-width of the bicubic kernel, in source pixels at scale 1.
const SUPPORT: f64 = 2.0;

/// Resizes to `width` x `height` with PIL's `BICUBIC` (a = -0.5).
pub fn resize_bicubic(image: &RgbImage, (width, height): (u32, u32)) -> RgbImage {
    let mut current = image.clone();
    if current.width() != width {
        current = horizontal(&current, width);
    }
    if current.height() != height {
        current = vertical(&current, height);
    }
    current
}

/// Weights of one output pixel: where they start in the input, and their fixed-point values.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

fn taps(input: u32, output: u32) -> Vec<Taps> {
    let scale = f64::from(input) / f64::from(output);
    let stretch = scale.max(1.0);
    let support = SUPPORT * stretch;
    (0..output)
        .map(|x| {
            let center = (f64::from(x) + 0.5) * scale;
            // Truncation towards zero, as the C code does, then clamping.
            let start = ((center - support + 0.5) as i64).max(0) as usize;
            let end = ((center + support + 0.5) as i64).min(i64::from(input)) as usize;
            let raw: Vec<f64> = (start..end).map(|i| kernel((i as f64 - center + 0.5) / stretch)).collect();
            let sum: f64 = raw.iter().sum();
            let weights = raw.iter().map(|w| fixed_point(if sum == 0.0 { *w } else { w / sum })).collect();
            Taps { start, weights }
        })
        .collect()
}

fn kernel(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION_BITS);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn horizontal(image: &RgbImage, width: u32) -> RgbImage {
    let taps = taps(image.width(), width);
    let mut out = RgbImage::new(width, image.height());
    let source_stride = 3 * image.width() as usize;
    let rows = image.as_raw().par_chunks_exact(source_stride);
    out.par_chunks_exact_mut(3 * width as usize).zip(rows).for_each(|(out_row, row)| {
        for (pixel, tap) in out_row.chunks_exact_mut(3).zip(&taps) {
            let mut sums = [HALF; 3];
            for (source, weight) in row[3 * tap.start..].chunks_exact(3).zip(&tap.weights) {
                for channel in 0..3 {
                    sums[channel] += i32::from(source[channel]) * weight;
                }
            }
            pixel.copy_from_slice(&sums.map(clip));
        }
    });
    out
}

fn vertical(image: &RgbImage, height: u32) -> RgbImage {
    let taps = taps(image.height(), height);
    let mut out = RgbImage::new(image.width(), height);
    let stride = 3 * image.width() as usize;
    out.par_chunks_exact_mut(stride).zip(&taps).for_each(|(out_row, tap)| {
        let mut sums = vec![HALF; stride];
        for (row, weight) in image.as_raw()[stride * tap.start..].chunks_exact(stride).zip(&tap.weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        for (value, sum) in out_row.iter_mut().zip(sums) {
            *value = clip(sum);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_picture_stays_flat() {
        let image = RgbImage::from_pixel(31, 17, image::Rgb([7, 130, 255]));
        for size in [(5, 5), (64, 3), (31, 17), (90, 91)] {
            assert!(resize_bicubic(&image, size).pixels().all(|p| p.0 == [7, 130, 255]));
        }
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let image = RgbImage::from_fn(9, 4, |x, y| image::Rgb([(x * 20) as u8, (y * 60) as u8, 3]));
        assert_eq!(resize_bicubic(&image, (9, 4)), image);
    }
}
