//! The command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use foveate_policy::{AttentionMode, Precision, Recompute, runtime};
use serde::de::value::Error as WordError;
use serde::de::{DeserializeOwned, IntoDeserializer};

use crate::config::Layers;
use crate::error::UserContext;
use crate::run::init_log;
use crate::{analyze, attention, bench, compare, evaluate, explain, prepare, scenes, score, sft, tiny, train};

/// Reinforcement-learning post-training of video multimodal LLMs. Without a command, trains a policy.
#[derive(Debug, Parser)]
#[command(name = "trainer", version, args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Examples:\n  trainer --algo appo\n  trainer --algo appo --config mine.toml --set optim.lr=2e-6\n  \
    trainer --resume runs/appo-20260131-120000"
)]
pub struct Cli {
    /// Training, unless a command is given.
    #[command(flatten)]
    pub train: TrainArgs,
    /// Something else than training.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What training is told.
#[derive(Debug, Clone, Args)]
pub struct TrainArgs {
    /// Algorithm; its paper's settings are the first layer of the configuration
    #[arg(long, value_name = "NAME", conflicts_with = "resume")]
    pub algo: Option<String>,
    #[command(flatten)]
    /// Configuration.
    pub settings: SettingsArgs,
    /// Go on with the run in this folder
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "output"])]
    pub resume: Option<PathBuf>,
    /// Folder of the new run [default: one named by algorithm and time in `run.output`]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Say what would be done, with the memory it would take, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// The upper layers of the configuration.
#[derive(Debug, Clone, Default, Args)]
pub struct SettingsArgs {
    /// TOML file of settings
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting, over all files; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl SettingsArgs {
    /// The layers, for that algorithm.
    pub fn layers(&self, algo: Option<&str>) -> Layers {
        Layers { algo: algo.map(str::to_owned), config: self.config.clone(), set: self.set.clone() }
    }
}

/// Everything but training.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Teacher-forced log-probs, entropy and frame attention of given sequences
    Score(ScoreArgs),
    /// The credit that an algorithm gives to a recorded group
    Explain(ExplainArgs),
    /// Supervised warm start on (prompt, target) pairs
    Sft(SftArgs),
    /// Accuracy on a file of questions, with every answer kept
    Eval(EvalArgs),
    /// Where completions look: attention of response tokens over the frames of a video
    Attention(AttentionArgs),
    /// Tables and figures of a run, as the papers have them
    Analyze(AnalyzeArgs),
    /// Time and memory of rollout, update and scoring on random weights of a given shape
    Bench(BenchArgs),
    /// Train every row of a plan with several seeds, and write a report that compares them
    Compare(CompareArgs),
    /// Make and prepare data
    #[command(subcommand)]
    Data(DataCommand),
}

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

/// What `score` is told.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  trainer score --model DIR --inputs in.safetensors --output out.safetensors")]
pub struct ScoreArgs {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Token ids, masks and pixels, as Hugging Face's processor gives them
    #[arg(long, value_name = "FILE")]
    pub inputs: PathBuf,
    /// File for log-probs, entropy, frame attention and positions
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// How attention to frames is captured
    #[arg(long, value_name = "eager|fused", default_value = "fused", value_parser = word::<AttentionMode>)]
    pub attention: AttentionMode,
    /// Layers that frame attention is averaged over: all or last:N
    #[arg(long, value_name = "LAYERS", default_value = "last:3")]
    pub layers: foveate_algo::Layers,
    /// Also continue the first row's prompt greedily by so many tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub greedy: usize,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// Number format of weights and activations: float32 or bfloat16
    #[arg(long, value_name = "DTYPE", default_value = "float32")]
    pub dtype: String,
}

/// What `explain` is told.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  trainer explain --algo appo --rollouts RUN/rollouts/step-10/group-0.safetensors \
    --output credit.safetensors\n  trainer explain --compare --rollouts RUN/rollouts/step-10/group-0.safetensors \
    --set appo.k3=6 --output credit.html")]
