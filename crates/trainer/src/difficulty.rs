//! How hard a model finds questions: the share of its completions that are right (Video-KTR keeps 20% to 80% of 8).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use foveate_data::Records;
use foveate_policy::{LoadOptions, Observe, SamplingParams, TextProcessor, Trainable, Vlm};
use foveate_reward::Rubric;

use crate::answer::{Examinee, answered, judge};
use crate::cli::FilterArgs;
use crate::config::resolve_plain;
use crate::data::{Examples, Loader, LoaderOptions, LoaderState, Order};
use crate::error::{UserContext, existing, user_error};
use crate::train::load_options;

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
    pub fn measure(records: &Records, model: &Path, args: &FilterArgs) -> Result<Self> {
        let mut config = resolve_plain(&args.settings.layers(args.algo.as_deref()))?;
        existing("--model", model)?;
        if args.samples == 0 || args.min_accuracy > args.max_accuracy {
            return Err(user_error("expected --samples of at least 1 and --min-accuracy of at most --max-accuracy"));
        }
        config.data.train = Some(records.path().to_owned());
        config.data.format = records.format();
        config.data.media_root = Some(records.media_root().to_owned());
        let options = LoadOptions { trainable: Trainable::Nothing, ..load_options(&config)? };
        let policy = Vlm::load(model, &options).user()?;
        let text = Arc::new(TextProcessor::load(model).user()?);
        let rubric = Rubric::new(config.reward.clone()).user()?;
        let examinee = Examinee { policy: &policy, dir: model, text: &text, rubric: &rubric, config: &config };
        let shares = examinee.shares(records.len(), args.samples)?;
        if shares.is_empty() {
            return Err(user_error("none of the examples could be prepared and judged"));
        }
        Ok(Self { shares, least: args.min_accuracy, most: args.max_accuracy })
    }

    /// Whether the record is neither too hard nor too easy; one that could not be prepared or judged is not kept.
    pub fn keeps(&self, record: usize) -> bool {
        self.shares.get(&record).is_some_and(|share| (self.least..=self.most).contains(share))
    }
}

impl Examinee<'_> {
    /// The share of right ones among `samples` completions of every training example.
    fn shares(&self, count: usize, samples: usize) -> Result<HashMap<usize, f64>> {
        let (config, rollout) = (self.config, &self.config.rollout);
        let examples = Examples::train(config, self.dir, Arc::clone(self.text))?;
        let batch = rollout.prompts_per_step;
        let options =
            LoaderOptions { depth: 2 * batch, threads: config.data.threads, on_bad: config.data.on_bad_example };
        let mut loader = Loader::new(examples, Order::Once(count), options, LoaderState::default())?;
        let params = SamplingParams {
            max_new_tokens: rollout.max_new_tokens,
            temperature: rollout.temperature,
            top_p: rollout.top_p,
            top_k: rollout.top_k,
            repetition_penalty: 1.0,
            max_rows: rollout.max_rows,
            observe: Observe::default(),
        };
        let (mut shares, each) = (HashMap::new(), answered());
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
                let judged = judge(self.rubric, self.text, example, &rollout)?;
                let right: Vec<f64> = judged.iter().map(|(_, reward)| f64::from(reward.accuracy)).collect();
                let share = right.iter().sum::<f64>() / samples as f64;
                if !share.is_nan() {
                    shares.insert(example.record, share);
                }
            }
            each(loader.state().position as usize, count);
        }
    }
}
