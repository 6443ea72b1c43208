//! A run's folder as its readers see it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use foveate_policy::TextProcessor;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::{Config, load_run};
use crate::data::{Example, Records};
use crate::error::{UserContext, existing, one_line};
use crate::run::RunFolder;

/// What a run needs to be told so that there are groups to look at.
pub const HOW_TO_RECORD: &str = "train with --set run.save_rollouts=N to keep the groups of every N-th step";

/// A line of `completions/step-N.jsonl`, as much of it as is read again.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RecordedCompletion {
    /// Group within the step.
    pub group: usize,
    /// Completion within the group.
    pub completion: usize,
    /// The example's name.
    pub id: String,
    /// Type of question.
    pub kind: String,
    /// The question.
    pub question: String,
    /// The right answer.
    pub answer: String,
    /// Length in tokens.
    pub length: usize,
    /// Whole reward; none if it could not be scored.
    pub reward: Option<f64>,
}

/// A recorded group's place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rollout {
    /// The step it was sampled in.
    pub step: u64,
    /// Group within the step.
    pub group: usize,
    /// Its file.
    pub path: PathBuf,
}

/// A run that is read, whether it goes on or not.
#[derive(Debug)]
pub struct RecordedRun {
    folder: RunFolder,
    config: Config,
}

impl RecordedRun {
    /// Opens a run's folder; `set` changes its configuration, as where data has moved since.
    ///
    /// # Errors
    /// A user error: there is no run in it, or its configuration cannot be read.
    pub fn open(path: &Path, set: &[String]) -> Result<Self> {
        existing("run", path)?;
        let folder = RunFolder::open(path)?;
        let config = load_run(&folder.config(), set)?;
        Ok(Self { folder, config })
    }

    /// The run that a recorded group belongs to, if it still lies in one: `RUN/rollouts/step-N/group-K.safetensors`.
    ///
    /// # Errors
    /// A user error: the run's configuration cannot be read.
    pub fn of(file: &Path, set: &[String]) -> Result<Option<(Self, Rollout)>> {
        let file = std::path::absolute(file)?;
        let rollout = || {
            let step = file.parent().and_then(|folder| number(folder, "step-", ""))?;
            let group = number(&file, "group-", ".safetensors")?;
            let run = file.ancestors().nth(3).filter(|run| run.join("config.toml").is_file())?;
            Some((run, Rollout { step, group: usize::try_from(group).ok()?, path: file.clone() }))
        };
        rollout().map(|(run, rollout)| Ok((Self::open(run, set)?, rollout))).transpose()
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its metrics, a line a step; a line that is not whole is passed over.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn metrics(&self) -> Result<Vec<Map<String, Value>>> {
        let text =
            fs_err::read_to_string(self.folder.metrics()).context("the run has not written any metrics").user()?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// The completions of a step.
    ///
    /// # Errors
    /// A user error: they cannot be read.
    pub fn completions(&self, step: u64) -> Result<Vec<RecordedCompletion>> {
        let path = self.folder.completions(step);
        let text = fs_err::read_to_string(&path).user()?;
        let line = |line| serde_json::from_str(line).with_context(|| path.display().to_string()).user();
        text.lines().map(line).collect()
    }

    /// Steps whose completions are there, in order.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let mut steps = numbered(&self.path().join("completions"), "step-", ".jsonl")?;
        steps.sort_unstable_by_key(|(step, _)| *step);
        Ok(steps.into_iter().map(|(step, _)| step).collect())
    }

    /// The recorded groups, in order.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn rollouts(&self) -> Result<Vec<Rollout>> {
        let mut found = Vec::new();
        for (step, folder) in numbered(&self.path().join("rollouts"), "step-", "")? {
            for (group, path) in numbered(&folder, "group-", ".safetensors")? {
                found.push(Rollout { step, group: usize::try_from(group)?, path });
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The tokenizer of the model that was trained.
    ///
    /// # Errors
    /// A user error: the model's directory is not there any more, or has none.
    pub fn text(&self) -> Result<Arc<TextProcessor>> {
        let model = self.config.model.path.as_deref().context("model.path is not given").user()?;
        existing("model.path", model)?;
        Ok(Arc::new(TextProcessor::load(model).user()?))
    }

    /// The same, or nothing, with a word about it.
    pub fn text_if_there(&self) -> Option<Arc<TextProcessor>> {
        self.text().inspect_err(|error| tracing::warn!("tokens are shown as ids: {}", one_line(error))).ok()
    }

    /// The newest policy: of the last checkpoint, or else the one that training began with.
    ///
    /// # Errors
    /// A user error: neither is named; or the folder cannot be read.
    pub fn policy(&self) -> Result<PathBuf> {
        let checkpoint = self.folder.latest_checkpoint()?.map(|(_, folder)| folder.join("policy"));
        checkpoint.or_else(|| self.config.model.path.clone()).context("model.path is not given").user()
    }

    /// The training records.
    ///
    /// # Errors
    /// A user error: they are not there any more.
    pub fn records(&self) -> Result<Records> {
        let data = &self.config.data;
        let file = data.train.as_deref().context("data.train is not given").user()?;
        data.training_records(file)
    }

    /// The example that a group of the run is about.
    ///
    /// # Errors
    /// A user error: the step's completions or the records are not there any more, or do not know it.
    pub fn example(&self, rollout: &Rollout) -> Result<Example> {
        let completions = self.completions(rollout.step)?;
        let of_group = completions.iter().find(|line| line.group == rollout.group);
        let id = &of_group.with_context(|| format!("step {}: no group {}", rollout.step, rollout.group)).user()?.id;
        let records = self.records()?;
        records.find(id).with_context(|| format!("{}: no record {id}", records.path().display())).user()
    }
}

/// Entries of a folder called `{start}N{end}`, with N; none if there is no such folder.
fn numbered(folder: &Path, start: &str, end: &str) -> Result<Vec<(u64, PathBuf)>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        found.extend(number(&path, start, end).map(|number| (number, path)));
    }
    Ok(found)
}

fn number(path: &Path, start: &str, end: &str) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(start)?.strip_suffix(end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::write_atomically;

    #[test]
    fn recorded_groups_are_found_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path();
        write_atomically(&run.join("config.toml"), Config::default().to_toml().unwrap().as_bytes()).unwrap();
        for (step, group) in [(10, 0), (2, 11), (2, 2)] {
            let step = run.join(format!("rollouts/step-{step}"));
            fs_err::create_dir_all(&step).unwrap();
            write_atomically(&step.join(format!("group-{group}.safetensors")), b"").unwrap();
        }
        write_atomically(&run.join("rollouts/step-2/notes.txt"), b"").unwrap();
        let opened = RecordedRun::open(run, &[]).unwrap();
        let places: Vec<_> = opened.rollouts().unwrap().iter().map(|found| (found.step, found.group)).collect();
        assert_eq!(places, [(2, 2), (2, 11), (10, 0)]);

        let (found, rollout) =
            RecordedRun::of(&run.join("rollouts/step-2/group-11.safetensors"), &[]).unwrap().unwrap();
        assert_eq!((found.path(), rollout.step, rollout.group), (opened.path(), 2, 11));
        assert!(RecordedRun::of(&run.join("group-11.safetensors"), &[]).unwrap().is_none());
    }
}
