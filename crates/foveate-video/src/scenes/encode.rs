//! H.264 files of scenes.

use std::path::Path;

use ffmpeg::codec::{self, encoder};
use ffmpeg::format::{self, Pixel};
use ffmpeg::software::scaling;
use ffmpeg::{Dictionary, Rational, frame};
use ffmpeg_next as ffmpeg;
use image::RgbImage;

use super::FPS;
use crate::VideoError;
use crate::files::temporary_name;

/// Ticks per frame of the encoder's time stamps.
const TIME_BASE: Rational = Rational(1, FPS as i32);

/// Encodes frames as H.264 yuv420p in an .mp4 file; the same frames give the same bytes.
pub(super) fn encode(path: &Path, frames: &[RgbImage]) -> Result<(), VideoError> {
    let failed = |reason: String| VideoError::Encode { path: path.to_owned(), reason };
    let temporary = temporary_name(path);
    if temporary.to_str().is_none_or(|p| p.contains('\0')) {
        return Err(failed("expected a path in UTF-8".to_owned()));
    }
    crate::decode::quiet_ffmpeg().map_err(|e| failed(e.to_string()))?;
    let done = write_file(&temporary, frames).map_err(|e| failed(e.to_string())).and_then(|()| {
        std::fs::rename(&temporary, path).map_err(|e| VideoError::Io { path: path.to_owned(), source: e })
    });
    if done.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    done
}

fn write_file(path: &Path, frames: &[RgbImage]) -> Result<(), ffmpeg::Error> {
    let (width, height) = frames.first().map(RgbImage::dimensions).ok_or(ffmpeg::Error::InvalidData)?;
    let mut output = format::output_as(path, "mp4")?;
    let mut encoder = open_encoder(width, height, &output)?;
    output.add_stream(codec::Id::H264)?.set_parameters(&encoder);
    let mut options = Dictionary::new();
    options.set("fflags", "+bitexact"); // no library version or date in the file
    output.write_header_with(options)?;
    let flags = scaling::Flags::BICUBIC | scaling::Flags::ACCURATE_RND | scaling::Flags::FULL_CHR_H_INP;
    let mut converter = scaling::Context::get(Pixel::RGB24, width, height, Pixel::YUV420P, width, height, flags)?;
    for (index, image) in frames.iter().enumerate() {
        let mut picture = frame::Video::empty();
        converter.run(&as_frame(image), &mut picture)?;
        picture.set_pts(Some(index as i64));
        encoder.send_frame(&picture)?;
        drain(&mut encoder, &mut output)?;
    }
    encoder.send_eof()?;
    drain(&mut encoder, &mut output)?;
    output.write_trailer()
}

fn open_encoder(width: u32, height: u32, output: &format::context::Output) -> Result<encoder::Video, ffmpeg::Error> {
    let h264 = encoder::find_by_name("libx264").ok_or(ffmpeg::Error::EncoderNotFound)?;
    let mut encoder = codec::Context::new_with_codec(h264).encoder().video()?;
    encoder.set_width(width);
    encoder.set_height(height);
    encoder.set_format(Pixel::YUV420P);
    encoder.set_time_base(TIME_BASE);
    encoder.set_frame_rate(Some(Rational(FPS as i32, 1)));
    let mut flags = codec::Flags::BITEXACT;
    if output.format().flags().contains(format::Flags::GLOBAL_HEADER) {
        flags |= codec::Flags::GLOBAL_HEADER;
    }
    encoder.set_flags(flags);
    let mut options = Dictionary::new();
    // One thread: the bytes must not depend on the machine. Quality high enough for colours to survive 4:2:0.
    for (key, value) in [("preset", "superfast"), ("crf", "12"), ("threads", "1")] {
        options.set(key, value);
    }
    encoder.open_with(options)
}

fn as_frame(image: &RgbImage) -> frame::Video {
    let mut picture = frame::Video::new(Pixel::RGB24, image.width(), image.height());
    let (stride, length) = (picture.stride(0), 3 * image.width() as usize);
    for (line, row) in picture.data_mut(0).chunks_mut(stride).zip(image.as_raw().chunks_exact(length)) {
        line[..length].copy_from_slice(row);
    }
    picture
}

fn drain(encoder: &mut encoder::Video, output: &mut format::context::Output) -> Result<(), ffmpeg::Error> {
    let target = output.stream(0).ok_or(ffmpeg::Error::StreamNotFound)?.time_base();
    let mut packet = ffmpeg::Packet::empty();
    loop {
        match encoder.receive_packet(&mut packet) {
            Ok(()) => {
                packet.set_stream(0);
                packet.set_duration(1);
                packet.rescale_ts(TIME_BASE, target);
                packet.write_interleaved(output)?;
            }
            Err(ffmpeg::Error::Eof) => return Ok(()),
            Err(ffmpeg::Error::Other { errno }) if errno == ffmpeg::error::EAGAIN => return Ok(()),
            Err(other) => return Err(other),
        }
    }
}
