//! One training step: SAMPLE, SCORE, OBSERVE, CREDIT, UPDATE.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result};
use foveate_algo::{Algorithm, Credit, GroupShape, Layers, MediaKind, Needs, Observations, ScoredGroup};
use foveate_policy::{
    Completions, Encoded, GroupDistributions, GroupSeed, Head, Observe, Rollout, SamplingParams, TextProcessor, Vlm,
};
use foveate_reward::{Answer, Reward, Rubric};
use ndarray::{Array1, Array2, Array3, ArrayD, Ix2, Ix3};
use tch::{Kind, Tensor};

use crate::{
    config::Config,
    data::Prepared,
    passes::{Sizes, cut, passes, segments},
    update::{Updated, Updater, Work},
};

/// Everything that stays the same from step to step.
#[derive(Debug)]
pub struct Stepper<'a> {
    /// The policy that is trained.
    pub policy: &'a Vlm,
    /// The policy that the KL term holds it to.
    pub reference: Option<&'a Vlm>,
    /// Tokens to text.
    pub text: &'a TextProcessor,
    /// What completions are rewarded for.
    pub rubric: &'a Rubric,
    /// How tokens get their credit.
    pub algorithm: &'a dyn Algorithm,
    /// The run's configuration.
    pub config: &'a Config,
}

/// Layers whose attention to the event is logged where the data knows the event and the algorithm does not care.
const EVENT_LAYERS: Layers = Layers::Last(3);

/// A prompt with the completions that the policy gave.
#[derive(Debug)]
pub struct Group {
    /// The example and its prompt.
    pub example: Prepared,
    /// The prompt as every pass over the group shares it.
    pub encoded: Encoded,
    /// What was sampled.
    pub rollout: Rollout,
    /// The same as padded tensors.
    pub completions: Completions,
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
}

/// What was observed of a group beyond its scores.
#[derive(Debug, Default)]
pub struct Seen {
    /// Log-probs `[G, T]` of the reference policy.
    pub ref_logprobs: Option<Tensor>,
    /// Frame attention `[G, T, F]`, mean over the chosen layers.
    pub frame_attention: Option<Array3<f32>>,
    /// Entropy `[G, T]` in nats.
    pub entropy: Option<Array2<f32>>,
    /// The group's token distributions.
    pub distributions: Option<GroupDistributions>,
}

/// A finished step.
#[derive(Debug)]
pub struct Stepped {
    /// Prompts and completions.
    pub groups: Vec<Group>,
    /// Their scores.
    pub scores: Vec<Scores>,
    /// What was observed.
    pub seen: Vec<Seen>,
    /// The credit they got.
    pub credit: Vec<Credit>,
    /// What the optimizer did.
    pub updated: Updated,
    /// Seconds each verb took.
    pub seconds: Vec<(&'static str, f64)>,
}

impl Stepper<'_> {
    /// Runs step number `step` on these examples; the groups are recorded in the folder `record`, if one is given.
    ///
    /// # Errors
    /// If a completion or an observation cannot be used, or loss or gradient are not finite; the policy is unchanged then.
    pub fn run(
        &self,
        step: u64,
        examples: Vec<Prepared>,
        updater: &mut Updater<'_>,
        record: Option<&Path>,
    ) -> Result<Stepped> {
        let mut clock = Clock::default();
        let groups = clock.time("timing/sample", || self.sample(step, examples))?;
        let scores = clock.time("timing/score", || self.score(&groups))?;
        let seen = clock.time("timing/observe", || self.observe(&groups))?;
        let credit = clock.time("timing/credit", || self.credit(&scores, &seen))?;
        if let Some(folder) = record {
            self.record(folder, &groups, &scores, &seen)?;
        }
        let work = Work { groups: &groups, scores: &scores, seen: &seen, credit: &credit };
        let updated = clock.time("timing/update", || updater.update(self, step, work))?;
        Ok(Stepped { groups, scores, seen, credit, updated, seconds: clock.laps })
    }

    /// G completions of every prompt, each prompt and its video computed once.
    fn sample(&self, step: u64, examples: Vec<Prepared>) -> Result<Vec<Group>> {
        let seed = self.config.run.seed;
        let encoded = examples
            .iter()
            .map(|example| {
                self.policy.encode(&example.prompt).with_context(|| format!("example {}", example.example.id))
            })
            .collect::<Result<Vec<_>>>()?;
        let seeds: Vec<_> = (0..examples.len() as u64).map(|group| GroupSeed { seed, step, group }).collect();
        let prompts: Vec<&Encoded> = encoded.iter().collect();
        let event = examples.iter().any(Prepared::knows_event).then_some(EVENT_LAYERS);
        let rollouts = self.policy.rollout(&prompts, &self.sampling(event), &seeds, self.text.eos_ids())?;
        let groups = examples.into_iter().zip(encoded).zip(rollouts).map(|((example, encoded), rollout)| Group {
            completions: Completions::new(&rollout.ids, self.policy.device()),
            example,
            encoded,
            rollout,
        });
        Ok(groups.collect())
    }

    /// How completions are drawn, and what of them is seen meanwhile: what the algorithm needs, and attention to the
    /// event in the layers `event`.
    fn sampling(&self, event: Option<Layers>) -> SamplingParams {
        let (rollout, needs) = (&self.config.rollout, self.algorithm.needs(MediaKind::Video));
        SamplingParams {
            completions: rollout.completions,
            max_new_tokens: rollout.max_new_tokens,
            temperature: rollout.temperature,
            top_p: rollout.top_p,
            top_k: rollout.top_k,
            max_rows: rollout.max_rows,
            observe: Observe {
                frame_layers: needs.frame_attention.or(event),
                hidden: needs.distributions,
                entropy: true,
            },
        }
    }