pub struct ExplainArgs {
    /// Algorithm; with --compare several, A,B [default there: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', required_unless_present = "compare")]
    pub algo: Vec<String>,
    /// Show what every algorithm would reinforce: a page, the same as a table on standard output and as CSV
    #[arg(long)]
    pub compare: bool,
    /// Recorded group
    #[arg(long, value_name = "FILE")]
    pub rollouts: PathBuf,
    /// File for the credit of every token; with --compare the page, beside which the CSV file is put
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// --compare: model directory whose tokenizer shows tokens as text [default: that of the run which the group lies in]
    #[arg(long, value_name = "DIR", requires = "compare")]
    pub model: Option<PathBuf>,
    /// Configuration: `algo` is used. With --compare it is one algorithm's [default: that of the run], and --set NAME.key=value
    /// names whose setting it is.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// What `eval` is told.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  trainer eval --model RUN/checkpoints/step-200/policy --config RUN/config.toml \
    --output items.jsonl")]
pub struct EvalArgs {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Records to answer [default: `data.test`]
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// File for every item with its answer
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Configuration: `model`, `data`, `eval` and `reward` are used.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// What `attention` is told.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  trainer attention --model DIR --video clip.mp4 --question \"What moves?\" --options \"A. a car\" \
    \"B. a dog\" --output look\n  trainer attention --rollout RUN/rollouts/step-10/group-0.safetensors --output look"
)]
pub struct AttentionArgs {
    /// Model directory; with --rollout only its tokenizer is used [default there: that of the run]
    #[arg(long, value_name = "DIR", required_unless_present = "rollout")]
    pub model: Option<PathBuf>,
    /// Video that is asked about
    #[arg(long, value_name = "FILE", required_unless_present = "rollout")]
    pub video: Option<PathBuf>,
    /// The question
    #[arg(long, value_name = "TEXT", required_unless_present = "rollout")]
    pub question: Option<String>,
    /// Its options, such as "A. red" "B. blue"
    #[arg(long, value_name = "OPTION", num_args = 1..)]
    pub options: Vec<String>,
    /// Its answer, by which completions are scored
    #[arg(long, value_name = "TEXT")]
    pub answer: Option<String>,
    /// When the event is to be seen, in seconds; may be repeated
    #[arg(long, value_name = "START-END", value_parser = seconds)]
    pub event: Vec<[f64; 2]>,
    /// Completions that are drawn
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub completions: usize,
    /// Softmax temperature [default: 0, that is greedy, for one completion, `rollout.temperature` for more]
    #[arg(long, value_name = "X")]
    pub temperature: Option<f64>,
    /// Seed of the draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Layers that attention is averaged over: all or last:N; a recorded group has those that were recorded
    #[arg(long, value_name = "LAYERS", default_value = "last:3")]
    pub layers: foveate_algo::Layers,
    /// Recorded group, in place of a video and a question
    #[arg(long, value_name = "FILE", conflicts_with_all = ["video", "question", "options", "answer", "event"])]
    pub rollout: Option<PathBuf>,
    /// Completion of the recorded group; may be repeated [default: all]
    #[arg(long, value_name = "I", requires = "rollout")]
    pub completion: Vec<usize>,
    /// Folder for attention.html, attention.csv, frames.png and a picture of each completion
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// Configuration: `model`, `data.prompt`, `eval`, `reward` are used; with --rollout, --set changes the run's.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// What `analyze` is told.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  trainer analyze RUN\n  trainer analyze RUN --step 50 --step 100 --gradients 4 --output tables"
)]
pub struct AnalyzeArgs {
    /// Folder of the run, which may still go on
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Folder for index.html, tables and pictures [default: RUN/analysis]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Step whose recorded groups are read; may be repeated [default: all]
    #[arg(long, value_name = "N")]
    pub step: Vec<u64>,
    /// Tokens that a completion's attention to a frame is averaged over [default: the run's, or APPO's 15]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub k1: Option<usize>,
    /// Frames of each completion [default: the run's, or APPO's 3]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub k2: Option<usize>,
    /// Also compare the gradient of the tokens that are singled out with that of the others, in the last N recorded groups
    /// that have one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub gradients: usize,
    /// --gradients: policy directory [default: that of the run's newest checkpoint]
    #[arg(long, value_name = "DIR", requires = "gradients")]
    pub model: Option<PathBuf>,
}

/// What `bench` is told.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  trainer bench --shape configs/bench/cpu-small.json --mode update --threads 2")]
pub struct BenchArgs {
    /// Dimensions of the model and the step's work, as JSON; configs/bench has some
    #[arg(long, value_name = "FILE", overrides_with = "shape")]
    pub shape: PathBuf,
    /// rollout, rollout-attn (with frame attention), rollouts (both in turn), update, score (without and with frame attention), or all of them,
    /// each in a process of its own
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
    /// Measured rounds, after one that warms up; the median is reported
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
    #[arg(long, value_name = "WHAT", default_value = "float32", value_parser = word::<Precision>)]
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

/// A setting by its name in configurations.
fn word<T: DeserializeOwned>(name: &str) -> Result<T, WordError> {
    T::deserialize(name.into_deserializer())
}

/// A span of seconds, `1.5-3`.
fn seconds(text: &str) -> Result<[f64; 2], String> {
    let number = |part: &str| part.trim().parse::<f64>().ok().filter(|seconds| *seconds >= 0.0);
    let ends = text.split_once('-').and_then(|(start, end)| Some([number(start)?, number(end)?]));
    ends.filter(|[start, end]| start <= end).ok_or_else(|| "expected START-END in seconds, such as 1.5-3".to_owned())
}

/// A number of at least 1.
fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "expected a number of at least 1".to_owned())
}

/// Runs what the command line asks for.
///
/// # Errors
/// Whatever the command meets.
pub fn dispatch(cli: Cli) -> Result<()> {
    init_log(None)?;
    runtime::init().user()?;
    match cli.command {
        None => train::run(&cli.train),
        Some(Command::Score(args)) => score::run(&args),
        Some(Command::Explain(args)) => explain::run(&args),
        Some(Command::Sft(args)) => sft::run(&args),
        Some(Command::Eval(args)) => evaluate::run(&args),
        Some(Command::Attention(args)) => attention::run(&args),
        Some(Command::Analyze(args)) => analyze::run(&args),
        Some(Command::Bench(args)) => bench::run(&args),
        Some(Command::Compare(args)) => compare::run(&args),
        Some(Command::Data(DataCommand::Prepare(args))) => prepare::run(&args),
        Some(Command::Data(DataCommand::Scenes(args))) => scenes::run(&args),
        Some(Command::Data(DataCommand::TinyVlm(args))) => tiny::write(&args.output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command) {
            let nested: Vec<_> = command.get_subcommands().filter(|inner| inner.get_name() != "help").collect();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let shown = help.contains("Example") && help.contains("trainer");
            assert!(shown || !nested.is_empty(), "{}", command.get_name());
            nested.into_iter().for_each(check);
        }
        check(&Cli::command());
    }
}
