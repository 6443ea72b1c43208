//! What the commands are told that train, evaluate and measure.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use foveate_data::Format;
use foveate_policy::{Precision, Recompute};

use super::{SettingsArgs, word};

/// What `sft` is told.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  trainer sft --model DIR --set data.train=warm.jsonl --output DIR2")]
pub struct SftArgs {
    /// Model directory to begin from
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Begin from random weights; of the model directory only configuration and tokenizer are used
    #[arg(long)]
    pub from_scratch: bool,
    /// Folder that the trained model is saved to
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Configuration: `data`, `optim`, `run` and `sft` are used.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// What `eval` is told.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "An evaluation that was stopped goes on where it was, if it is asked for again.\n\nExamples:\n  \
    trainer eval --model DIR --data videomme.json --benchmark video-mme --output items.jsonl\n  \
    trainer eval --model DIR --data test.jsonl --ablate shuffle --output items.jsonl\n  \
    trainer eval --model DIR --describe-with DIR2 --data test.jsonl --output described.jsonl\n  \
    trainer eval --model DIR --frames-from SELECTOR --frames 8 --data test.jsonl --output picked.jsonl\n  \
    trainer eval --compare before.jsonl after.jsonl"
)]
pub struct EvalArgs {
    /// Model directory
    #[arg(long, value_name = "DIR", required_unless_present = "compare")]
    pub model: Option<PathBuf>,
    /// Questions: a file of records, or a folder of files [default: `data.test`]
    #[arg(long, value_name = "FILE", visible_alias = "input")]
    pub data: Option<PathBuf>,
    /// Data set that the questions are written as (docs/data.md) [default: `data.test_format`]
    #[arg(long, value_name = "NAME")]
    pub benchmark: Option<Format>,
    /// File for every item with its answer
    #[arg(long, value_name = "FILE", required_unless_present = "compare")]
    pub output: Option<PathBuf>,
    /// Answer once more with less of the video, and say what it made of the accuracy
    #[arg(long, value_enum)]
    pub ablate: Option<Ablation>,
    /// Answer from the frames that this selector picks for each question, in place of those that are sampled
    /// (`eval.frames.from`)
    #[arg(long, value_name = "DIR", conflicts_with = "compare")]
    pub frames_from: Option<PathBuf>,
    /// With --frames-from: how many it picks (`eval.frames.picks`)
    #[arg(long, value_name = "N", requires = "frames_from", value_parser = clap::value_parser!(u16).range(1..))]
    pub frames: Option<u16>,
    /// Have this model describe the media of each question first, and answer from its words alone (perception against
    /// reasoning)
    #[arg(long, value_name = "DIR", conflicts_with_all = ["ablate", "compare"])]
    pub describe_with: Option<PathBuf>,
    /// With --describe-with: what the description is asked by, a name or a .toml file as for `data.prompt`
    #[arg(long, value_name = "PROMPT", default_value = "describe", requires = "describe_with")]
    pub describe_prompt: String,
    /// With --describe-with: longest description, in tokens
    #[arg(long, value_name = "N", default_value_t = 512, requires = "describe_with", value_parser = clap::value_parser!(u32).range(1..))]
    pub describe_tokens: u32,
    /// Compare two files of items by their examples, and do nothing else
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"], conflicts_with_all = ["model", "data", "benchmark", "output", "ablate"])]
    pub compare: Option<Vec<PathBuf>>,
    /// Algorithm whose file says how questions are put, answered and judged
    #[arg(long, value_name = "NAME")]
    pub algo: Option<String>,
    /// Configuration: `model`, `data`, `eval` and `reward` are used.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// What is taken from a question's media.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ablation {
    /// No media: text alone
    Blind,
    /// The frames in a random order
    Shuffle,
    /// Nothing but the first frame
    FirstFrame,
    /// The media of another question
    OtherVideo,
}

/// What `bench` is told.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  trainer bench --shape configs/bench/cpu-small.json --mode update --threads 2")]
pub struct BenchArgs {
    /// Dimensions of the model and the step's work, as JSON; configs/bench has some
    #[arg(long, value_name = "FILE", overrides_with = "shape")]
    pub shape: PathBuf,
    /// rollout, rollout-attn (with frame attention), rollouts (both in turn), update, score (without and with frame
    /// attention), or all of them, each in a process of its own
    #[arg(long, value_name = "MODE", default_value = "all", overrides_with = "mode")]
    pub mode: String,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// Number format of weights and activations: float32 or bfloat16
    #[arg(long, value_name = "DTYPE", default_value = "float32")]
    pub dtype: String,
    /// CPU threads of one operation
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(i32).range(1..))]
    pub threads: i32,
    /// Measured rounds, after one that warms up; the median round is reported
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Lengthen (or shorten) the prompt's text so that the prompt has N tokens, video included
    #[arg(long, value_name = "N")]
    pub prompt_tokens: Option<usize>,
    /// Tokens of each completion, in place of the shape's
    #[arg(long, value_name = "N")]
    pub completion_tokens: Option<usize>,
    /// Frames (temporal grids) of the video, in place of the shape's
    #[arg(long, value_name = "N")]
    pub frames: Option<usize>,
    /// Prompts of the step, each with its group of completions [default: 1]
    #[arg(long, value_name = "N")]
    pub groups: Option<usize>,
    /// update: most tokens of a pass, prompts included; 0: all in one
    #[arg(long, value_name = "N", default_value_t = 16384)]
    pub pass_tokens: usize,
    /// update: what a backward pass computes again: nothing or layers
    #[arg(long, value_name = "WHAT", default_value = "nothing", value_parser = word::<Recompute>)]
    pub recompute: Recompute,
    /// update: what is kept in f32 behind bfloat16 weights: float32, master or weights (nothing, as the peer)
    #[arg(long, value_name = "WHAT", default_value = "weights", value_parser = word::<Precision>)]
    pub precision: Precision,
    /// What the device can do at most, in 10^12 operations a second, for the share that is used (`mfu`)
    /// [default: 989 for bfloat16 on H100 and H200, else unknown]
    #[arg(long, value_name = "X")]
    pub peak_tflops: Option<f64>,
}

/// What `compare` is told.
#[derive(Debug, Clone, Args)]
#[command(after_help = "What was finished before is not run again, and what was stopped goes on.\n\nExample:\n  \
    trainer compare configs/compare/demo.toml --seeds 3 --set run.steps=100")]
pub struct CompareArgs {
    /// TOML file of rows; configs/compare and configs/ablations have some
    #[arg(value_name = "PLAN")]
    pub plan: PathBuf,
    /// Runs of each row, with the seeds 0 to N-1
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Runs side by side, each on one thread unless the settings name a number
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: u16,
    /// Folder of the runs [default: runs/compare-NAME, after the plan's name]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// File for the report [default: report.md in the folder of the runs]
    #[arg(long, value_name = "FILE", overrides_with = "report")]
    pub report: Option<PathBuf>,
    /// What all rows have in common; a row's own settings stand above it.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// What `reward` is told.
#[derive(Debug, Clone, Args)]
#[command(after_help = "A line is {\"problem_type\", \"solution\", \"completion\", \"scorers\": [\"accuracy\", ..], \
    \"time_clues\"?}; other fields are passed on.\n\nExample:\n  trainer reward --input completions.jsonl --output judged.jsonl")]
pub struct RewardArgs {
    /// Completions, one JSON record a line
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// File for the same lines with their `breakdown`
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
}
