//! Whether media can be read.

use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use anyhow::{Context, Result};

use crate::config::OnBadExample;
use crate::data::{Loader, LoaderOptions, LoaderState, Order, Source};
use crate::error::one_line;
use crate::run::Progress;

/// Length of a video in seconds, none of an image or a folder of pictures; or why it cannot be read.
type Found = Result<Option<f64>, String>;

/// Opens all media, on all cores, and hands what was found of each to `with`, in their order.
///
/// # Errors
/// The threads cannot be started.
pub(super) fn each(paths: Vec<PathBuf>, mut with: impl FnMut(Found)) -> Result<()> {
    const BATCH: usize = 64;
    let count = paths.len();
    let threads = available_parallelism().map_or(1, usize::from);
    let options = LoaderOptions { depth: BATCH, threads, on_bad: OnBadExample::Skip };
    let mut loader = Loader::new(Media(paths), Order::Once(count), options, LoaderState::default())?;
    let mut progress = Progress::start(0, count as u64);
    while loader.state().position < count as u64 {
        loader.batch(BATCH)?.examples.into_iter().for_each(&mut with);
        progress.at(loader.state().position, "media opened");
    }
    progress.finish();
    Ok(())
}

struct Media(Vec<PathBuf>);

impl Source for Media {
    /// A medium that cannot be read is found out, and no bad example.
    type Item = Found;

    fn count(&self) -> usize {
        self.0.len()
    }

    fn name(&self, index: usize) -> String {
        self.0[index].display().to_string()
    }

    fn prepare(&self, index: usize) -> Result<Found> {
        Ok(seconds(&self.0[index]).map_err(|error| one_line(&error)))
    }
}

/// Length of a video in seconds, after a frame of it was decoded; `None` for an image or a folder that could be read.
///
/// # Errors
/// It cannot be read, or this build has no decoder.
fn seconds(path: &Path) -> Result<Option<f64>> {
    let named = || path.display().to_string();
    if path.is_dir() {
        // Its pictures are read at any rate, which says nothing of its length.
        return video(path).map(|_| None);
    }
    let image = image::ImageReader::open(path).with_context(named)?.with_guessed_format().with_context(named)?;
    if image.format().is_some() {
        image.decode().with_context(named)?;
        return Ok(None);
    }
    video(path).map(Some)
}

#[cfg(feature = "decode")]
fn video(path: &Path) -> Result<f64> {
    use foveate_video::{DecodeOptions, Sampling, decode};
    let options = DecodeOptions { folder_fps: Some(1.0), ..DecodeOptions::default() };
    Ok(decode(path, &Sampling::Uniform { frames: 1 }, &options)?.duration)
}

#[cfg(not(feature = "decode"))]
fn video(path: &Path) -> Result<f64> {
    anyhow::bail!("{}: this build cannot decode videos", path.display())
}
