//! How hard a model finds questions: the share of its completions that are right (Video-KTR keeps 20% to 80% of 8).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use foveate_data::Records;
use foveate_policy::Observe;

use crate::answer::{Candidate, Examinee, answered, correctness};
use crate::begun::{Begun, judging};
use crate::cli::FilterArgs;
use crate::config::resolve_plain;
use crate::data::{Examples, Loader, LoaderOptions, Order, View};
use crate::error::user_error;
use crate::run::{Stop, existing_model};

/// Shares of right completions by record.
#[derive(Debug)]
pub struct Difficulty {
    shares: HashMap<usize, f64>,
    begun: Begun<(usize, f64)>,
    least: f64,
    most: f64,
}

impl Difficulty {
    /// Has the model answer every question `args.samples` times, as training would draw completions, from where an earlier
    /// command was stopped; `None` if this one is stopped too.
    ///
    /// # Errors
    /// A user error: the model or the examples cannot be read, or a setting is wrong.
    pub fn measure(records: &Arc<Records>, model: &Path, args: &FilterArgs, stop: &Stop) -> Result<Option<Self>> {
        let config = resolve_plain(&args.settings.layers(args.algo.as_deref()))?;
        existing_model("--model", model)?;
        if args.samples == 0 || args.min_accuracy > args.max_accuracy {
            return Err(user_error("expected --samples of at least 1 and --min-accuracy of at most --max-accuracy"));
        }
        let candidate = Candidate::load(model, &config)?;
        let mut begun =
            Begun::beside(&args.output, &judging(&args.source, model, &config, ("difficulty", args.samples))?)?;
        let Some(shares) = candidate.examinee(model, &config).shares(records, args.samples, &mut begun, stop)? else {
            return Ok(None);
        };
        if shares.is_empty() {
            return Err(user_error("none of the examples could be judged"));
        }
        Ok(Some(Self { shares, begun, least: args.min_accuracy, most: args.max_accuracy }))
    }

    /// The records are written: what was kept to go on with is needed no more.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn done(self) -> Result<()> {
        self.begun.remove()
    }

    /// Whether the record is neither too hard nor too easy; one that could not be prepared or judged is not kept.
    pub fn keeps(&self, record: usize) -> bool {
        self.shares.get(&record).is_some_and(|share| (self.least..=self.most).contains(share))
    }
}

impl Examinee<'_> {
    /// The share of right ones among `samples` completions of every example, seen as training sees them.
    fn shares(
        &self,
        records: &Arc<Records>,
        samples: usize,
        begun: &mut Begun<(usize, f64)>,
        stop: &Stop,
    ) -> Result<Option<HashMap<usize, f64>>> {
        let (config, count) = (self.config, records.len());
        let view = View::training(config, self.dir);
        let examples = Examples::of(Arc::clone(records), &view, config, Arc::clone(self.text))?.judged();
        let batch = config.rollout.prompts_per_step;
        let options =
            LoaderOptions { depth: 2 * batch, threads: config.data.threads, on_bad: config.data.on_bad_example };
        let (shares, state) = begun.taken();
        let mut shares: HashMap<_, _> = shares.into_iter().collect();
        let mut loader = Loader::new(examples, Order::Once(count), options, state)?;
        let params = config.rollout.sampling(Observe::default());
        let mut shown = answered(loader.state().position, count);
        loop {
            if stop.requested() {
                println!("stopped after {} records; the same command goes on from there", loader.state().position);
                return Ok(None);
            }
            let prepared = loader.batch(batch)?.examples;
            let Some(first) = prepared.first().map(|example| example.record as u64) else {
                let bad = loader.state().bad.len();
                if bad > 0 {
                    tracing::warn!("{bad} records could not be prepared and are not kept");
                }
                return Ok(Some(shares));
            };
            let prompts: Vec<_> =
                prepared.iter().map(|example| self.policy.encode(&example.prompt)).collect::<Result<_, _>>()?;
            let rollouts = self.completions(first, &prompts, &params, samples)?;
            let mut judged = Vec::new();
            for (example, rollout) in prepared.iter().zip(rollouts) {
                let mut right = 0.0;
                for ids in &rollout.ids {
                    right += f64::from(correctness(&example.example, &self.text.decode(ids)?));
                }
                let share = right / samples as f64;
                if !share.is_nan() {
                    judged.push((example.record, share));
                }
            }
            begun.add(loader.state(), &judged)?;
            shares.extend(judged);
            shown(loader.state().position);
        }
    }
}
