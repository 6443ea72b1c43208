//! The policy's answers to a file of examples: what `eval` and the ends of training measure.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context, Result};
use foveate_algo::Reordering;
use foveate_policy::{
    Draw, Encoded, GroupSeed, LoadOptions, Observe, Rollout, SamplingParams, TextProcessor, Trainable, Vlm,
};
use foveate_reward::{
    AnswerRule, Completion, ProblemType, Reward, Rubric, TimeBins, accuracy, answer_text, mean_relative_accuracy,
    soft_choice, temporal_iou, time_spans,
};
use ndarray::{Array3, s};

use crate::{
    begun::Begun,
    cli::Ablation,
    config::Config,
    counterfactual::reordered,
    data::{Asked, Example, Examples, Loader, LoaderOptions, Order, Prepared, Source, first},
    error::{UserContext, user_error},
    eval::Item,
    observe::mean_over_layers,
    run::{Progress, Stop},
    stats::event_attention,
    step::FRAME_LAYERS,
    train::load_options,
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
    /// What answers earn; none where they are no answers but descriptions, and are not judged.
    pub rubric: Option<&'a Rubric>,
    /// The configuration; `eval` is used.
    pub config: &'a Config,
}

/// A policy that is to be examined and not trained, with its tokens and the rubric of a configuration.
#[derive(Debug)]
pub struct Candidate {
    policy: Vlm,
    text: Arc<TextProcessor>,
    rubric: Rubric,
}

impl Candidate {
    /// Loads a model's directory.
    ///
    /// # Errors
    /// A user error: the model cannot be read, a setting is wrong, or the algorithm is not one of answers.
    pub fn load(dir: &Path, config: &Config) -> Result<Self> {
        if config.algo.picks_frames() {
            return Err(user_error(
                "algorithm refocus answers no questions: expected an algorithm of tokens (--algo, algo.name)",
            ));
        }
        let options = LoadOptions { trainable: Trainable::Nothing, ..load_options(config)? };
        Ok(Self {
            policy: Vlm::load(dir, &options).user()?,
            text: Arc::new(TextProcessor::load(dir).user()?),
            rubric: Rubric::new(config.reward.clone()).user()?,
        })
    }

    /// The same, ready to be asked.
    pub fn examinee<'a>(&'a self, dir: &'a Path, config: &'a Config) -> Examinee<'a> {
        Examinee { policy: &self.policy, dir, text: &self.text, rubric: Some(&self.rubric), config }
    }
}

/// What is to be answered.
#[derive(Debug, Clone, Copy)]
pub struct Exam<'a> {
    /// The examples, and what is shown of them.
    pub asked: Asked<'a>,
    /// Whether to stop.
    pub stop: &'a Stop,
}

/// The answers to a file of examples.
#[derive(Debug, Default)]
pub struct Answers {
    /// Every answered item, in the order of the file.
    pub items: Vec<Item>,
    /// How many examples could not be read.
    pub bad: usize,
}

impl Examinee<'_> {
    /// Answers the first `eval.limit` examples of a file, one completion each, but for those that `begun` has,
    /// where they are kept as they come, and shows how many are done. Ends early, with what there is, if asked to stop.
    ///
    /// # Errors
    /// The file cannot be read, a prompt does not fit the model, or answers cannot be kept.
    pub(crate) fn answer(&self, exam: &Exam<'_>, mut begun: Option<&mut Begun<Item>>) -> Result<Answers> {
        let eval = &self.config.eval;
        let mut examples = Examples::evaluation(&exam.asked, self.config, self.dir, Arc::clone(self.text))?;
        if self.rubric.is_some() {
            examples = examples.judged();
        }
        let count = first(examples.count(), eval.limit);
        let options = LoaderOptions {
            depth: 2 * eval.batch,
            threads: self.config.data.threads,
            on_bad: self.config.data.on_bad_example,
        };
        let (items, state) = begun.as_mut().map(|begun| begun.taken()).unwrap_or_default();
        let mut loader = Loader::new(examples, Order::Once(count), options, state)?;
        let mut answers = Answers { items, bad: 0 };
        let mut shown = answered(loader.state().position, count);
        while !exam.stop.requested() {
            let examples = loader.batch(eval.batch)?.examples;
            if examples.is_empty() {
                break;
            }
            let items = self.answer_batch(answers.items.len() as u64, exam.asked.ablation, &examples)?;
            if let Some(begun) = &mut begun {
                begun.add(loader.state(), &items)?;
            }
            answers.items.extend(items);
            shown(loader.state().position);
        }
        answers.bad = loader.state().bad.len();
        Ok(answers)
    }

    fn answer_batch(&self, first: u64, ablation: Option<Ablation>, examples: &[Prepared]) -> Result<Vec<Item>> {
        let eval = &self.config.eval;
        let params = SamplingParams {
            max_new_tokens: self.config.eval_tokens(),
            temperature: eval.temperature,
            top_p: eval.top_p,
            top_k: eval.top_k,
            repetition_penalty: eval.repetition_penalty,
            max_rows: 0,
            observe: Observe {
                frame_layers: examples.iter().any(Prepared::knows_event).then_some(FRAME_LAYERS),
                ..Observe::default()
            },
        };
        let mut encoded =
            examples.iter().map(|sample| self.policy.encode(&sample.prompt)).collect::<Result<Vec<_>, _>>()?;
        if ablation == Some(Ablation::Shuffle) {
            for (group, prompt) in (first..).zip(&mut encoded) {
                *prompt = reordered(self.policy, prompt, Reordering::Shuffled, self.seed(group))?;
            }
        }
        let rollouts = self.completions(first, &encoded, &params, 1)?;
        examples.iter().zip(&rollouts).map(|(sample, rollout)| self.item(sample, rollout)).collect()
    }

    /// `count` completions of each prompt, drawn under the numbers from `first` on.
    ///
    /// # Errors
    /// A prompt does not fit the model.
    pub fn completions(
        &self,
        first: u64,
        prompts: &[Encoded],
        params: &SamplingParams,
        count: usize,
    ) -> Result<Vec<Rollout>> {
        let draws: Vec<_> = (first..)
            .zip(prompts)
            .map(|(group, prompt)| Draw { prompt, completions: count, seed: self.seed(group) })
            .collect();
        Ok(self.policy.rollout(&draws, params, self.text.eos_ids())?)
    }

    fn seed(&self, group: u64) -> GroupSeed {
        GroupSeed { seed: self.config.run.seed, step: EVAL_STEP, group }
    }

    fn item(&self, sample: &Prepared, rollout: &Rollout) -> Result<Item> {
        let example = &sample.example;
        let attention = rollout.frame_attention.as_ref().map(mean_over_layers).transpose()?;
        let of_tokens =
            |attention: Array3<f32>| event_attention(attention.slice(s![0, ..rollout.ids[0].len(), ..]), &sample.event);
        let item = Item {
            id: example.id.clone(),
            kind: example.kind.clone(),
            duration: example.duration.clone(),
            answer: example.answer.clone(),
            completion: self.text.decode(&rollout.ids[0])?,
            accuracy: f32::NAN,
            reward: f32::NAN,
            length: rollout.ids[0].len(),
            truncated: rollout.truncated[0],
            prompt_tokens: sample.prompt.ids.len(),
            media_tokens: media_tokens(sample, self.policy.config().vision.merge_area() as usize),
            shapes: sample.shapes.clone(),
            event: attention.and_then(of_tokens),
            ..Item::default()
        };
        let Some(rubric) = self.rubric else { return Ok(item) };
        let judged = judge(rubric, self.text, sample, rollout)?;
        let (completion, reward) = judged.into_iter().next().context("no completion was drawn")?;
        Ok(Item {
            given: given(example, &completion),
            accuracy: correctness(example, &completion),
            reward: reward.total,
            scores: also(sample, &completion),
            ..item
        })
    }
}

