//! A run's evaluations on held-out examples, and the report that compares those at its ends.

use std::time::Duration;

use anyhow::Result;

use super::{Run, every, learner::Learner};
use crate::{
    config::{Config, load_run},
    error::user_error,
    eval::{self, Item, comparison, read_items},
    run::{RunFolder, write_lines},
};

/// Names of the evaluations at the ends.
pub(crate) const BEFORE: &str = "before";
pub(crate) const AFTER: &str = "after";

/// The configuration of a run that is to go on. What was evaluated before is compared with what will be, so that both
/// must be evaluated alike.
pub(super) fn resumed(folder: &RunFolder, changes: &[String]) -> Result<Config> {
    let config = load_run(&folder.config(), changes)?;
    let before = folder.evaluation(BEFORE);
    if before.exists() && !config.evaluates_like(&load_run(&folder.config(), &[])?) {
        return Err(user_error(format!(
            "--set: {} was evaluated otherwise; evaluate checkpoints with `trainer eval`, or remove that file",
            before.display()
        )));
    }
    Ok(config)
}

impl<L: Learner> Run<'_, L> {
    /// The evaluation of this step, if there is to be one.
    pub(super) fn evaluate_if_due(&self) -> Result<()> {
        let step = self.state.step;
        if step > 0 && step < self.config.run.steps && every(self.config.eval.every, step) {
            self.evaluation(&format!("step-{step}"))?;
        }
        Ok(())
    }

    /// The evaluation at an end of the run, if there is to be one.
    pub(super) fn end(&self, name: &str) -> Result<Option<Vec<Item>>> {
        let (path, step) = (self.folder.evaluation(name), self.state.step);
        let late = name == BEFORE && step > 0 && !path.exists();
        if !self.config.eval.at_ends || late { Ok(None) } else { self.evaluation(name) }
    }

    /// Evaluates on the held-out examples, unless a run before this one did so already; `None` without any, or if the
    /// run was asked to stop meanwhile.
    fn evaluation(&self, name: &str) -> Result<Option<Vec<Item>>> {
        let Some(test) = self.config.data.test.as_deref() else { return Ok(None) };
        let path = self.folder.evaluation(name);
        if path.exists() {
            return Ok(Some(read_items(&path)?));
        }
        tracing::info!("evaluating ({name})");
        let answers = self.learner.answer(self.config, test, self.stop)?;
        if self.stop.requested() {
            return Ok(None);
        }
        if answers.bad > 0 {
            tracing::warn!("{} held-out examples could not be read and are left out", answers.bad);
        }
        write_lines(&path, &answers.items)?;
        let share = eval::Share::of(&answers.items);
        tracing::info!("accuracy {name}: {:.1}% of {}", 100.0 * share.mean, share.items);
        Ok(Some(answers.items))
    }

    /// What the run ended with. `time`: that of this process, and of the steps of those before it.
    pub(super) fn report(&self, before: Option<&[Item]>, after: Option<&[Item]>, time: Duration) -> String {
        let seconds = time.as_secs();
        let name = self.config.name();
        let table = match (before, after) {
            (Some(before), Some(after)) => {
                let table = comparison(before, after);
                let remarks = L::remarks(before, after);
                format!("\n{name}: held-out accuracy in percent, with 95% intervals\n\n{table}{remarks}\n")
            }
            _ => String::new(),
        };
        format!(
            "{table}time      {}:{:02} min, {:.1}% of the steps' waiting for data\nrun       {}\n\
             bad data  {} examples skipped\n",
            seconds / 60,
            seconds % 60,
            100.0 * self.waits.data / self.waits.steps.max(f64::MIN_POSITIVE),
            self.folder.path().display(),
            self.state.loader.bad.len()
        )
    }
}
