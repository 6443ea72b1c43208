//! What a run came to, read from its folder.

use anyhow::{Context, Result};
use foveate_algo::MediaKind;
use serde_json::{Map, Value};

use super::interval::mean;
use super::runs::Run;
use crate::config::Config;
use crate::eval::{Item, Share, event, read_items};
use crate::stats::EventAttention;
use crate::train::{AFTER, BEFORE};

/// Steps at either end of a run that a metric is averaged over; half of them if the run has fewer than twice as many.
pub(super) const ENDS: usize = 20;

/// What a finished run came to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Its settings.
    pub(super) config: Config,
    /// Its answers before training.
    pub(super) before: Vec<Item>,
    /// Its answers after training.
    pub(super) after: Vec<Item>,
    /// A line a step.
    metrics: Vec<Map<String, Value>>,
}

impl Outcome {
    /// What a finished run came to.
    ///
    /// # Errors
    /// A file of the run cannot be read.
    pub(super) fn read(run: &Run) -> Result<Self> {
        let path = run.folder.metrics();
        let lines = fs_err::read_to_string(&path)?;
        let metrics = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        Ok(Self {
            config: run.config.clone(),
            before: read_items(&run.folder.evaluation(BEFORE))?,
            after: read_items(&run.folder.evaluation(AFTER))?,
            metrics: metrics.with_context(|| path.display().to_string())?,
        })
    }

    /// Held-out accuracy before and after, in percent.
    pub(super) fn accuracy(&self) -> [f64; 2] {
        [&self.before, &self.after].map(|items| 100.0 * Share::of(items).mean)
    }

    /// Attention to the event's frames before and after; `None` if the held-out examples know of no event.
    pub(super) fn event(&self) -> Option<[EventAttention; 2]> {
        Some([event(&self.before)?, event(&self.after)?])
    }

    /// Steps that a metric is averaged over at either end.
    pub(super) fn window(&self) -> usize {
        ENDS.min(self.metrics.len() / 2).max(1)
    }

    /// Means of a metric over the first and the last steps; NaN where no step has it.
    pub(super) fn ends(&self, metric: &str) -> [f64; 2] {
        let window = self.window();
        let of = |lines: &[Map<String, Value>]| {
            let values: Vec<f64> = lines.iter().filter_map(|line| line.get(metric)?.as_f64()).collect();
            mean(&values)
        };
        let last = self.metrics.len().saturating_sub(window);
        [of(&self.metrics[..window.min(self.metrics.len())]), of(&self.metrics[last..])]
    }

    /// Mean of a metric over all steps that have it.
    pub(super) fn mean(&self, metric: &str) -> f64 {
        mean(&self.values(metric).collect::<Vec<_>>())
    }

    /// Seconds of all steps.
    pub(super) fn seconds(&self) -> f64 {
        self.values("step_time").sum()
    }

    /// Completions that were drawn, those of groups that were not kept included, and contrast completions.
    pub(super) fn drawn(&self) -> Result<[f64; 2]> {
        let rollout = &self.config.rollout;
        let groups = |line: &Map<String, Value>| {
            let count = |metric: &str| line.get(metric).and_then(Value::as_f64);
            count("sampling/groups_kept").unwrap_or(rollout.prompts_per_step as f64)
                + count("sampling/groups_dropped").unwrap_or(0.0)
        };
        let groups: f64 = self.metrics.iter().map(groups).sum();
        let contrasts = self.config.algo.algorithm()?.needs(MediaKind::Video).contrast;
        let contrasts = if contrasts { rollout.completions / 2 } else { 0 };
        Ok([rollout.completions, contrasts].map(|of_group| groups * of_group as f64))
    }

    fn values(&self, metric: &str) -> impl Iterator<Item = f64> {
        self.metrics.iter().filter_map(move |line| line.get(metric)?.as_f64())
    }
}

/// What an algorithm computes besides sampling a group and one update on it, of a video, in words.
pub(super) fn extra(config: &Config) -> Result<String> {
    let algorithm = config.algo.algorithm()?;
    let needs = algorithm.needs(MediaKind::Video);
    let views = [needs.masked.map(|_| "masked"), needs.reordered.map(|_| "reordered")];
    let views: Vec<&str> = views.into_iter().flatten().collect();
    let mut parts = Vec::new();
    if !views.is_empty() {
        parts.push(format!("{} forward ({})", views.len(), views.join(", ")));
    }
    if config.optim.minibatches > 1 {
        parts.push(format!(
            "own log-probs of {} of {} mini-batches",
            config.optim.minibatches - 1,
            config.optim.minibatches
        ));
    }
    if needs.reference {
        parts.push("reference log-probs".to_owned());
    }
    if needs.contrast {
        parts.push(format!("{} contrast completions", config.rollout.completions / 2));
    }
    if let Some(refills @ 1..) = algorithm.max_refills() {
        parts.push(format!("up to {refills} refills"));
    }
    match config.optim.updates_per_rollout {
        0 | 1 => {}
        2 => parts.push("1 more update".to_owned()),
        updates => parts.push(format!("{} more updates", updates - 1)),
    }
    Ok(if parts.is_empty() { "none".to_owned() } else { parts.join(" + ") })
}
