//! The work of each mode: every call into the policy that is measured, and nothing else.

use std::time::Instant;

use anyhow::Result;
use foveate_algo::{Algorithm, Layers, Objective, grpo};
use foveate_policy::{
    AdamW, AdamWOptions, Completions, Draw, Encoded, GroupSeed, Observe, Prompt, Rollout, SamplingParams,
    ScoreGradients, Segment, SurrogateInputs, Trainable, Vlm, surrogate_loss,
};
use tch::{Cuda, Device, Kind, Tensor};

use super::{Mode, Update, shape::Shape};
use crate::passes::{Sizes, cut, passes, segments};

/// Seconds of the parts of one round, in order; their sum is the round.
pub(super) type Phases = Vec<(&'static str, f64)>;

/// A model with one step's inputs.
#[derive(Debug)]
pub(super) struct Work {
    policy: Vlm,
    optimizer: AdamW,
    prompts: Vec<Prompt>,
    groups: Vec<Group>,
    group_size: usize,
    sampling: SamplingParams,
    update: Update,
    objective: Objective,
    round: u64,
}

/// Given completions of a prompt, `[G, R]`.
#[derive(Debug)]
struct Group {
    completions: Completions,
    advantages: Tensor, // [G]
}

impl Work {
    /// Which parameters these modes train: all, as the peer does, or none.
    pub(super) fn trainable(modes: &[Mode]) -> Trainable {
        if modes.contains(&Mode::Update) { Trainable::All } else { Trainable::Nothing }
    }

    /// The shape's inputs for this model; the update is GRPO's without a reference policy, as the peer's is.
    ///
    /// # Errors
    /// If GRPO refuses its settings.
    pub(super) fn new(policy: Vlm, shape: &Shape, update: Update) -> Result<Self> {
        let device = policy.device();
        let group = |index: usize| Group {
            completions: Completions::new(&shape.completions(index as u64), device),
            advantages: Tensor::randn([shape.group_size as i64], (Kind::Float, device)),
        };
        Ok(Self {
            objective: grpo::Grpo::new(grpo::Settings { beta: 0.0, ..grpo::Settings::default() })?.objective(),
            optimizer: AdamW::new(
                policy.parameters(),
                AdamWOptions { precision: update.precision, ..AdamWOptions::default() },
            ),
            prompts: shape.prompts(),
            groups: (0..shape.groups).map(group).collect(),
            group_size: shape.group_size,
            sampling: SamplingParams {
                max_new_tokens: shape.completion_tokens,
                temperature: 1.0,
                top_p: 1.0,
                top_k: 0,
                repetition_penalty: 1.0,
                max_rows: 0,
                observe: Observe::default(),
            },
            update,
            round: 0,
            policy,
        })
    }

    /// Parameters of the model.
    pub(super) fn parameters(&self) -> usize {
        self.policy.tensors().iter().map(|(_, tensor)| tensor.numel()).sum()
    }

    /// The model.
    pub(super) fn policy(&self) -> &Vlm {
        &self.policy
    }

    /// Does the work of a mode once.
    ///
    /// # Errors
    /// The policy's.
    pub(super) fn run(&mut self, mode: Mode) -> Result<Phases> {
        self.round += 1;
        match mode {
            Mode::Rollout => self.rollout(None),
            Mode::RolloutAttn => self.rollout(Some(Layers::All)),
            Mode::Update => self.update(),
            Mode::Score => self.score(None),
            Mode::ScoreAttn => self.score(Some(Layers::All)),
        }
    }

    /// Prompts with their videos encoded, then G x R tokens drawn for each. The policy does not say when its prefill ends:
    /// drawing a single token is taken for it, outside the round.
    fn rollout(&self, capture: Option<Layers>) -> Result<Phases> {
        let (encoded, vision) = self.timed(|| self.encode())?;
        let observe = Observe { frame_layers: capture, ..Observe::default() };
        let whole = SamplingParams { observe, ..self.sampling };
        let (_, drawn) = self.timed(|| self.draw(&encoded, &whole))?;
        let (_, prefill) = self.timed(|| self.draw(&encoded, &SamplingParams { max_new_tokens: 1, ..whole }))?;
        let prefill = prefill.min(drawn);
        Ok(vec![("vision", vision), ("prefill", prefill), ("decode", drawn - prefill)])
    }

    fn encode(&self) -> Result<Vec<Encoded>> {
        Ok(self.prompts.iter().map(|prompt| self.policy.encode(prompt)).collect::<Result<_, _>>()?)
    }

    fn draw(&self, prompts: &[Encoded], sampling: &SamplingParams) -> Result<Vec<Rollout>> {
        let group = |(group, prompt)| Draw {
            prompt,
            completions: self.group_size,
            seed: GroupSeed { seed: 0, step: self.round, group },
        };
        let draws: Vec<_> = (0..).zip(prompts).map(group).collect();
        Ok(self.policy.rollout(&draws, sampling, &[])?) // nothing ends a completion before R tokens
    }

    /// Forward and backward passes over all groups, vision tower included, and one step of AdamW.
    fn update(&mut self) -> Result<Phases> {
        let (mut forward, mut backward) = (0.0, 0.0);
        let head = self.policy.head(self.sampling.temperature);
        let encoded = self.encode()?; // the vision tower is trained: it runs within the passes
        let groups: Vec<_> = encoded.iter().zip(&self.groups).collect();
        let sizes: Vec<_> = groups.iter().map(|(prompt, group)| Sizes::of(prompt, &group.completions)).collect();
        for pass in passes(sizes.iter().enumerate(), self.update.pass_tokens) {
            let parts = cut(&pass, |index| (groups[index].0, &groups[index].1.completions));
            let ((under_way, logprobs), seconds) = self.timed(|| {
                let under_way = self.policy.training_pass(&segments(&parts), self.update.recompute)?;
                let logprobs = under_way.logprobs(&head);
                Ok((under_way, logprobs))
            })?;
            forward += seconds;
            let ((), seconds) = self.timed(|| {
                let logprobs = under_way.split(&logprobs);
                let gradients = pass.iter().zip(&parts).zip(&logprobs).map(|((part, (_, own)), logprobs)| {
                    let advantages = self.groups[part.group].advantages.narrow(0, part.start, part.count);
                    gradient(&self.objective, logprobs, own, &advantages, self.groups.len())
                });
                let logprobs = Tensor::cat(&gradients.collect::<Vec<_>>(), 0);
                under_way.backward(&head, &ScoreGradients { logprobs, entropy: None });
                self.optimizer.accumulate();
                Ok(())
            })?;
            backward += seconds;
        }
        let device = self.policy.device();
        let (_, optimizer) = timed(device, || Ok(self.optimizer.step(1e-6, 0.0)?))?;
        Ok(vec![("forward", forward), ("backward", backward), ("optimizer", optimizer)])
    }

    /// Log-probs and entropy of given completions. The prompt is encoded beforehand, as it is in a training step.
    fn score(&self, capture: Option<Layers>) -> Result<Phases> {
        let encoded = self.encode()?;
        let head = self.policy.head(self.sampling.temperature);
        let (_, seconds) = self.timed(|| {
            let one = |(prompt, group): (&Encoded, &Group)| {
                let completions = &group.completions;
                let pass = self.policy.forward(&[Segment { prompt, completions }], capture)?.remove(0);
                let scores = head.score(&completions.flat(&pass.hidden), &completions.tokens());
                Ok((scores, pass.frame_attention.map(|attention| attention.mean_dim(0, false, Kind::Float))))
            };
            encoded.iter().zip(&self.groups).map(one).collect::<Result<Vec<_>>>()
        })?;
        Ok(vec![("score", seconds)])
    }

    fn timed<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        timed(self.policy.device(), work)
    }
}

/// Gradient of the clipped surrogate, mean over all tokens of the step, at the log-probs `[R]` of some completions.
fn gradient(
    objective: &Objective,
    logprobs: &Tensor,
    completions: &Completions,
    advantages: &Tensor,
    groups: usize,
) -> Tensor {
    let logprobs = completions.padded(logprobs).set_requires_grad(true);
    let surrogate = surrogate_loss(&SurrogateInputs {
        objective,
        logprobs: &logprobs,
        old_logprobs: &logprobs.detach(),
        ref_logprobs: None,
        entropy: None,
        advantages,
        weights: &logprobs.ones_like().detach(),
        factors: &logprobs.full_like(1.0 / (groups * logprobs.numel()) as f64).detach(),
        mask: completions.mask(),
    });
    surrogate.loss.backward();
    completions.flat(&logprobs.grad())
}

/// Seconds that work takes until the device has done it.
fn timed<T>(device: Device, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let wait = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    };
    wait();
    let start = Instant::now();
    let result = work()?;
    wait();
    Ok((result, start.elapsed().as_secs_f64()))
}
