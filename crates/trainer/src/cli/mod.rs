//! The command line.

mod data;
mod inspect;
mod work;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use foveate_policy::runtime;
use serde::de::value::Error as WordError;
use serde::de::{DeserializeOwned, IntoDeserializer};

use crate::config::Layers;
use crate::error::UserContext;
use crate::run::init_log;
use crate::{
    analyze, attention, bench, compare, curate, evaluate, explain, prepare, reward, scenes, score, select, sft, study,
    tiny, train,
};

pub use data::{
    ConvertArgs, Criterion, DataCommand, FilterArgs, FrameRange, InspectArgs, InvertArgs, PrepareArgs, ScenesArgs,
    SeenBy, SourceArgs, TinyArgs,
};
pub use inspect::{AnalyzeArgs, AttentionArgs, ExplainArgs, ScoreArgs, SelectArgs, Study, StudyArgs};
pub use work::{Ablation, BenchArgs, CompareArgs, EvalArgs, RewardArgs, SftArgs};

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
    /// Rewards of completions that were made elsewhere
    Reward(RewardArgs),
    /// Where completions look: attention of response tokens over the frames of a video
    Attention(AttentionArgs),
    /// The frames of a video that a selector picks for a question, with a contact sheet
    Select(SelectArgs),
    /// What a frame selector has learnt
    Study(StudyArgs),
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

/// A setting by its name in configurations.
fn word<T: DeserializeOwned>(name: &str) -> Result<T, WordError> {
    T::deserialize(name.into_deserializer())
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
        Some(Command::Reward(args)) => reward::run(&args),
        Some(Command::Attention(args)) => attention::run(&args),
        Some(Command::Select(args)) => select::run(&args),
        Some(Command::Study(args)) => study::run(&args),
        Some(Command::Analyze(args)) => analyze::run(&args),
        Some(Command::Bench(args)) => bench::run(&args),
        Some(Command::Compare(args)) => compare::run(&args),
        Some(Command::Data(DataCommand::Convert(args))) => curate::convert(&args),
        Some(Command::Data(DataCommand::Invert(args))) => curate::invert(&args),
        Some(Command::Data(DataCommand::Filter(args))) => curate::filter(&args),
        Some(Command::Data(DataCommand::Inspect(args))) => curate::inspect(&args),
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
