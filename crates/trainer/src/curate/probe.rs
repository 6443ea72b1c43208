//! Whether a medium can be read.

use std::path::Path;

use anyhow::{Context, Result};

/// Length of a video in seconds, after a frame of it was decoded; `None` for an image that could be read.
///
/// # Errors
/// It cannot be read, or this build has no decoder.
pub(super) fn seconds(path: &Path) -> Result<Option<f64>> {
    let named = || path.display().to_string();
    let image = image::ImageReader::open(path).with_context(named)?.with_guessed_format().with_context(named)?;
    if image.format().is_some() {
        image.decode().with_context(named)?;
        return Ok(None);
    }
    video(path).map(Some)
}

#[cfg(feature = "decode")]
fn video(path: &Path) -> Result<f64> {
    use foveate_video::{DecodeLimits, Sampling, decode};
    Ok(decode(path, &Sampling::Uniform { frames: 1 }, &DecodeLimits::default())?.duration)
}

#[cfg(not(feature = "decode"))]
fn video(path: &Path) -> Result<f64> {
    anyhow::bail!("{}: this build cannot decode videos", path.display())
}
