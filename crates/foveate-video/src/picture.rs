//! Pictures in files.

use std::path::Path;

use image::{ImageReader, RgbImage};

use crate::VideoError;

/// Reads a picture, whatever its name ends in.
///
/// # Errors
/// [`VideoError::Missing`] or [`VideoError::Io`] if the file cannot be opened; [`VideoError::BadFile`] if it is no picture.
pub fn read_picture(path: &Path) -> Result<RgbImage, VideoError> {
    let opened = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
    let picture = opened.map_err(|e| VideoError::io(path, e))?.decode();
    let picture = picture.map_err(|e| VideoError::BadFile { path: path.to_owned(), reason: e.to_string() })?;
    Ok(picture.into_rgb8())
}