    /// The head over the distribution that is sampled from.
    pub(crate) fn head(&self, policy: &Vlm) -> Head {
        policy.head(self.config.rollout.temperature)
    }

    fn score(&self, groups: &[Group]) -> Result<Vec<Scores>> {
        groups.iter().map(|group| score_rollout(self.text, self.rubric, group)).collect()
    }

    /// What credit and loss need to know of the groups: what was seen while they were drawn, and the reference policy's
    /// log-probs, which take passes of their own.
    fn observe(&self, groups: &[Group]) -> Result<Vec<Seen>> {
        let needs = self.algorithm.needs(MediaKind::Video);
        let mut seen = groups.iter().map(|group| self.seen(group, &needs)).collect::<Result<Vec<_>>>()?;
        if let Some(reference) = self.reference {
            for (seen, logprobs) in seen.iter_mut().zip(self.logprobs(reference, groups)?) {
                seen.ref_logprobs = Some(logprobs);
            }
        }
        Ok(seen)
    }

    fn seen(&self, group: &Group, needs: &Needs) -> Result<Seen> {
        let rollout = &group.rollout;
        let observes_frames = needs.frame_attention.is_some() || group.example.knows_event();
        let frame_attention = rollout.frame_attention.as_ref().filter(|_| observes_frames);
        let distributions = rollout.hidden.as_ref().filter(|_| needs.distributions);
        Ok(Seen {
            ref_logprobs: None,
            frame_attention: frame_attention.map(mean_over_layers).transpose()?,
            entropy: rollout.entropy.as_ref().map(array2).transpose()?,
            distributions: distributions
                .map(|hidden| GroupDistributions::new(hidden, group.completions.mask(), &self.head(self.policy))),
        })
    }

    /// Teacher-forced log-probs `[G, T]` of every group under a policy.
    fn logprobs(&self, policy: &Vlm, groups: &[Group]) -> Result<Vec<Tensor>> {
        let sizes: Vec<_> = groups.iter().map(|group| Sizes::of(&group.encoded, &group.completions)).collect();
        let head = self.head(policy);
        let found: Vec<_> =
            groups.iter().map(|group| Tensor::zeros_like(group.completions.ids()).to_kind(Kind::Float)).collect();
        for pass in passes(sizes.iter().enumerate(), self.config.optim.pass_tokens) {
            let parts = cut(&pass, |index| (&groups[index].encoded, &groups[index].completions));
            let forwards = policy.forward(&segments(&parts), None)?;
            for ((part, (_, completions)), forward) in pass.iter().zip(&parts).zip(forwards) {
                let scores = head.score(&completions.flat(&forward.hidden), &completions.tokens());
                found[part.group].narrow(0, part.start, part.count).copy_(&completions.padded(&scores.logprobs));
            }
        }
        Ok(found)
    }

    fn credit(&self, scores: &[Scores], seen: &[Seen]) -> Result<Vec<Credit>> {
        let credit = |(scores, seen): (&Scores, &Seen)| {
            let observations = Observations {
                frame_attention: seen.frame_attention.clone(),
                distributions: seen.distributions.as_ref().map(|d| d as _),
                entropy: seen.entropy.clone(),
                ..Observations::default()
            };
            Ok(self.algorithm.credit(&scores.group, &observations)?)
        };
        scores.iter().zip(seen).map(credit).collect()
    }

    /// Shapes of the step's groups, which fix the reduction before any forward pass.
    pub fn factors(&self, scores: &[Scores], credit: &[Credit]) -> Vec<Array2<f32>> {
        let shapes: Vec<_> = scores.iter().zip(credit).map(|(s, credit)| GroupShape::of(&s.group, credit)).collect();
        foveate_algo::factors(&self.algorithm.objective(), &shapes)
    }
}

/// The scores of a group's completions.
fn score_rollout(text: &TextProcessor, rubric: &Rubric, group: &Group) -> Result<Scores> {
    let rollout = &group.rollout;
    let texts = rollout.ids.iter().map(|ids| text.decode(ids)).collect::<Result<Vec<_>, _>>()?;
    let answer = Answer::new(&group.example.example.answer);
    let rewards: Vec<Reward> = texts.iter().map(|text| rubric.score(&answer, text)).collect();
    let longest = group.completions.length() as usize;
    Ok(Scores {
        group: ScoredGroup {
            rewards: rewards.iter().map(|reward| reward.total).collect(),
            accuracy: rewards.iter().map(|reward| reward.accuracy).collect(),
            mask: Array2::from_shape_fn((texts.len(), longest), |(i, t)| t < rollout.ids[i].len()),
            truncated: Array1::from_vec(rollout.truncated.clone()),
            media: MediaKind::Video,
        },
        texts,
        rewards,
    })
}

/// `[L, G, T, F]` -> `[G, T, F]`.
fn mean_over_layers(attention: &Tensor) -> Result<Array3<f32>> {
    let array: ArrayD<f32> = (&attention.mean_dim(0, false, Kind::Float).to_device(tch::Device::Cpu)).try_into()?;
    Ok(array.into_dimensionality::<Ix3>()?)
}

fn array2(tensor: &Tensor) -> Result<Array2<f32>> {
    let array: ArrayD<f32> = (&tensor.to_device(tch::Device::Cpu)).try_into()?;
    Ok(array.into_dimensionality::<Ix2>()?)
}

#[derive(Debug, Default)]
struct Clock {
    laps: Vec<(&'static str, f64)>,
}

impl Clock {
    fn time<T>(&mut self, lap: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.laps.push((lap, start.elapsed().as_secs_f64()));
        result
    }
}
