//! The runs of a comparison: their folders, how each is begun or gone on with, and what they evaluate only once.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::plan::{Plan, Row};
use super::pool::{Event, Job, Pool};
use crate::cli::CompareArgs;
use crate::config::{Config, Layers, load_run, resolve};
use crate::error::user_error;
use crate::run::{RunFolder, write_atomically};
use crate::scenes;
use crate::train::{AFTER, BEFORE};

/// The training of a row with a seed.
#[derive(Debug)]
pub(super) struct Run {
    /// Number of its row.
    pub(super) row: usize,
    /// What it is called in messages.
    pub(super) name: String,
    /// Its settings.
    pub(super) config: Config,
    /// Where it is.
    pub(super) folder: RunFolder,
    /// What the command line of a new run begins with.
    arguments: Vec<String>,
}

/// All runs of a plan, row by row, and the scenes they need.
///
/// # Errors
/// A user error: a row cannot be trained or evaluated, or a folder holds a run with other settings.
pub(super) fn runs(plan: &Plan, args: &CompareArgs, output: &Path) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    let mut demo = None;
    for (number, row) in plan.rows.iter().enumerate() {
        for seed in 0..args.seeds {
            let of_row = || format!("{}: row \"{}\"", args.plan.display(), row.label);
            let layers = layers(row, args, seed).with_context(of_row)?;
            let resolved = resolve(&layers).with_context(of_row)?;
            demo = demo.or(resolved.demo);
            let path = output.join(row.slug()).join(format!("seed-{seed}"));
            let name = format!("{}, seed {seed}", row.label);
            runs.push(Run::new(name, number, (&layers, resolved.config), &path).with_context(of_row)?);
        }
    }
    demo.as_ref().map_or(Ok(()), scenes::ensure)?;
    Ok(runs)
}

/// The settings of a row with a seed.
fn layers(row: &Row, args: &CompareArgs, seed: u64) -> Result<Layers> {
    let set = args.settings.set.iter().chain(&row.set).cloned().chain([format!("run.seed={seed}")]);
    let mut layers = Layers { algo: Some(row.algo.clone()), config: args.settings.config.clone(), set: set.collect() };
    if resolve(&layers)?.config.model.threads == 0 {
        layers.set.push("model.threads=1".to_owned());
    }
    Ok(layers)
}

impl Run {
    fn new(name: String, row: usize, (layers, config): (&Layers, Config), path: &Path) -> Result<Self> {
        if !config.eval.at_ends || config.data.test.is_none() {
            return Err(user_error("a comparison needs data.test, and eval.at_ends = true"));
        }
        let folder = match path.join("config.toml").is_file() {
            true => RunFolder::open(path)?,
            false => RunFolder::choose(Some(path), &config)?,
        };
        if folder.config().is_file()
            && let Some(what) = difference(&load_run(&folder.config(), &[])?, &config)?
        {
            let path = path.display();
            return Err(user_error(format!("{path} has {what}: take another --output, or remove that folder")));
        }
        let mut arguments: Vec<String> =
            layers.algo.iter().flat_map(|algo| ["--algo".to_owned(), algo.clone()]).collect();
        if let Some(file) = &layers.config {
            arguments.extend(["--config".to_owned(), file.display().to_string()]);
        }
        arguments.extend(layers.set.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
        Ok(Self { row, name, config, folder, arguments })
    }

    /// Whether there is nothing left to do.
    pub(super) fn finished(&self) -> bool {
        self.folder.config().is_file() && self.folder.evaluation(AFTER).is_file()
    }

    /// Steps done.
    pub(super) fn steps(&self) -> u64 {
        if self.finished() {
            return self.config.run.steps;
        }
        std::fs::read(self.folder.metrics()).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count() as u64)
    }

    /// File with what it printed.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.path().with_extension("log")
    }

    /// The process that trains, from where it was stopped if it was begun.
    pub(super) fn job(&self) -> Result<Job> {
        let mut command = program()?;
        match self.folder.config().is_file() {
            true => command.arg("--resume").arg(self.folder.path()),
            false => command.args(&self.arguments).arg("--output").arg(self.folder.path()),
        };
        Ok(Job { command, log: self.log() })
    }

    fn before(&self) -> PathBuf {
        self.folder.evaluation(BEFORE)
    }

    /// Whether both give the same answers before training.
    fn begins_like(&self, other: &Self) -> bool {
        let (a, b) = (&self.config, &other.config);
        let answers_are_drawn = a.eval.temperature > 0.0;
        a.model == b.model && a.evaluates_like(b) && (a.run.seed == b.run.seed || !answers_are_drawn)
    }

    /// The process that evaluates what training begins from.
    fn evaluation(&self) -> Result<Job> {
        let config = self.folder.path().with_extension("before.toml");
        write_atomically(&config, self.config.to_toml()?.as_bytes())?;
        let model = self.config.model.path.as_deref().context("model.path is not given")?;
        let mut command = program()?;
        command.arg("eval").arg("--model").arg(model).arg("--config").arg(config).arg("--output").arg(self.before());
        Ok(Job { command, log: self.log() })
    }
}

/// Evaluates what training begins from, once for all runs that would give the same answers. A run whose evaluation fails
/// here meets the same failure itself.
///
/// # Errors
/// A file cannot be written or a process cannot be begun.
pub(super) fn evaluate_before(runs: &[Run], pool: &Pool<'_>) -> Result<()> {
    let mut first: Vec<&Run> = Vec::new();
    let without = || runs.iter().filter(|run| !run.finished() && !run.before().exists());
    for run in without() {
        let known = runs.iter().filter(|other| other.before().exists()).chain(first.iter().copied());
        if !known.into_iter().any(|other| run.begins_like(other)) {
            first.push(run);
        }
    }
    if !first.is_empty() {
        tracing::info!("evaluating what training begins from");
        pool.run(first.iter().map(|run| run.evaluation()).collect::<Result<_>>()?, &mut |_: Event| {})?;
    }
    for run in without() {
        if let Some(other) = runs.iter().find(|other| other.before().exists() && run.begins_like(other)) {
            write_atomically(&run.before(), &fs_err::read(other.before())?)?;
        }
    }
    Ok(())
}

/// This program.
fn program() -> Result<Command> {
    Ok(Command::new(env::current_exe().context("the path of this program")?))
}

/// The first setting in which two configurations differ, in words.
fn difference(found: &Config, wanted: &Config) -> Result<Option<String>> {
    let [found, wanted] = [found, wanted].map(Table::try_from);
    let (found, wanted) = (Value::Table(found?), Value::Table(wanted?));
    Ok(first_difference("", Some(&found), Some(&wanted)))
}

fn first_difference(path: &str, found: Option<&Value>, wanted: Option<&Value>) -> Option<String> {
    if let (Some(Value::Table(found)), Some(Value::Table(wanted))) = (found, wanted) {
        let inner = |key: &String| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            first_difference(&path, found.get(key), wanted.get(key))
        };
        return found.keys().chain(wanted.keys()).find_map(inner);
    }
    let said = |value: Option<&Value>| value.map_or_else(|| "unset".to_owned(), ToString::to_string);
    (found != wanted).then(|| format!("{path} = {}, not {}", said(found), said(wanted)))
}