/// Tokens of each medium in the prompt, of which each holds `area` patches.
fn media_tokens(sample: &Prepared, area: usize) -> Vec<usize> {
    sample.prompt.media.iter().map(|medium| medium.patches().pixels.nrows() / area).collect()
}

/// Each completion of a rollout with its reward.
///
/// # Errors
/// A token has no text, or a remote scorer does not answer.
pub fn judge(
    rubric: &Rubric,
    text: &TextProcessor,
    sample: &Prepared,
    rollout: &Rollout,
) -> Result<Vec<(String, Reward)>> {
    let texts: Vec<String> = rollout.ids.iter().map(|ids| text.decode(ids)).collect::<Result<_, _>>()?;
    let lengths = rollout.ids.iter().map(Vec::len);
    let completions: Vec<Completion<'_>> =
        texts.iter().zip(lengths).map(|(text, length)| Completion { text, tokens: Some(length) }).collect();
    let rewards = rubric.score_group(&sample.asked, &sample.example.gold(), &completions)?;
    Ok(texts.into_iter().zip(rewards).collect())
}

/// How right a completion is, whatever it earns: by its first `<answer>`, several letters in any order; NaN if there is
/// nothing to judge it by. One rule for all, so that policies trained under different rewards can be compared.
pub fn correctness(example: &Example, completion: &str) -> f32 {
    accuracy(&example.gold(), completion, AnswerRule::Letters).unwrap_or(f32::NAN)
}

/// The answer that a completion gives; where a time is asked for, that.
fn given(example: &Example, completion: &str) -> String {
    if example.problem != ProblemType::Grounding {
        return answer_text(completion).to_owned();
    }
    let spans = time_spans(completion).into_iter().map(|[start, end]| format!("{start} to {end}"));
    spans.collect::<Vec<_>>().join(", ")
}

/// What is reported beside the accuracy, where it applies: partial credit where several letters are right, and
/// whether all of them are named and no other; the overlap in time where the prompt asks for times and they are known; and
/// the relative accuracy of numbers.
fn also(sample: &Prepared, completion: &str) -> BTreeMap<String, f32> {
    let gold = sample.example.gold();
    let asks_times = sample.asked.contains("<time>");
    let scores = [
        ("soft", gold.is_multiple().then(|| soft_choice(&gold, completion)).flatten()),
        ("strict", gold.is_multiple().then(|| accuracy(&gold, completion, AnswerRule::Letters)).flatten()),
        ("iou", asks_times.then(|| temporal_iou(&gold, completion, TimeBins::Exact)).flatten()),
        ("relative", mean_relative_accuracy(&gold, completion)),
    ];
    scores.into_iter().filter_map(|(name, score)| Some((name.to_owned(), score?))).collect()
}

/// Shows how many examples of `all` are answered: `done` now, then what it is told.
pub fn answered(done: u64, all: usize) -> impl FnMut(u64) {
    let mut progress = Progress::start(done, all as u64);
    let mut show = move |done| {
        progress.at(done, "answered");
        if done == all as u64 {
            progress.finish();
        }
    };
    show(done);
    show
}
