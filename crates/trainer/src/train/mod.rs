//! Training: from a configuration to a run folder, step by step.

mod evaluations;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use foveate_policy::{AdamW, LoadOptions, TextProcessor, Trainable, Vlm, read_safetensors, runtime, write_safetensors};
use foveate_reward::Rubric;
use serde::{Deserialize, Serialize};

use self::evaluations::resumed;
pub(crate) use self::evaluations::{AFTER, BEFORE};
use crate::{
    cli::TrainArgs,
    config::{Config, Demo, Resolved, resolve},
    data::{Examples, Loader, LoaderOptions, LoaderState, Order},
    error::{UserContext, existing, one_line, user_error},
    measure::{StepFacts, completion_lines, metrics, tokens},
    plan,
    run::{
        LOG_FILE, MetricsFile, Progress, RunFolder, StepMetrics, Stop, init_log, read_json, write_atomically,
        write_json, write_lines,
    },
    scenes,
    step::Stepper,
    update::Updater,
};

/// Policy directory, optimizer state and position within a checkpoint.
const POLICY: &str = "policy";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

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
            let demo = Demo::find().ok().filter(|demo| demo.trains(&config));
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
    let named =
        [("model.path", &config.model.path), ("data.train", &config.data.train), ("data.test", &config.data.test)];
    for (key, path) in named {
        path.as_deref().map_or(Ok(()), |path| existing(key, path))?;
    }
    let stop = Stop::listen()?;
    let run = Run::start(config, &folder, &stop)?;
    // Only now: what cannot start leaves no folder behind.
    folder.begin(config)?;
    init_log(Some(&folder.log()))?;
    // The terminal gets the error from `main`; the run keeps it too.
    run.train().inspect_err(|error| tracing::error!(target: LOG_FILE, "{}", one_line(error)))
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
struct Run<'a> {
    config: &'a Config,
    folder: &'a RunFolder,
    stop: &'a Stop,
    policy: Vlm,
    reference: Option<Vlm>,
    optimizer: AdamW,
    text: Arc<TextProcessor>,
    rubric: Rubric,
    loader: Loader<Examples>,
    state: State,
    waits: Waits,
    warned: bool,
}

/// Seconds of the steps that this process has done.
#[derive(Debug, Default)]
struct Waits {
    /// Of all steps.
    steps: f64,
    /// Of which spent waiting for examples.
    data: f64,
}

