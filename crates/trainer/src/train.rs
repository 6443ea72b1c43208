//! Training: from a configuration to a run folder, step by step.

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::{Context, Result};
use foveate_policy::{AdamW, AdamWOptions, LoadOptions, TextProcessor, Trainable, Vlm, read_safetensors, runtime, write_safetensors};
use foveate_reward::Rubric;
use serde::{Deserialize, Serialize};

use crate::{
    answer::Examinee,
    cli::TrainArgs,
    config::{Config, load_run, resolve},
    data::{Examples, Loader, LoaderOptions, LoaderState, Order},
    error::UserContext,
    eval::{self, Item, comparison, read_items, write_items},
    measure::{StepFacts, completion_lines, metrics, tokens},
    plan,
    run::{MetricsFile, Progress, RunFolder, StepSummary, Stop, init_log, read_json, write_completions, write_json},
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
    let (config, folder) = match &args.resume {
        Some(path) => {
            let folder = RunFolder::open(path)?;
            (load_run(&folder.config(), &args.settings.set)?, Some(folder))
        }
        None => {
            let resolved = resolve(&args.settings.layers(args.algo.as_deref()))?;
            if let Some(demo) = &resolved.demo {
                println!("{}", demo.note());
                scenes::ensure(demo)?;
            }
            (resolved.config, None)
        }
    };
    if args.dry_run {
        print!("{}", plan::describe(&config)?);
        return Ok(());
    }
    let folder = match folder {
        Some(folder) => folder,
        None => RunFolder::create(args.output.as_deref(), config.algorithm_name(), &config)?,
    };
    init_log(Some(&folder.log()))?;
    let stop = Stop::listen()?;
    Run::start(&config, &folder, &stop)?.train()
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
}

impl<'a> Run<'a> {
    /// Loads everything, from the newest checkpoint if the run has one.
    fn start(config: &'a Config, folder: &'a RunFolder, stop: &'a Stop) -> Result<Self> {
        let model = config.model.path.as_deref().context("model.path is not given").user()?;
        let checkpoint = folder.latest_checkpoint()?.map(|(_, path)| path);
        let options = load_options(config)?;
        let policy = match &checkpoint {
            Some(path) => Vlm::load(&path.join(POLICY), &options),
            None => Vlm::load(model, &options),
        };
        let policy = policy.user()?;
        let objective = config.algo.algorithm().user()?.objective();
        let reference = match objective.kl_coef == 0.0 {
            true => None,
            false => Some(Vlm::load(model, &LoadOptions { trainable: Trainable::Nothing, ..options }).user()?),
        };
        let optim = &config.optim;
        let adamw = AdamWOptions { betas: optim.betas, eps: optim.eps, weight_decay: optim.weight_decay };
        let mut optimizer = AdamW::new(policy.parameters(), adamw);
        let state = match &checkpoint {
            None => State::default(),
            Some(path) => {
                optimizer.restore(&read_safetensors(&path.join(OPTIMIZER))?)?;
                read_json(&path.join(STATE))?
            }
        };
        let text = Arc::new(TextProcessor::load(model).user()?);
        let examples = Examples::train(config, model, Arc::clone(&text))?;
        let order = Order::shuffled(examples.records().len(), config.run.seed);
        let depth = match config.data.prefetch {
            0 => 2 * config.rollout.prompts_per_step,
            depth => depth,
        };
        let ahead = LoaderOptions { depth, threads: config.data.threads, on_bad: config.data.on_bad_example };
        let loader = Loader::new(examples, order, ahead, state.loader.clone())?;
        let rubric = Rubric::new(config.reward.clone()).user()?;
        Ok(Self { config, folder, stop, policy, reference, optimizer, text, rubric, loader, state })
    }

