//! `trainer data scenes`, and the scenes of the embedded default, which are rendered on first use.

use std::path::{Path, PathBuf};
#[cfg(feature = "decode")]
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
#[cfg(not(feature = "decode"))]
use anyhow::bail;
#[cfg(feature = "decode")]
use foveate_video::VideoError;
use foveate_video::scenes::{KindWeights, LongSpec, SceneSpec, Split, write_lookup};
#[cfg(feature = "decode")]
use foveate_video::scenes::{Written, write, write_long};

use crate::cli::{FrameRange, ScenesArgs};
use crate::config::Demo;
#[cfg(feature = "decode")]
use crate::run::Progress;

/// Scenes to train on.
pub(crate) const TRAIN: usize = 4096;
/// Held-out scenes.
pub(crate) const TEST: usize = 500;
/// Long scenes to train on, and held-out ones, with two questions each; and their frames.
const LONG_TRAIN: usize = 1024;
const LONG_TEST: usize = 200;
const LONG_FRAMES: usize = 64;

/// Renders what is asked for and says where it is.
///
/// # Errors
/// The videos cannot be encoded or written.
pub fn run(args: &ScenesArgs) -> Result<()> {
    let sets = [(Split::Train, args.train), (Split::Test, args.test), (Split::Sft, args.sft)];
    for (split, count) in sets {
        match &args.long {
            _ if count == 0 => {}
            None => render(&args.output, &spec(args.seed, split, count))?,
            Some(FrameRange(frames)) => {
                let spec = LongSpec { seed: args.seed, count, split, frames: *frames, depth: args.depth };
                render_long(&args.output, &spec)?;
            }
        }
    }
    if args.lookup > 0 {
        let path = write_lookup(&args.output, args.seed, args.lookup)?;
        tracing::info!("{}: {} look-ups", path.display(), args.lookup);
    }
    Ok(())
}

/// Sees to it that the embedded default's scenes are there; those that are, are used as they are.
///
/// # Errors
/// They cannot be encoded or written.
pub fn ensure(demo: &Demo) -> Result<()> {
    if demo.is_long() {
        for (split, count) in [(Split::Train, LONG_TRAIN), (Split::Test, LONG_TEST)] {
            let spec = LongSpec { seed: 0, count, split, frames: [LONG_FRAMES; 2], depth: None };
            render_long(&demo.scenes(), &spec)?;
        }
        return Ok(());
    }
    for (split, count) in [(Split::Train, TRAIN), (Split::Test, TEST)] {
        render(&demo.scenes(), &spec(0, split, count))?;
    }
    Ok(())
}

/// The file of `count` questions about long scenes of so many frames whose event lies at that depth; they are rendered if
/// they are not there.
///
/// # Errors
/// They cannot be encoded or written.
pub(crate) fn haystack(folder: &Path, frames: usize, depth: f64, count: usize) -> Result<PathBuf> {
    let folder = folder.join(format!("{frames}-{:.0}", 100.0 * depth));
    // Other scenes for every length and depth.
    let seed = 1000 * frames as u64 + (100.0 * depth).round() as u64;
    render_long(&folder, &LongSpec { seed, count, split: Split::Test, frames: [frames; 2], depth: Some(depth) })?;
    Ok(folder.join(format!("{}.jsonl", Split::Test.word())))
}

fn spec(seed: u64, split: Split, count: usize) -> SceneSpec {
    let kinds = match split {
        Split::Sft => KindWeights::COLD_START,
        Split::Train | Split::Test => KindWeights::default(),
    };
    SceneSpec { seed, count, split, kinds }
}

#[cfg(feature = "decode")]
fn render(folder: &Path, spec: &SceneSpec) -> Result<()> {
    shown(spec.split, spec.count, &|each| write(folder, spec, each))
}

#[cfg(feature = "decode")]
fn render_long(folder: &Path, spec: &LongSpec) -> Result<()> {
    shown(spec.split, spec.count, &|each| write_long(folder, spec, each))
}

/// A writer of a set of scenes, which tells how many are done.
#[cfg(feature = "decode")]
type Writer<'a> = &'a dyn Fn(&(dyn Fn(usize) + Sync)) -> Result<Written, VideoError>;

#[cfg(feature = "decode")]
fn shown(split: Split, count: usize, write: Writer<'_>) -> Result<()> {
    let progress = Mutex::new(Progress::start(0, count as u64));
    let split = split.word();
    let written = write(&|done| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.at(done as u64, &format!("scenes rendered ({split})"));
    })?;
    progress.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
    let how = if written.reused { "there already" } else { "rendered" };
    tracing::info!("{}: {count} scenes, {how}", written.records.display());
    Ok(())
}

#[cfg(not(feature = "decode"))]
fn render(folder: &Path, spec: &SceneSpec) -> Result<()> {
    there(folder, spec.split)
}

#[cfg(not(feature = "decode"))]
fn render_long(folder: &Path, spec: &LongSpec) -> Result<()> {
    there(folder, spec.split)
}

#[cfg(not(feature = "decode"))]
fn there(folder: &Path, split: Split) -> Result<()> {
    let records = folder.join(format!("{}.jsonl", split.word()));
    if records.is_file() {
        return Ok(());
    }
    bail!("{}: not there, and this build has no FFmpeg to render scenes with", records.display())
}
