//! `trainer data scenes`, and the scenes of the embedded default, which are rendered on first use.

use std::path::Path;
#[cfg(feature = "decode")]
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
#[cfg(not(feature = "decode"))]
use anyhow::bail;
#[cfg(feature = "decode")]
use foveate_video::scenes::write;
use foveate_video::scenes::{KindWeights, SceneSpec, Split, write_lookup};

use crate::cli::ScenesArgs;
use crate::config::Demo;
#[cfg(feature = "decode")]
use crate::run::Progress;

/// Scenes to train on.
pub(crate) const TRAIN: usize = 4096;
/// Held-out scenes.
pub(crate) const TEST: usize = 500;

/// Renders what is asked for and says where it is.
///
/// # Errors
/// The videos cannot be encoded or written.
pub fn run(args: &ScenesArgs) -> Result<()> {
    let sets = [(Split::Train, args.train), (Split::Test, args.test), (Split::Sft, args.sft)];
    for (split, count) in sets {
        if count > 0 {
            render(&args.output, &spec(args.seed, split, count))?;
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
    for (split, count) in [(Split::Train, TRAIN), (Split::Test, TEST)] {
        render(&demo.scenes(), &spec(0, split, count))?;
    }
    Ok(())
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
    let progress = Mutex::new(Progress::start(0, spec.count as u64));
    let split = spec.split.word();
    let written = write(folder, spec, &|done| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.at(done as u64, &format!("scenes rendered ({split})"));
    })?;
    progress.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
    let how = if written.reused { "there already" } else { "rendered" };
    tracing::info!("{}: {} scenes, {how}", written.records.display(), spec.count);
    Ok(())
}

#[cfg(not(feature = "decode"))]
fn render(folder: &Path, spec: &SceneSpec) -> Result<()> {
    let records = folder.join(format!("{}.jsonl", spec.split.word()));
    if records.is_file() {
        return Ok(());
    }
    bail!("{}: not there, and this build has no FFmpeg to render scenes with", records.display())
}
