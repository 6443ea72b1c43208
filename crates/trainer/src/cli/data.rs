//! What `trainer data` is told.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use foveate_data::{Format, Style};
use foveate_video::scenes::FEWEST;

use super::{SettingsArgs, word};
use crate::scenes;

/// What `data` can do.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Render the synthetic scenes: real H.264 videos and their questions
    #[command(after_help = "Examples:\n  trainer data scenes --output data/scenes --train 4096 --test 500\n  \
        trainer data scenes --long 64 --output data/long-scenes --train 512 --test 200")]
    Scenes(ScenesArgs),
    /// Write configuration and tokenizer of the embedded tiny model, for `sft --from-scratch`
    #[command(after_help = "Example:\n  trainer data tiny-vlm --output data/tiny-vlm")]
    TinyVlm(TinyArgs),
    /// Decode the videos of a file of records once, into a folder that training reads (`data.cache`)
    #[command(
        after_help = "Example:\n  trainer data prepare --algo appo --model DIR --input train.jsonl --cache frames"
    )]
    Prepare(PrepareArgs),
    /// Write a data set as foveate's own records
    #[command(
        after_help = "Example:\n  trainer data convert --input Video-R1-260k.json --format video-r1 --output train.jsonl"
    )]
    Convert(ConvertArgs),
    /// Negate questions, so that what was wrong becomes right (question-answer inversion, TW-GRPO)
    #[command(
        after_help = "Example:\n  trainer data invert --style next-gqa --input nextgqa.json --format next-gqa --output mixed.jsonl"
    )]
    Invert(InvertArgs),
    /// Keep the records that are worth training on
    #[command(
        after_help = "A filter by a model's judgement that was stopped goes on where it was, if it is asked for again.\n\n\
        Example:\n  trainer data filter --by difficulty --model DIR --input train.jsonl --output hard.jsonl"
    )]
    Filter(FilterArgs),
    /// Count what is in a file of records, and what is missing
    #[command(after_help = "Example:\n  trainer data inspect --input Video-R1-260k.json --format video-r1 --probe")]
    Inspect(InspectArgs),
}

/// Which records a command is about.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// Records: a file, or a folder of files
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Data set that they are written as (docs/data.md)
    #[arg(long, value_name = "NAME", default_value_t)]
    pub format: Format,
    /// Folder that media paths are relative to [default: that of the records]
    #[arg(long, value_name = "DIR")]
    pub media_root: Option<PathBuf>,
}

/// What `data convert` is told.
#[derive(Debug, Clone, Args)]
pub struct ConvertArgs {
    /// The records.
    #[command(flatten)]
    pub source: SourceArgs,
    /// File for foveate's own records
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
}

/// What `data invert` is told.
#[derive(Debug, Clone, Args)]
pub struct InvertArgs {
    /// The records.
    #[command(flatten)]
    pub source: SourceArgs,
    /// File for foveate's own records
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Whose words are negated: `next-gqa` (the second word) or `star` (the beginning, or the second word)
    #[arg(long, value_name = "STYLE", value_parser = word::<Style>)]
    pub style: Style,
    /// Probability that a question is inverted
    #[arg(long, value_name = "P", default_value_t = 0.5, value_parser = probability)]
    pub probability: f64,
    /// Invert answers even where the wording cannot be negated, as the released script does
    #[arg(long)]
    pub as_released: bool,
    /// Seed: the same gives the same file
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

fn probability(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// By what records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Criterion {
    /// A model solves them sometimes, but not always (Video-KTR: 20% to 80% of 8 samples)
    Difficulty,
    /// They are of one of the `--kind`s
    Kind,
    /// They ask what none before them asked
    Duplicates,
    /// Words of question and options
    Length,
    /// A model's answer depends on the frames that it is shown (ReFoCUS: variance above 0.21 over 16 sets of 32)
    FrameSensitivity,
}

/// What `data filter` is told.
#[derive(Debug, Clone, Args)]
pub struct FilterArgs {
    /// The records.
    #[command(flatten)]
    pub source: SourceArgs,
    /// File for foveate's own records
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// By what records are kept
    #[arg(long, value_enum)]
    pub by: Criterion,
    /// Kinds of questions (kind); may be given several times
    #[arg(long = "kind", value_name = "NAME")]
    pub kinds: Vec<String>,
    /// Fewest words (length)
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub min_words: usize,
    /// Most words (length)
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    pub max_words: usize,
    /// Model directory (difficulty, frame-sensitivity)
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Completions of each question (difficulty)
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub samples: usize,
    /// Least share of right ones (difficulty)
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, value_parser = probability)]
    pub min_accuracy: f64,
    /// Greatest share of right ones (difficulty)
    #[arg(long, value_name = "SHARE", default_value_t = 0.8, value_parser = probability)]
    pub max_accuracy: f64,
    /// Frames of each set (frame-sensitivity)
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub subset_frames: usize,
    /// What the variance of the margins must exceed (frame-sensitivity)
    #[arg(long, value_name = "V", default_value_t = 0.21)]
    pub min_variance: f64,
    /// File for the margins of every question [default: the output's name with .margins.jsonl] (frame-sensitivity)
    #[arg(long, value_name = "FILE")]
    pub margins: Option<PathBuf>,
    /// Algorithm whose file says how frames are sampled and completions drawn (difficulty, frame-sensitivity)
    #[arg(long, value_name = "NAME")]
    pub algo: Option<String>,
    /// Configuration: `model` and `data` are used, `rollout` (difficulty), `scorer` (frame-sensitivity).
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// What `data inspect` is told.
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// The records.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Open every medium and decode a frame of it
    #[arg(long)]
    pub probe: bool,
    /// File for the same as JSON
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
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
    /// Long scenes instead, of so many frames (64, or 64-512): two events of 2 to 4 frames, a question about each
    #[arg(long, value_name = "FRAMES", value_parser = frames, conflicts_with = "lookup")]
    pub long: Option<FrameRange>,
    /// With --long: where the event lies, as a share of the video from 0 to 1; there is one question then
    #[arg(long, value_name = "DEPTH", requires = "long", value_parser = probability)]
    pub depth: Option<f64>,
    /// Seed of all scenes; sets never share one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

