//! SAMPLE and SCORE: completions of a step's prompts, and what they are worth.

use anyhow::{Context, Result};
use foveate_algo::{Layers, MediaKind, Reordering, ScoredGroup};
use foveate_policy::{Completions, Draw, Encoded, Media, Observe, Rollout, SamplingParams};
use foveate_reward::Reward;
use ndarray::{Array1, Array2};

use crate::{
    answer::judge,
    counterfactual::reordered,
    data::{Example, Prepared},
    step::{Clock, FRAME_LAYERS, Stepper},
};

/// Gives the next examples, as many as are asked for.
pub type Supply<'a> = dyn FnMut(usize) -> Result<Vec<Prepared>> + 'a;

/// A prompt with the completions that the policy gave.
#[derive(Debug)]
pub struct Group {
    /// The example and its prompt.
    pub example: Prepared,
    /// What the prompt shows.
    pub media: MediaKind,
    /// The group's number within the step, after which its random streams are named.
    pub number: u64,
    /// The prompt as every pass over the group shares it.
    pub encoded: Encoded,
    /// What was sampled.
    pub rollout: Rollout,
    /// The same as padded tensors.
    pub completions: Completions,
    /// What was sampled with the frames in a random order, where the algorithm needs it.
    pub contrast: Option<Rollout>,
}

/// The scores of a group's completions.
#[derive(Debug)]
pub struct Scores {
    /// Text of each completion.
    pub texts: Vec<String>,
    /// Reward of each completion with its parts.
    pub rewards: Vec<Reward>,
    /// The same as the algorithm reads it.
    pub group: ScoredGroup,
    /// Accuracy of each contrast completion, where the algorithm needs it.
    pub contrast: Option<Array1<f32>>,
}

/// What a step trains on, and what it drew for nothing.
#[derive(Debug, Default)]
pub struct Drawn {
    /// Prompts and completions.
    pub groups: Vec<Group>,
    /// Their scores.
    pub scores: Vec<Scores>,
    /// Examples whose groups the algorithm did not keep, with their scores.
    pub dropped: Vec<(Example, Scores)>,
    /// How often groups were drawn in the place of such; `None` if the algorithm keeps everything.
    pub refills: Option<usize>,
    /// Groups that the step lacks, because the refills are used up.
    pub missing: usize,
}

impl Drawn {
    /// Scores of all that was drawn.
    pub fn all_scores(&self) -> impl Iterator<Item = &Scores> {
        self.scores.iter().chain(self.dropped.iter().map(|(_, scores)| scores))
    }
}

