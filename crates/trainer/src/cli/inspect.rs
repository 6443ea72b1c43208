//! What the commands are told that look at models, runs and recorded groups.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use foveate_policy::AttentionMode;
use foveate_video::scenes::FEWEST;

use super::{SettingsArgs, word};

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
#[command(
    after_help = "Settings come from --config; without it from the run that the group lies in, if that run is of the algorithm; else \
    they are the paper's.\n\nExamples:\n  trainer explain --algo appo --rollouts RUN/rollouts/step-10/group-0.safetensors \
    --output credit.safetensors\n  trainer explain --compare --rollouts RUN/rollouts/step-10/group-0.safetensors \
    --set appo.k3=6 --output credit.html"
)]
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
    /// Configuration: `algo` is used [default: that of the run which the group lies in, for the run's algorithm]. With
    /// --compare, --set NAME.key=value names whose setting it is.
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
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::MIN)]
    pub completions: NonZeroUsize,
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

/// What `select` is told.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "A video of fewer candidate frames than are asked for gives all of them.\n\nExample:\n  trainer select \
    --model RUN/checkpoints/step-300/policy --video clip.mp4 --question \"What falls?\" --options \"A. a cup\" \"B. a book\" \
    --frames 8 --output picked"
)]
pub struct SelectArgs {
    /// Directory of a frame selector
    #[arg(long, value_name = "SELECTOR")]
    pub model: PathBuf,
    /// Video that is asked about
    #[arg(long, value_name = "FILE")]
    pub video: PathBuf,
    /// The question
    #[arg(long, value_name = "TEXT")]
    pub question: String,
    /// Its options, such as "A. red" "B. blue", if the selector's prompt shows them
    #[arg(long, value_name = "OPTION", num_args = 1..)]
    pub options: Vec<String>,
    /// Frames to pick
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = positive)]
    pub frames: usize,
    /// Folder for picks.csv and sheet.png, the frames with a strip of how often each candidate is picked
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Sets that the strip is made of
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    pub sets: usize,
    /// Temperature that they are drawn at
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub temperature: f64,
    /// Seed of the draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Configuration: `model` (device and number format) and `data.decode` are used; what the selector was trained to see is
    /// kept beside it.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// What `study` is told.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  trainer study accuracy RUN --report docs/results/refocus.md\n  trainer study needle RUN --lengths \
    64,128,256"
)]
pub struct StudyArgs {
    /// What is studied
    #[arg(value_enum)]
    pub study: Study,
    /// Folder of a run of refocus
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// Checkpoint that is studied, by its step [default: the newest]
    #[arg(long, value_name = "N")]
    pub step: Option<u64>,
    /// Page of results that the study is put into, in the place of an earlier one
    #[arg(long, value_name = "FILE.md")]
    pub report: Option<PathBuf>,
    /// Frames of a set (accuracy)
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "4,8,16", value_parser = positive)]
    pub picks: Vec<usize>,
    /// Sets drawn for each question (likelihood, questions)
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    pub sets: usize,
    /// Frames of the videos (needle)
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "64,128,256,512", value_parser = long)]
    pub lengths: Vec<usize>,
    /// Where the event lies, from 0 to 1 (needle)
    #[arg(long, value_name = "D,..", value_delimiter = ',', default_value = "0,0.25,0.5,0.75,1", value_parser = depth)]
    pub depths: Vec<f64>,
    /// Videos of each length and depth, with a question each (needle)
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = positive)]
    pub count: usize,
    /// Folder that these videos are rendered to [default: RUN/haystack]
    #[arg(long, value_name = "DIR")]
    pub haystack: Option<PathBuf>,
    /// One setting, over those of the run; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// What can be studied of a frame selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Study {
    /// Whether the frozen model answers with a frame of the event, and does not without
    Gate,
    /// Accuracy from frames at equal distances and from picked ones
    Accuracy,
    /// Accuracy by length of the video and depth of the event
    Needle,
    /// Accuracy by the likelihood of sets
    Likelihood,
    /// Temporal entropy of the picks over training
    Spread,
    /// Distances of pick distributions between questions
    Questions,
}

impl Study {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
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

/// A span of seconds, `1.5-3`.
fn seconds(text: &str) -> Result<[f64; 2], String> {
    let number = |part: &str| part.trim().parse::<f64>().ok().filter(|seconds| *seconds >= 0.0);
    let ends = text.split_once('-').and_then(|(start, end)| Some([number(start)?, number(end)?]));
    ends.filter(|[start, end]| start <= end).ok_or_else(|| "expected START-END in seconds, such as 1.5-3".to_owned())
}

/// Frames of a long scene.
fn long(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (FEWEST..=65_536).contains(number));
    number.ok_or_else(|| format!("expected a number of at least {FEWEST}"))
}

/// A place within a video.
fn depth(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// A number of at least 1.
fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "expected a number of at least 1".to_owned())
}