/// Fewest and most frames of a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRange(pub [usize; 2]);

fn frames(text: &str) -> Result<FrameRange, String> {
    let (fewest, most) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.trim().parse().ok().filter(|frames| (FEWEST..=65_536).contains(frames));
    match (number(fewest), number(most)) {
        (Some(fewest), Some(most)) if fewest <= most => Ok(FrameRange([fewest, most])),
        _ => Err(format!("expected a number of frames of at least {FEWEST}, or a range as in 64-512")),
    }
}

/// What `data tiny-vlm` is told.
#[derive(Debug, Clone, Args)]
pub struct TinyArgs {
    /// Folder that the files are written to
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
}

/// Whose frames and pixels are prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SeenBy {
    /// `data.frames` and `data.pixels`
    Training,
    /// `eval.frames` and `eval.pixels`
    Evaluation,
}

/// What `data prepare` is told.
#[derive(Debug, Clone, Args)]
pub struct PrepareArgs {
    /// Algorithm that will train on the frames: its file says which frames and pixels
    #[arg(long, value_name = "NAME")]
    pub algo: Option<String>,
    /// Model directory, whose preprocessor gives the sizes [default with --video: the released Qwen2.5-VL's]
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Records: a file, or a folder of files
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Data set that they are written as (docs/data.md) [default: `data.format`]
    #[arg(long, value_name = "NAME")]
    pub format: Option<Format>,
    /// Folder of prepared frames
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// As what they are to be seen
    #[arg(long = "for", value_enum, value_name = "WHAT", default_value = "training")]
    pub seen: SeenBy,
    /// Most that the folder may hold, GiB
    #[arg(long, value_name = "GIB")]
    pub max_gib: Option<f64>,
    /// Prepare one video into a file of tensors instead, named as Hugging Face's processor names them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input", "format", "cache", "max_gib", "algo", "config", "set"])]
    pub video: Option<PathBuf>,
    /// Frames of that video, evenly
    #[arg(long, value_name = "N", default_value_t = 16, requires = "video", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub num_frames: u32,
    /// Fewest pixels of a frame of that video [default: the preprocessor's]
    #[arg(long, value_name = "N", requires = "video")]
    pub min_pixels: Option<usize>,
    /// Most pixels of a frame of that video [default: the preprocessor's]
    #[arg(long, value_name = "N", requires = "video")]
    pub max_pixels: Option<usize>,
    /// Pictures a second, if that video is a folder of pictures
    #[arg(long, value_name = "FPS", requires = "video")]
    pub folder_fps: Option<f64>,
    /// File for that video's tensors
    #[arg(long, value_name = "FILE", requires = "video")]
    pub output: Option<PathBuf>,
    /// Configuration: `data.frames`, `data.pixels` and `data.decode` are used.
    #[command(flatten)]
    pub settings: SettingsArgs,
}