impl Stepper<'_> {
    /// Draws and scores `rollout.prompts_per_step` groups. Those that the algorithm does not keep are replaced by groups of
    /// further examples (DAPO's dynamic sampling), as often as it says; then the step goes on with what there is.
    pub(crate) fn draw(&self, step: u64, supply: &mut Supply<'_>, clock: &mut Clock) -> Result<Drawn> {
        let wanted = self.config.rollout.prompts_per_step;
        let most = self.algorithm.max_refills();
        let mut drawn = Drawn { refills: most.map(|_| 0), ..Drawn::default() };
        loop {
            let examples = supply(wanted - drawn.groups.len())?;
            let first = (drawn.groups.len() + drawn.dropped.len()) as u64;
            let groups = clock.time("timing/sample", || self.sample(step, first, examples))?;
            let scores: Vec<_> =
                clock.time("timing/score", || groups.iter().map(|group| self.score(group)).collect::<Result<_>>())?;
            for (group, scores) in groups.into_iter().zip(scores) {
                if most.is_none() || self.algorithm.keeps(&scores.group) {
                    drawn.groups.push(group);
                    drawn.scores.push(scores);
                } else {
                    drawn.dropped.push((group.example.example, scores));
                }
            }
            drawn.missing = wanted - drawn.groups.len();
            match (&mut drawn.refills, most) {
                (Some(refills), Some(most)) if drawn.missing > 0 && *refills < most => *refills += 1,
                _ => return Ok(drawn),
            }
        }
    }

    /// The completions of every prompt, each prompt and its video computed once. Contrast completions are drawn in the same
    /// batch as the others.
    fn sample(&self, step: u64, first: u64, examples: Vec<Prepared>) -> Result<Vec<Group>> {
        let count = self.config.rollout.completions;
        let mut prompts = Vec::with_capacity(examples.len());
        for (number, example) in (first..).zip(&examples) {
            let of_example = || format!("example {}", example.example.id);
            let encoded = self.policy.encode(&example.prompt).with_context(of_example)?;
            let media = media(example);
            let contrasts = self.algorithm.needs(media).contrast && count > 1;
            let seed = self.seed(step, number);
            let contrast = contrasts.then(|| reordered(self.policy, &encoded, Reordering::Shuffled, seed));
            prompts.push((number, media, encoded, contrast.transpose().with_context(of_example)?));
        }
        let own = prompts.iter().map(|(number, _, prompt, _)| Draw {
            prompt,
            completions: count,
            seed: self.seed(step, *number),
        });
        let contrasts = prompts.iter().filter_map(|(number, _, _, prompt)| {
            let seed = self.seed(step, !number); // a stream that no group of the step has
            Some(Draw { prompt: prompt.as_ref()?, completions: count / 2, seed })
        });
        let draws: Vec<_> = own.chain(contrasts).collect();
        let mut rollouts = self.policy.rollout(&draws, &self.sampling(&examples), self.text.eos_ids())?;
        let mut contrasts = rollouts.split_off(examples.len()).into_iter();
        let groups = examples.into_iter().zip(prompts).zip(rollouts);
        let groups = groups.map(|((example, (number, media, encoded, contrast)), rollout)| Group {
            completions: Completions::new(&rollout.ids, self.policy.device()),
            contrast: contrast.and_then(|_| contrasts.next()),
            example,
            media,
            number,
            encoded,
            rollout,
        });
        Ok(groups.collect())
    }

    /// How completions are drawn, and what of them is seen meanwhile: what the algorithm needs, and attention to events
    /// that the data knows of.
    fn sampling(&self, examples: &[Prepared]) -> SamplingParams {
        let needs = || examples.iter().map(|example| self.algorithm.needs(media(example)));
        let event = || examples.iter().any(Prepared::knows_event).then_some(FRAME_LAYERS);
        let layers: Option<Layers> = needs().find_map(|needs| needs.frame_attention);
        self.config.rollout.sampling(Observe {
            frame_layers: layers.or_else(event),
            hidden: needs().any(|needs| needs.distributions),
            entropy: true,
        })
    }

    fn score(&self, group: &Group) -> Result<Scores> {
        let judged = |rollout| judge(self.rubric, self.text, &group.example, rollout);
        let (texts, rewards): (Vec<String>, Vec<Reward>) = judged(&group.rollout)?.into_iter().unzip();
        // A group of one has no contrast completion, and so no accuracy of one.
        let contrast = self.algorithm.needs(group.media).contrast.then(|| {
            let judged = group.contrast.as_ref().map_or(Ok(Vec::new()), judged)?;
            anyhow::Ok(judged.iter().map(|(_, reward)| reward.accuracy).collect())
        });
        let longest = group.completions.length() as usize;
        Ok(Scores {
            group: ScoredGroup {
                rewards: rewards.iter().map(|reward| reward.total).collect(),
                accuracy: rewards.iter().map(|reward| reward.accuracy).collect(),
                mask: Array2::from_shape_fn((texts.len(), longest), |(i, t)| t < group.rollout.ids[i].len()),
                truncated: Array1::from_vec(group.rollout.truncated.clone()),
                media: group.media,
            },
            contrast: contrast.transpose()?,
            texts,
            rewards,
        })
    }
}

/// What an example's prompt shows.
fn media(example: &Prepared) -> MediaKind {
    let media = &example.prompt.media;
    match media.iter().any(|medium| matches!(medium, Media::Video(_))) {
        true => MediaKind::Video,
        false if media.is_empty() => MediaKind::Text,
        false => MediaKind::Image,
    }
}
