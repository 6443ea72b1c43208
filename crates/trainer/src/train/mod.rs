//! Training: from a configuration to a run folder, step by step.

mod evaluations;
mod learner;
mod picks;
mod tokens;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use foveate_policy::{AdamW, LoadOptions, Trainable, read_safetensors, runtime, write_safetensors};
use serde::{Deserialize, Serialize};

use self::evaluations::resumed;
pub(crate) use self::evaluations::{AFTER, BEFORE};
use self::learner::Learner;
use self::{picks::PickLearner, tokens::TokenLearner};
use crate::{
    cli::TrainArgs,
    config::{Config, Demo, Resolved, resolve},
    data::{Batch, Loader, LoaderOptions, LoaderState, Order, Source},
    error::{UserContext, existing, one_line, user_error},
    plan,
    run::{
        LOG_FILE, MetricsFile, Progress, RunFolder, StepMetrics, Stop, init_log, read_json, write_atomically,
        write_json,
    },
    scenes,
};

/// Policy directory, optimizer state and position within a checkpoint.
pub(crate) const POLICY: &str = "policy";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Metrics: seconds of a step, and those of them spent waiting for examples.
const STEP_TIME: &str = "step_time";
const DATA_WAIT: &str = "timing/data_wait";

/// Where a run stands at a checkpoint.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    /// Steps done.
    step: u64,
    /// Tokens seen so far.
    num_tokens: u64,
    /// Position among the examples.
    loader: LoaderState,
}

/// Trains as the command line says, or goes on with a run.
///
/// # Errors
/// A user error for whatever the user can mend; else whatever stopped the run, which can then be resumed.
pub fn run(args: &TrainArgs) -> Result<()> {
    let resolved = match &args.resume {
        Some(path) => {
            existing("--resume", path)?;
            let config = resumed(&RunFolder::open(path)?, &args.settings.set)?;
            // Its scenes may have been removed meanwhile.
            let demo = Demo::find(config.algo.picks_frames()).ok().filter(|demo| demo.trains(&config));
            Resolved { config, demo }
        }
        None => resolve(&args.settings.layers(args.algo.as_deref()))?,
    };
    let config = &resolved.config;
    if let (Some(demo), None) = (&resolved.demo, &args.resume) {
        println!("{}", demo.note());
    }
    if args.dry_run {
        print!("{}", plan::describe(&resolved)?);
        return Ok(());
    }
    if let Some(demo) = &resolved.demo {
        scenes::ensure(demo)?;
    }
    let folder = match &args.resume {
        Some(path) => unfinished(RunFolder::open(path)?, config)?,
        None => RunFolder::choose(args.output.as_deref(), config)?,
    };
    let named = [
        ("model.path", &config.model.path),
        ("scorer.path", &config.scorer.path),
        ("selector.backbone", &config.selector.backbone),
        ("data.train", &config.data.train),
        ("data.test", &config.data.test),
        ("data.cache", &config.data.cache),
        ("data.frames.from", &config.data.frames.from),
        ("eval.frames.from", &config.eval.frames.from),
    ];
    for (key, path) in named {
        path.as_deref().map_or(Ok(()), |path| existing(key, path))?;
    }
    let (set, goes_on) = (&args.settings.set, args.resume.is_some());
    if config.algo.picks_frames() {
        train::<PickLearner>(config, &folder, set, goes_on)
    } else {
        train::<TokenLearner>(config, &folder, set, goes_on)
    }
}

fn train<L: Learner>(config: &Config, folder: &RunFolder, set: &[String], goes_on: bool) -> Result<()> {
    let stop = Stop::listen()?;
    // Before its checkpoint is read; of a new run only when it can start, so that one that cannot leaves no folder behind.
    let mut held = goes_on.then(|| folder.hold()).transpose()?;
    let run = Run::<L>::start(config, folder, &stop)?;
    if !goes_on {
        held = Some(folder.hold()?);
        folder.expect_new()?;
    }
    folder.begin(config)?;
    init_log(Some(&folder.log()))?;
    if goes_on && !set.is_empty() {
        tracing::info!("going on with other settings: {}", set.join(", "));
    }
    // The terminal gets the error from `main`; the run keeps it too.
    run.learner.warn(config);
    let trained = run.train().inspect_err(|error| tracing::error!(target: LOG_FILE, "{}", one_line(error)));
    drop(held);
    trained
}

