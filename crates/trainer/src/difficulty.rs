//! How hard a model finds questions: the share of its completions that are right (Video-KTR keeps 20% to 80% of 8).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use foveate_data::Records;
use foveate_policy::Observe;

use crate::answer::{Candidate, Examinee, answered, correctness};
use crate::cli::FilterArgs;
use crate::config::resolve_plain;
use crate::data::{Examples, Loader, LoaderOptions, LoaderState, Order, View};
use crate::error::user_error;
use crate::run::existing_model;

/// Shares of right completions by record.
#[derive(Debug)]
pub struct Difficulty {
    shares: HashMap<usize, f64>,
    least: f64,
    most: f64,
}

impl Difficulty {
    /// Has the model answer every question `args.samples` times, as training would draw completions.
    ///
    /// # Errors
    /// A user error: the model or the examples cannot be read, or a setting is wrong.
    pub fn measure(records: &Arc<Records>, model: &Path, args: &FilterArgs) -> Result<Self> {
        let config = resolve_plain(&args.settings.layers(args.algo.as_deref()))?;
        existing_model("--model", model)?;
        if args.samples == 0 || args.min_accuracy > args.max_accuracy {
            return Err(user_error("expected --samples of at least 1 and --min-accuracy of at most --max-accuracy"));
        }
        let candidate = Candidate::load(model, &config)?;
        let shares = candidate.examinee(model, &config).shares(records, args.samples)?;
        if shares.is_empty() {
            return Err(user_error("none of the examples could be judged"));
        }
        Ok(Self { shares, least: args.min_accuracy, most: args.max_accuracy })
    }

    /// Whether the record is neither too hard nor too easy; one that could not be prepared or judged is not kept.
    pub fn keeps(&self, record: usize) -> bool {
        self.shares.get(&record).is_some_and(|share| (self.least..=self.most).contains(share))
    }
}

impl Examinee<'_> {
    /// The share of right ones among `samples` completions of every example, seen as training sees them.
    fn shares(&self, records: &Arc<Records>, samples: usize) -> Result<HashMap<usize, f64>> {
        let (config, count) = (self.config, records.len());
        let view = View::training(config, self.dir);
        let examples = Examples::of(Arc::clone(records), &view, config, Arc::clone(self.text))?.judged();
        let batch = config.rollout.prompts_per_step;
        let options =
            LoaderOptions { depth: 2 * batch, threads: config.data.threads, on_bad: config.data.on_bad_example };
        let mut loader = Loader::new(examples, Order::Once(count), options, LoaderState::default())?;
        let params = config.rollout.sampling(Observe::default());
        let (mut shares, mut shown) = (HashMap::new(), answered(0, count));
        loop {
            let prepared = loader.batch(batch)?.examples;
            let Some(first) = prepared.first().map(|example| example.record as u64) else {
                let bad = loader.state().bad.len();
                if bad > 0 {
                    tracing::warn!("{bad} records could not be prepared and are not kept");
                }
                return Ok(shares);
            };
            let prompts: Vec<_> =
                prepared.iter().map(|example| self.policy.encode(&example.prompt)).collect::<Result<_, _>>()?;
            let rollouts = self.completions(first, &prompts, &params, samples)?;
            for (example, rollout) in prepared.iter().zip(rollouts) {
                let mut right = 0.0;
                for ids in &rollout.ids {
                    right += f64::from(correctness(&example.example, &self.text.decode(ids)?));
                }
                let share = right / samples as f64;
                if !share.is_nan() {
                    shares.insert(example.record, share);
                }
            }
            shown(loader.state().position);
        }
    }
}