impl<'a> Run<'a> {
    /// Loads everything, from the newest checkpoint if the run has one.
    fn start(config: &'a Config, folder: &'a RunFolder, stop: &'a Stop) -> Result<Self> {
        let model = config.model.path.as_deref().context("model.path is not given").user()?;
        let checkpoint = folder.latest_checkpoint()?.map(|(_, path)| path);
        let state: State = match &checkpoint {
            None => State::default(),
            Some(path) => read_json(&path.join(STATE))?,
        };
        // First, so that the first examples are decoded while the models are loaded.
        let text = Arc::new(TextProcessor::load(model).user()?);
        let examples = Examples::train(config, model, Arc::clone(&text))?;
        if let Some(test) = &config.data.test {
            // Hours before it is first read.
            config.data.test_records(test)?;
        }
        let order = Order::shuffled(examples.records().len(), config.run.seed);
        let depth = match config.data.prefetch {
            0 => 2 * config.rollout.prompts_per_step,
            depth => depth,
        };
        let ahead = LoaderOptions { depth, threads: config.data.threads, on_bad: config.data.on_bad_example };
        let loader = Loader::new(examples, order, ahead, state.loader.clone())?;
        let options = load_options(config)?;
        let policy = match &checkpoint {
            Some(path) => Vlm::load(&path.join(POLICY), &options),
            None => Vlm::load(model, &options),
        };
        let policy = policy.user()?;
        let reference = match config.algo.algorithm().user()?.needs(foveate_algo::MediaKind::Video).reference {
            false => None,
            true => Some(Vlm::load(model, &LoadOptions { trainable: Trainable::Nothing, ..options }).user()?),
        };
        let optim = &config.optim;
        let adamw = optim.adamw();
        let mut optimizer = AdamW::new(policy.parameters(), adamw);
        if let Some(path) = &checkpoint {
            optimizer.restore(&read_safetensors(&path.join(OPTIMIZER))?)?;
        }
        let rubric = Rubric::new(config.reward.clone()).user()?;
        if config.rollout.top_p < 1.0 || config.rollout.top_k > 0 {
            tracing::warn!(
                "rollout.top_p and top_k restrict sampling, but log-probs and ratios are those of the whole distribution"
            );
        }
        let waits = Waits::default();
        Ok(Self {
            config,
            folder,
            stop,
            policy,
            reference,
            optimizer,
            text,
            rubric,
            loader,
            state,
            waits,
            warned: false,
        })
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
        let mut progress = Progress::start(self.state.step, steps);
        while self.state.step < steps && !self.stop.requested() {
            let line = self.step(&mut file)?;
            let (step, run) = (self.state.step, &self.config.run);
            progress.at(step, &summary(&line));
            warn_once(&line, &mut self.warned);
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
        let report = self.report(before.as_deref(), after.as_deref(), begun);
        print!("{report}");
        write_atomically(&self.folder.report(), report.as_bytes())
    }

    /// One step, recorded in the run's folder.
    fn step(&mut self, file: &mut MetricsFile) -> Result<StepMetrics> {
        let begun = Instant::now();
        let step = self.state.step + 1;
        let (mut bad, mut wait) = (Vec::new(), Duration::ZERO);
        let loader = &mut self.loader;
        let mut supply = |count: usize| {
            let batch = loader.batch(count)?;
            bad.extend(batch.bad);
            wait += batch.wait;
            Ok(batch.examples)
        };
        let algorithm = self.config.algo.algorithm().user()?;
        let stepper = Stepper {
            policy: &self.policy,
            reference: self.reference.as_ref(),
            text: &self.text,
            rubric: &self.rubric,
            algorithm: algorithm.as_ref(),
            config: self.config,
        };
        let mut updater = Updater { optimizer: &mut self.optimizer, steps: self.config.run.steps };
        let run = &self.config.run;
        let record = every(run.save_rollouts, step).then(|| self.folder.rollouts(step));
        let stepped =
            stepper.run(step, &mut supply, &mut updater, record.as_deref()).with_context(|| format!("step {step}"))?;
        self.state = State {
            step,
            num_tokens: self.state.num_tokens + tokens(&stepped.drawn.groups),
            loader: self.loader.state().clone(),
        };
        let (data_wait, step_time) = (wait.as_secs_f64(), begun.elapsed().as_secs_f64());
        self.waits = Waits { steps: self.waits.steps + step_time, data: self.waits.data + data_wait };
        let line = metrics(
            &stepped,
            &StepFacts {
                step,
                algorithm: algorithm.name(),
                num_tokens: self.state.num_tokens,
                bad: &bad,
                bad_total: self.state.loader.bad.len(),
                data_wait,
                step_time,
            },
        );
        write_lines(&self.folder.completions(step), &completion_lines(step, &stepped))?;
        file.write(&line)?;
        Ok(line)
    }

    fn save(&self) -> Result<()> {
        let write = |folder: &Path| {
            self.policy.save(&folder.join(POLICY))?;
            let state = self.optimizer.state();
            write_safetensors(&folder.join(OPTIMIZER), state.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
            write_json(&folder.join(STATE), &self.state)
        };
        self.folder.save_checkpoint(self.state.step, self.config.run.keep, write)?;
        Ok(())
    }
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

/// Says, once, that APPO is not being itself: a `k3` that no completion exceeds makes every token a perception token.
fn warn_once(line: &StepMetrics, warned: &mut bool) {
    let covered = line.get("appo/frac_covered_by_k3").unwrap_or(0.0);
    if covered > 0.0 && !*warned {
        *warned = true;
        tracing::warn!(
            "{:.0}% of the completions have no more tokens than algo.k3, so that all of them are perception tokens; \
             a smaller one: --set algo.k3=N",
            100.0 * covered
        );
    }
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
