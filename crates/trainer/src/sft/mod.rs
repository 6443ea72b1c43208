//! `trainer sft`: supervised training on (prompt, target) pairs, or on labels of the vision tokens, as a warm start.

mod cells;
mod completion;
mod frames;

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::{Context, Result};
use foveate_policy::{AdamW, LoadOptions, Recompute, TextProcessor, Trainable, Vlm};

use self::{cells::Cells, completion::Completion, frames::Frames};
use crate::{
    cli::SftArgs,
    config::{Config, SftObjective, resolve_plain},
    data::{Examples, Loader, LoaderOptions, LoaderState, Order, Source},
    error::{UserContext, existing, user_error},
    frame_sets::FramedExamples,
    run::{MetricsFile, Progress, StepMetrics, Stop},
    schedule::learning_rate,
    train::load_options,
};

/// File of the run's metrics within the saved directory.
const LOG: &str = "sft.jsonl";

/// What a step of supervised training learns from.
trait Objective {
    /// Examples as they are learnt from.
    type Source: Source;

    /// Adds the gradients of a batch to the parameters, and to what `optimizer` accumulates.
    fn learn(&mut self, policy: &Vlm, optimizer: &AdamW, batch: &[<Self::Source as Source>::Item]) -> Result<Learnt>;

    /// Parameters of the objective's own, which are thrown away in the end.
    fn parameters(&self) -> Vec<(String, tch::Tensor)> {
        Vec::new()
    }
}

/// How a batch went.
struct Learnt {
    /// Mean loss in nats.
    loss: f64,
    /// Share of tokens, or labels, that were the likeliest.
    accuracy: f64,
}

/// Trains as the command line says and saves the model to `args.output`.
///
/// # Errors
/// A user error for whatever the user can mend.
pub fn run(args: &SftArgs) -> Result<()> {
    let config = resolve_plain(&args.settings.layers(None))?;
    existing("--model", &args.model)?;
    config.data.train.as_deref().map_or(Ok(()), |path| existing("data.train", path))?;
    if args.output.join("model.safetensors.index.json").exists() {
        // Hours before it is written to.
        return Err(user_error(format!("--output: {} holds a checkpoint in shards", args.output.display())));
    }
    if config.sft.objective == SftObjective::Cells {
        labels_file(&config)?; // before a model is loaded
    }
    let stop = Stop::listen()?;
    let policy = load(args, &config)?;
    let text = Arc::new(TextProcessor::load(&args.model).user()?);
    let course = Course { config: &config, output: &args.output, stop: &stop };
    let packing = Packing { tokens: config.optim.pass_tokens, recompute: config.optim.recompute };
    match config.sft.objective {
        SftObjective::Completion => {
            let examples = Examples::train(&config, &args.model, Arc::clone(&text))?;
            train(&policy, &mut Completion::new(text, packing), examples, &course)?;
        }
        SftObjective::Cells => {
            let path = labels_file(&config)?;
            let examples = Examples::train(&config, &args.model, text)?;
            train(&policy, &mut Cells::open(path, &policy, config.run.seed as i64)?, examples, &course)?;
        }
        SftObjective::Frames => {
            let examples = FramedExamples::train(&config, &args.model)?;
            train(&policy, &mut Frames::new(&args.model, &config, packing)?, examples, &course)?;
        }
    }
    policy.save(&args.output)?;
    tracing::info!("saved {}", args.output.display());
    Ok(())
}

/// The labels that `sft.objective = "cells"` learns.
fn labels_file(config: &Config) -> Result<&Path> {
    if !config.model.train_vision {
        return Err(user_error("sft.objective = \"cells\" trains the vision tower: set model.train_vision = true"));
    }
    let path = config.sft.cells.as_deref();
    let path = path.ok_or_else(|| user_error("sft.objective = \"cells\" needs sft.cells, a file of labels"))?;
    existing("sft.cells", path)?;
    Ok(path)
}

fn load(args: &SftArgs, config: &Config) -> Result<Vlm> {
    let options = LoadOptions { trainable: Trainable::All, ..load_options(config)? };
    let options =
        if config.model.train_vision { options } else { LoadOptions { trainable: Trainable::Text, ..options } };
    if args.from_scratch {
        return Vlm::random(&args.model, &options, config.run.seed as i64).user();
    }
    Vlm::load(&args.model, &options).user()
}

/// How sequences go through the policy.
#[derive(Debug, Clone, Copy)]
struct Packing {
    /// Most tokens of a pass; 0: all.
    tokens: usize,
    recompute: Recompute,
}

struct Course<'a> {
    config: &'a Config,
    output: &'a Path,
    stop: &'a Stop,
}

/// Trains on examples, and saves what is learnt in between.
fn train<O: Objective>(policy: &Vlm, objective: &mut O, examples: O::Source, course: &Course<'_>) -> Result<()> {
    let config = course.config;
    fs_err::create_dir_all(course.output)?;
    let (optim, steps, size) = (&config.optim, config.run.steps, config.sft.batch);
    let order = Order::shuffled(examples.count(), config.run.seed);
    let ahead = LoaderOptions { depth: 2 * size, threads: config.data.threads, on_bad: config.data.on_bad_example };
    let mut loader = Loader::new(examples, order, ahead, LoaderState::default())?;
    let extra = objective.parameters();
    let adamw = optim.adamw();
    let mut optimizer = AdamW::new(policy.parameters().chain(&extra), adamw);
    let mut log = MetricsFile::open(&course.output.join(LOG), 0)?;
    let mut progress = Progress::start(0, steps);
    for step in 1..=steps {
        let begun = Instant::now();
        let batch = loader.batch(size)?;
        let learnt = objective.learn(policy, &optimizer, &batch.examples).with_context(|| format!("step {step}"))?;
        let lr = learning_rate(optim, step, steps);
        let norm = optimizer.step(lr, optim.grad_clip)?;
        let mut metrics = StepMetrics::new(step);
        metrics.push("loss", learnt.loss);
        metrics.push("accuracy", learnt.accuracy);
        metrics.push("grad_norm", norm);
        metrics.push("learning_rate", lr);
        metrics.push_count("data/skipped", batch.bad.len() as u64);
        metrics.push("step_time", begun.elapsed().as_secs_f64());
        log.write(&metrics)?;
        progress.at(step, &format!("loss {:.3}  accuracy {:.3}", learnt.loss, learnt.accuracy));
        if config.run.save_every > 0 && step % config.run.save_every == 0 && step < steps {
            policy.save(&course.output.join(format!("checkpoints/step-{step}")))?;
        }
        if course.stop.requested() {
            tracing::info!("stopped after step {step} of {steps}; the model is saved as it is");
            break;
        }
    }
    progress.finish();
    Ok(())
}