    fn train(mut self) -> Result<()> {
        let begun = Instant::now();
        let steps = self.config.run.steps;
        if self.state.step > 0 {
            tracing::info!("going on after step {} of {steps}", self.state.step);
        }
        let before = if self.config.eval.at_ends { self.evaluation("before")? } else { None };
        let mut file = MetricsFile::open(&self.folder.metrics(), self.state.step)?;
        let mut progress = Progress::start(self.state.step, steps);
        while self.state.step < steps && !self.stop.requested() {
            let summary = self.step(&mut file)?;
            progress.step(&summary);
            let (step, run) = (self.state.step, &self.config.run);
            let due = run.save_every > 0 && step % run.save_every == 0;
            if due || step == steps || self.stop.requested() {
                self.save()?;
            }
            if self.config.eval.every > 0 && step % self.config.eval.every == 0 && step < steps {
                self.evaluation(&format!("step-{step}"))?;
            }
        }
        progress.finish();
        if self.state.step < steps {
            tracing::info!("stopped after step {}; go on with: trainer --resume {}", self.state.step, self.folder.path().display());
            return Ok(());
        }
        let after = if self.config.eval.at_ends { self.evaluation("after")? } else { None };
        self.report(before.as_deref(), after.as_deref(), begun);
        Ok(())
    }

    /// One step, recorded in the run's folder.
    fn step(&mut self, file: &mut MetricsFile) -> Result<StepSummary> {
        let begun = Instant::now();
        let step = self.state.step + 1;
        let batch = self.loader.batch(self.config.rollout.prompts_per_step)?;
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
        let record = (run.save_rollouts > 0 && step % run.save_rollouts == 0).then(|| self.folder.rollouts(step));
        let stepped = stepper.run(step, batch.examples, &mut updater, record.as_deref()).with_context(|| format!("step {step}"))?;
        self.state = State {
            step,
            num_tokens: self.state.num_tokens + tokens(&stepped.groups),
            loader: self.loader.state().clone(),
        };
        let line = metrics(&stepped, &StepFacts {
            step,
            num_tokens: self.state.num_tokens,
            bad: &batch.bad,
            bad_total: self.state.loader.bad.len(),
            data_wait: batch.wait.as_secs_f64(),
            step_time: begun.elapsed().as_secs_f64(),
        });
        write_completions(&self.folder.completions(step), &completion_lines(step, &stepped))?;
        file.write(&line)?;
        let value = |name| line.get(name).unwrap_or(f64::NAN);
        Ok(StepSummary { step, reward: value("reward"), accuracy: value("accuracy") })
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

    /// Evaluates on the held-out examples, unless a run before this one did so already; `None` without any, or if the
    /// run was asked to stop meanwhile.
    fn evaluation(&self, name: &str) -> Result<Option<Vec<Item>>> {
        let Some(test) = self.config.data.test.as_deref() else { return Ok(None) };
        let path = self.folder.evaluation(name);
        if path.exists() {
            return Ok(Some(read_items(&path)?));
        }
        let model = self.config.model.path.as_deref().context("model.path is not given")?;
        let examinee = Examinee { policy: &self.policy, dir: model, text: &self.text, rubric: &self.rubric, config: self.config };
        tracing::info!("evaluating ({name})");
        let answers = examinee.answer(test, self.stop, &|_, _| {})?;
        if self.stop.requested() {
            return Ok(None);
        }
        write_items(&path, &answers.items)?;
        let share = eval::Share::of(&answers.items);
        tracing::info!("accuracy {name}: {:.1}% of {}", 100.0 * share.mean, share.items);
        Ok(Some(answers.items))
    }

    fn report(&self, before: Option<&[Item]>, after: Option<&[Item]>, begun: Instant) {
        let seconds = begun.elapsed().as_secs();
        let name = self.config.algorithm_name();
        if let (Some(before), Some(after)) = (before, after) {
            println!("\n{name}: held-out accuracy in percent, with 95% intervals\n\n{}", comparison(before, after));
        }
        println!("time      {}:{:02} min", seconds / 60, seconds % 60);
        println!("run       {}", self.folder.path().display());
        println!("bad data  {} examples skipped", self.state.loader.bad.len());
    }
}

/// How the policy is loaded.
///
/// # Errors
/// A user error for a device that is not there.
pub fn load_options(config: &Config) -> Result<LoadOptions> {
    let model = &config.model;
    Ok(LoadOptions {
        device: runtime::device(&model.device).user()?,
        kind: model.dtype.kind(),
        attention: model.attention,
        trainable: if model.train_vision { Trainable::All } else { Trainable::Text },
    })
}