/// The folder of a run that is to go on, if there is something left to do in it.
fn unfinished(folder: RunFolder, config: &Config) -> Result<RunFolder> {
    let (done, steps) = (folder.latest_checkpoint()?.map_or(0, |(step, _)| step), config.run.steps);
    let evaluates = config.eval.at_ends && config.data.test.is_some();
    if done < steps || (evaluates && !folder.evaluation(AFTER).exists()) {
        return Ok(folder);
    }
    let path = folder.path().display();
    Err(user_error(format!(
        "{path} is finished: {done} of {steps} steps are done; for more, --resume {path} --set run.steps=N"
    )))
}

/// A run under way.
struct Run<'a, L: Learner> {
    config: &'a Config,
    folder: &'a RunFolder,
    stop: &'a Stop,
    learner: L,
    loader: Loader<L::Source>,
    state: State,
    waits: Waits,
}

/// Seconds of the steps done.
#[derive(Debug, Default)]
struct Waits {
    /// Of all steps.
    steps: f64,
    /// Of which spent waiting for examples.
    data: f64,
}

impl<'a, L: Learner> Run<'a, L> {
    /// Loads everything, from the newest checkpoint if the run has one.
    fn start(config: &'a Config, folder: &'a RunFolder, stop: &'a Stop) -> Result<Self> {
        let checkpoint = folder.latest_checkpoint()?.map(|(_, path)| path);
        let state: State = match &checkpoint {
            None => State::default(),
            Some(path) => read_json(&path.join(STATE))?,
        };
        // First, so that the first examples are decoded while the models are loaded.
        let examples = L::examples(config)?;
        if let Some(test) = &config.data.test {
            // Hours before it is first read.
            config.data.test_records(test)?;
        }
        let order = Order::shuffled(examples.count(), config.run.seed);
        let depth = match config.data.prefetch {
            0 => 2 * config.rollout.prompts_per_step,
            depth => depth,
        };
        let ahead = LoaderOptions { depth, threads: config.data.threads, on_bad: config.data.on_bad_example };
        let loader = Loader::new(examples, order, ahead, state.loader.clone())?;
        let learner = L::load(config, loader.source(), checkpoint.as_deref())?;
        Ok(Self { config, folder, stop, learner, loader, state, waits: Waits::default() })
    }

    fn train(mut self) -> Result<()> {
        let begun = Instant::now();
        let steps = self.config.run.steps;
        if self.state.step < steps {
            // Of a run that had fewer steps.
            remove_file_if_there(&self.folder.evaluation(AFTER))?;
        }
        if self.state.step > 0 {
            tracing::info!("going on after step {} of {steps}", self.state.step);
        }
        let before = self.end(BEFORE)?;
        // One that was cut off by a kill or a signal.
        self.evaluate_if_due()?;
        let mut file = MetricsFile::open(&self.folder.metrics(), self.state.step)?;
        self.waits = Waits { steps: file.total(STEP_TIME)?, data: file.total(DATA_WAIT)? };
        let earlier = Duration::try_from_secs_f64(self.waits.steps).unwrap_or_default();
        let mut progress = Progress::start(self.state.step, steps);
        while self.state.step < steps && !self.stop.requested() {
            let line = self.step(&mut file)?;
            let (step, run) = (self.state.step, &self.config.run);
            progress.at(step, &summary(&line));
            let due = every(run.save_every, step) || step == steps;
            if due {
                self.save()?;
            }
            self.evaluate_if_due()?;
            if self.stop.requested() && !due {
                self.save()?;
            }
        }
        progress.finish();
        let after = if self.state.step == steps { self.end(AFTER)? } else { None };
        if self.stop.requested() {
            let folder = self.folder.path().display();
            tracing::info!("stopped after step {}; go on with: trainer --resume {folder}", self.state.step);
            return Ok(());
        }
        let report = self.report(before.as_deref(), after.as_deref(), earlier + begun.elapsed());
        // First, for nobody may be listening any more.
        write_atomically(&self.folder.report(), report.as_bytes())?;
        print!("{report}");
        Ok(())
    }

