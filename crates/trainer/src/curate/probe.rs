//! Whether media can be read.

use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use anyhow::Result;
use foveate_video::read_picture;

use crate::config::OnBadExample;
use crate::data::{Loader, LoaderOptions, LoaderState, Order, Source};
use crate::error::one_line;
use crate::run::Progress;

/// Length of a video in seconds, none of an image or a folder of pictures; or why it cannot be read.
type Found = Result<Option<f64>, String>;

/// Opens all media (and whether each is a video), on all cores, and hands what was found of each to `with`, in their order.
///
/// # Errors
/// The threads cannot be started.
pub(super) fn each(media: Vec<(PathBuf, bool)>, mut with: impl FnMut(Found)) -> Result<()> {
    const BATCH: usize = 64;
    let count = media.len();
    let threads = available_parallelism().map_or(1, usize::from);
    let options = LoaderOptions { depth: BATCH, threads, on_bad: OnBadExample::Skip };
    let mut loader = Loader::new(Media(media), Order::Once(count), options, LoaderState::default())?;
    let mut progress = Progress::start(0, count as u64);
    while loader.state().position < count as u64 {
        loader.batch(BATCH)?.examples.into_iter().for_each(&mut with);
        progress.at(loader.state().position, "media opened");
    }
    progress.finish();
    Ok(())
}

/// Files, and whether they are to be videos.
struct Media(Vec<(PathBuf, bool)>);

impl Source for Media {
    /// A medium that cannot be read is found out, and no bad example.
    type Item = Found;

    fn count(&self) -> usize {
        self.0.len()
    }

    fn name(&self, index: usize) -> String {
        self.0[index].0.display().to_string()
    }

    fn prepare(&self, index: usize) -> Result<Found> {
        let (path, is_video) = &self.0[index];
        Ok(seconds(path, *is_video).map_err(|error| one_line(&error)))
    }
}

/// Length of a video in seconds, after a frame of it was decoded; `None` for an image that could be read, or a folder of
/// which a picture could.
///
/// # Errors
/// It cannot be read, or this build has no decoder.
fn seconds(path: &Path, is_video: bool) -> Result<Option<f64>> {
    if is_video {
        return Ok(Some(video(path)?).filter(|_| !path.is_dir()));
    }
    read_picture(path)?;
    Ok(None)
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
