//! The policy's answers to a file of examples: what `eval` and the ends of training measure.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use foveate_policy::{Draw, GroupSeed, Observe, Rollout, SamplingParams, TextProcessor, Vlm};
use foveate_reward::{Answer, Rubric};
use ndarray::{Array3, s};

use crate::{
    config::Config,
    data::{BadExample, Examples, Loader, LoaderOptions, LoaderState, Order, Prepared},
    eval::Item,
    observe::mean_over_layers,
    run::{Progress, Stop},
    stats::event_attention,
    step::FRAME_LAYERS,
};

/// Tells evaluation's random streams from those of training steps.
const EVAL_STEP: u64 = u64::MAX;

/// A policy with what is needed to judge its answers.
#[derive(Debug, Clone, Copy)]
pub struct Examinee<'a> {
    /// The policy.
    pub policy: &'a Vlm,
    /// Its directory, for its preprocessing.
    pub dir: &'a Path,
    /// Its tokens.
    pub text: &'a Arc<TextProcessor>,
    /// How answers are judged.
    pub rubric: &'a Rubric,
    /// The configuration; `eval` is used.
    pub config: &'a Config,
}

/// The answers to a file of examples.
#[derive(Debug, Default)]
pub struct Answers {
    /// Every answered item, in the order of the file.
    pub items: Vec<Item>,
    /// Examples that could not be read.
    pub bad: Vec<BadExample>,
}

impl Examinee<'_> {
    /// Answers the first `eval.limit` examples of a file, one completion each. `each` hears how many are done of how
    /// many. Ends early, with what there is, if asked to stop.
    ///
    /// # Errors
    /// The file cannot be read, or a prompt does not fit the model.
    pub fn answer(&self, file: &Path, stop: &Stop, each: &dyn Fn(usize, usize)) -> Result<Answers> {
        let eval = &self.config.eval;
        let examples = Examples::evaluation(file, self.config, self.dir, Arc::clone(self.text))?;
        let records = examples.records().len();
        let count = if eval.limit == 0 { records } else { records.min(eval.limit) };
        let options = LoaderOptions {
            depth: 2 * eval.batch,
            threads: self.config.data.threads,
            on_bad: self.config.data.on_bad_example,
        };
        let mut loader = Loader::new(examples, Order::Once(count), options, LoaderState::default())?;
        let mut answers = Answers::default();
        each(0, count);
        while !stop.requested() {
            let batch = loader.batch(eval.batch)?;
            answers.bad.extend(batch.bad);
            if batch.examples.is_empty() {
                break;
            }
            answers.items.extend(self.answer_batch(answers.items.len() as u64, &batch.examples)?);
            each(answers.items.len() + answers.bad.len(), count);
        }
        Ok(answers)
    }

    fn answer_batch(&self, first: u64, examples: &[Prepared]) -> Result<Vec<Item>> {
        let eval = &self.config.eval;
        let params = SamplingParams {
            max_new_tokens: self.config.eval_tokens(),
            temperature: eval.temperature,
            top_p: eval.top_p,
            top_k: eval.top_k,
            max_rows: 0,
            observe: Observe {
                frame_layers: examples.iter().any(Prepared::knows_event).then_some(FRAME_LAYERS),
                ..Observe::default()
            },
        };
        let seed = self.config.run.seed;
        let encoded =
            examples.iter().map(|sample| self.policy.encode(&sample.prompt)).collect::<Result<Vec<_>, _>>()?;
        let draws: Vec<_> = (first..)
            .zip(&encoded)
            .map(|(group, prompt)| Draw { prompt, completions: 1, seed: GroupSeed { seed, step: EVAL_STEP, group } })
            .collect();
        let rollouts = self.policy.rollout(&draws, &params, self.text.eos_ids())?;
        let item = |(sample, rollout): (&Prepared, &Rollout)| {
            let completion = self.text.decode(&rollout.ids[0])?;
            let reward = self.rubric.score(&Answer::new(&sample.example.answer), &completion);
            let attention = rollout.frame_attention.as_ref().map(mean_over_layers).transpose()?;
            let of_tokens = |attention: Array3<f32>| {
                event_attention(attention.slice(s![0, ..rollout.ids[0].len(), ..]), &sample.event)
            };
            Ok(Item {
                id: sample.example.id.clone(),
                kind: sample.example.kind.clone(),
                answer: sample.example.answer.clone(),
                completion,
                accuracy: reward.accuracy,
                reward: reward.total,
                length: rollout.ids[0].len(),
                truncated: rollout.truncated[0],
                event: attention.and_then(of_tokens),
            })
        };
        examples.iter().zip(&rollouts).map(item).collect()
    }
}

/// Shows how many examples are answered, of how many.
pub fn answered() -> impl Fn(usize, usize) {
    let shown = std::cell::RefCell::new(None);
    move |done, all| {
        let mut shown = shown.borrow_mut();
        let progress = shown.get_or_insert_with(|| Progress::start(0, all as u64));
        progress.at(done as u64, "answered");
        if done == all {
            progress.finish();
        }
    }
}
