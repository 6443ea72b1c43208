//! `trainer bench`: seconds and memory of one step's work on random weights of a given shape, as JSON.
//!
//! `scripts/bench_transformers.py` does the same work with transformers; `just bench-peer` runs both in turn.

mod cost;
mod result;
mod shape;
mod work;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use anyhow::{Context, Result, ensure};
use foveate_policy::{LoadOptions, ModelConfig, PolicyError, Precision, Recompute, Vlm, runtime};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tch::{Device, Kind};

use crate::cli::BenchArgs;
use crate::error::{UserContext, nearest, user_error};
use crate::run::write_json;
use cost::Cost;
use result::{Yardstick, known_tflops, over, peak_mib};
use shape::Shape;
use work::Work;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Prompts encoded, G x R tokens drawn for each.
    Rollout,
    /// The same with frame attention of every drawn token, mean over all layers and heads.
    RolloutAttn,
    /// Forward and backward pass over the groups and a step of AdamW, the vision tower trained too.
    Update,
    /// Log-probs and entropy of given completions, without gradients.
    Score,
    /// The same with frame attention of every token, mean over all layers and heads.
    ScoreAttn,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Rollout => "rollout",
            Self::RolloutAttn => "rollout-attn",
            Self::Update => "update",
            Self::Score => "score",
            Self::ScoreAttn => "score-attn",
        }
    }
}

/// What `--mode` accepts besides `all`, and what one process measures then. Modes of one process take turns, so that
/// their ratio is not that of the machine's moods.
const TOGETHER: [(&str, &[Mode]); 5] = [
    ("rollout", &[Mode::Rollout]),
    ("rollout-attn", &[Mode::RolloutAttn]),
    ("rollouts", &[Mode::Rollout, Mode::RolloutAttn]),
    ("update", &[Mode::Update]),
    ("score", &[Mode::Score, Mode::ScoreAttn]),
];

/// How the update goes about its work.
#[derive(Debug, Clone, Copy)]
struct Update {
    pass_tokens: usize,
    recompute: Recompute,
    precision: Precision,
}

/// What is printed; the peer script prints the same fields.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    device: String,
    dtype: String,
    threads: i32,
    prompt_tokens: usize,
    video_tokens: usize,
    groups: usize,
    group_size: usize,
    completion_tokens: usize,
    params: usize,
    results: Map<String, Value>,
}

/// Measures and prints.
///
/// # Errors
/// A user error: the mode, the shape or the device does not exist. Else whatever the policy meets.
pub fn run(args: &BenchArgs) -> Result<()> {
    let names = || TOGETHER.iter().map(|(name, _)| *name);
    let modes = TOGETHER.iter().find(|(name, _)| *name == args.mode).map(|(_, modes)| *modes);
    if modes.is_none() && args.mode != "all" {
        let hint = match nearest(&args.mode, names().chain(["all"])) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("expected {} or all", names().collect::<Vec<_>>().join(", ")),
        };
        return Err(user_error(format!("--mode: unknown mode {:?}; {hint}", args.mode)));
    }
    let device = runtime::device(&args.device).user()?;
    // Every round computes the videos' features again, as the peer does.
    let kind = runtime::dtype(&args.dtype).user()?;
    let options = LoadOptions { device, kind, feature_cache: 0, ..LoadOptions::default() };
    let shape = Shape::read(args)?;
    let folder = ModelFolder::new(&args.shape, &shape)?;
    let report = match modes {
        Some(modes) => measure(args, &shape, folder, &options, modes)?,
        None => {
            drop(folder);
            each_in_its_process()?
        }
    };
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// Every mode in a child of its own, so that none finds memory that another has left.
fn each_in_its_process() -> Result<Report> {
    let mut whole: Option<Report> = None;
    for (name, _) in TOGETHER.iter().filter(|(name, _)| *name != "rollouts") {
        // The last `--mode` counts.
        let mut child = Command::new(env::current_exe()?);
        child.args(env::args_os().skip(1)).args(["--mode", name]).stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = child.output()?;
        ensure!(output.status.success(), "bench --mode {name} failed ({})", output.status);
        let part: Report = serde_json::from_slice(&output.stdout).with_context(|| format!("bench --mode {name}"))?;
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => whole.results.extend(part.results),
        }
    }
    whole.context("there are no modes")
}

/// Measures modes that need the same model, in this process.
fn measure(
    args: &BenchArgs,
    shape: &Shape,
    folder: ModelFolder,
    options: &LoadOptions,
    modes: &[Mode],
) -> Result<Report> {
    tch::set_num_threads(args.threads);
    let options = LoadOptions { trainable: Work::trainable(modes), ..*options };
    let policy = Vlm::random(&folder.0, &options, 0)?;
    drop(folder); // now, so that a run that is stopped leaves nothing
    let update = Update { pass_tokens: args.pass_tokens, recompute: args.recompute, precision: args.precision };
    let mut work = Work::new(policy, shape, update)?;
    let mut measured = Vec::new();
    for mode in modes {
        work.run(*mode)?;
        let first = work.run(*mode)?; // the second round meets the gradients of the first
        measured.push((*mode, vec![first], peak_mib(options.device)?));
    }
    let mut order: Vec<_> = (0..measured.len()).collect();
    for _ in 1..args.repeat {
        order.reverse(); // so that none is always the one behind another
        for index in &order {
            let (mode, rounds, _) = &mut measured[*index];
            rounds.push(work.run(*mode)?);
        }
    }
    let yardstick = Yardstick {
        cost: Cost { model: work.policy().config(), shape },
        kind: options.kind,
        peak_tflops: args.peak_tflops.or_else(|| known_tflops(options.device, options.kind)),
    };
    if let [(_, _, peak)] = &mut measured[..] {
        *peak = peak_mib(options.device)?; // of all rounds, as the peer's: no other mode has had a part in it
    }
    let mut results = Map::new();
    for (mode, rounds, peak) in &measured {
        let mut result = yardstick.result(*mode, rounds, *peak);
        if let [(other, others, _), ..] = &measured[..]
            && other != mode
        {
            result.insert("over".into(), over(rounds, *other, others));
        }
        results.insert(mode.name().to_owned(), result.into());
    }
    Ok(Report {
        device: if options.device == Device::Cpu { "cpu" } else { "cuda" }.into(),
        dtype: if options.kind == Kind::Float { "float32" } else { "bfloat16" }.into(),
        threads: args.threads,
        prompt_tokens: shape.prompt_tokens(),
        video_tokens: shape.video_tokens(),
        groups: shape.groups,
        group_size: shape.group_size,
        completion_tokens: shape.completion_tokens,
        params: work.parameters(),
        results,
    })
}

/// A model directory that holds a configuration only, gone when dropped.
struct ModelFolder(PathBuf);

impl ModelFolder {
    fn new(file: &Path, shape: &Shape) -> Result<Self> {
        let folder = Self(env::temp_dir().join(format!("foveate-bench-{}", process::id())));
        fs_err::create_dir_all(&folder.0)?;
        write_json(&folder.0.join("config.json"), &shape.model_config())?;
        match ModelConfig::from_dir(&folder.0) {
            Ok(_) => Ok(folder),
            Err(PolicyError::Config { problem, .. }) => Err(user_error(format!("{}: {problem}", file.display()))),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for ModelFolder {
    fn drop(&mut self) {
        // Nobody is left to tell, and the folder is in the place for things that are cleaned away.
        let _ = fs_err::remove_dir_all(&self.0);
    }
}
