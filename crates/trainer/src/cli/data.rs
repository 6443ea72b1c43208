//! What `trainer data` is told.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::SettingsArgs;
use crate::scenes;

/// What `data` can do.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Render the synthetic scenes: real H.264 videos and their questions
    #[command(after_help = "Example:\n  trainer data scenes --output data/scenes --train 4096 --test 500")]
    Scenes(ScenesArgs),
    /// Write configuration and tokenizer of the embedded tiny model, for `sft --from-scratch`
    #[command(after_help = "Example:\n  trainer data tiny-vlm --output data/tiny-vlm")]
    TinyVlm(TinyArgs),
    /// Decode the videos of a file of records once, into a folder that training reads (`data.cache`)
    #[command(
        after_help = "Example:\n  trainer data prepare --algo appo --model DIR --input train.jsonl --cache frames"
    )]
    Prepare(PrepareArgs),
}

/// What `data scenes` is told.
#[derive(Debug, Clone, Args)]
pub struct ScenesArgs {
    /// Folder that the videos and a record file per set are written to
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Scenes to train on (train.jsonl)
    #[arg(long, value_name = "N", default_value_t = scenes::TRAIN)]
    pub train: usize,
    /// Held-out scenes (test.jsonl)
    #[arg(long, value_name = "N", default_value_t = scenes::TEST)]
    pub test: usize,
    /// Scenes for the supervised warm start (sft.jsonl)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub sft: usize,
    /// Text-only look-ups for the supervised warm start (lookup.jsonl)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub lookup: usize,
    /// Seed of all scenes; sets never share one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// What `data tiny-vlm` is told.
#[derive(Debug, Clone, Args)]
pub struct TinyArgs {
    /// Folder that the files are written to
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
}

/// What `data prepare` is told.
#[derive(Debug, Clone, Args)]
pub struct PrepareArgs {
    /// Algorithm that will train on the frames: its file says which frames and pixels
    #[arg(long, value_name = "NAME")]
    pub algo: Option<String>,
    /// Model directory, whose preprocessor gives the sizes
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Records, as foveate jsonl
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Folder of prepared frames
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,
    /// Configuration: `data.frames`, `data.pixels` and `data.decode` are used.
    #[command(flatten)]
    pub settings: SettingsArgs,
}