    /// One step, recorded in the run's folder.
    fn step(&mut self, file: &mut MetricsFile) -> Result<StepMetrics> {
        let begun = Instant::now();
        let step = self.state.step + 1;
        let (mut bad, mut wait) = (Vec::new(), Duration::ZERO);
        let loader = &mut self.loader;
        let mut supply = |count: usize| {
            let Batch { examples, bad: met, wait: waited } = loader.batch(count)?;
            bad.extend(met);
            wait += waited;
            Ok(examples)
        };
        let run = &self.config.run;
        let record = every(run.save_rollouts, step).then(|| self.folder.rollouts(step));
        let done = self.learner.step(self.config, step, &mut supply, record.as_deref());
        let done = done.with_context(|| format!("step {step}"))?;
        self.state =
            State { step, num_tokens: self.state.num_tokens + done.tokens, loader: self.loader.state().clone() };
        let mut line = done.metrics;
        line.push("num_tokens", self.state.num_tokens as f64);
        line.push_count("data/skipped", bad.len() as u64);
        line.push_count("data/skipped_total", self.state.loader.bad.len() as u64);
        if !bad.is_empty() {
            line.push_value("data/skipped_names", bad.iter().map(|bad| bad.name.clone()).collect());
        }
        let (data_wait, step_time) = (wait.as_secs_f64(), begun.elapsed().as_secs_f64());
        line.push(DATA_WAIT, data_wait);
        line.push(STEP_TIME, step_time);
        self.waits = Waits { steps: self.waits.steps + step_time, data: self.waits.data + data_wait };
        write_atomically(&self.folder.completions(step), &done.completions)?;
        file.write(&line)?;
        Ok(line)
    }

    fn save(&self) -> Result<()> {
        let write = |folder: &Path| {
            self.learner.save(folder)?;
            write_json(&folder.join(STATE), &self.state)
        };
        self.folder.save_checkpoint(self.state.step, self.config.run.keep, write)?;
        Ok(())
    }
}

/// The optimizer as a checkpoint has it, if there is one.
fn optimizer(mut new: AdamW, checkpoint: Option<&Path>) -> Result<AdamW> {
    if let Some(folder) = checkpoint {
        new.restore(&read_safetensors(&folder.join(OPTIMIZER))?)?;
    }
    Ok(new)
}

fn save_optimizer(optimizer: &AdamW, folder: &Path) -> Result<()> {
    let state = optimizer.state();
    Ok(write_safetensors(&folder.join(OPTIMIZER), state.iter().map(|(name, tensor)| (name.as_str(), tensor)))?)
}

fn remove_file_if_there(file: &Path) -> Result<()> {
    if file.exists() {
        fs_err::remove_file(file)?;
    }
    Ok(())
}

/// Whether something done at every `period`-th step (0: never) is due.
fn every(period: u64, step: u64) -> bool {
    period > 0 && step.is_multiple_of(period)
}

/// What is shown of a step while training.
fn summary(line: &StepMetrics) -> String {
    let value = |name| line.get(name).unwrap_or(f64::NAN);
    format!("reward {:.3}  accuracy {:.3}", value("reward"), value("accuracy"))
}

/// How the policy is loaded. Gives libtorch its threads too, once the configuration is known.
///
/// # Errors
/// A user error for a device that is not there.
pub fn load_options(config: &Config) -> Result<LoadOptions> {
    let model = &config.model;
    if let Ok(threads @ 1..) = i32::try_from(model.threads) {
        tch::set_num_threads(threads);
    }
    Ok(LoadOptions {
        device: runtime::device(&model.device).user()?,
        kind: model.dtype.kind(),
        attention: model.attention,
        trainable: if model.train_vision { Trainable::All } else { Trainable::Text },
        feature_cache: model.feature_cache_mib << 20,
    })
}
