//! The work of each mode: every call into the policy that is measured, and nothing else.

use std::time::Instant;

use anyhow::Result;
use foveate_algo::{ClipRange, Layers, Objective, Ratio, Reduction, WeightSide};
use foveate_policy::{
    AdamW, AdamWOptions, Completions, Encoded, GroupSeed, Prompt, Rollout, SamplingParams, ScoreGradients,
    SurrogateInputs, Trainable, Vlm, surrogate_loss,
};
use tch::{Cuda, Device, Kind, Tensor, no_grad};

use super::{Mode, shape::Shape};

/// Seconds of the parts of one round, in order; their sum is the round.
pub(super) type Phases = Vec<(&'static str, f64)>;

/// A model with one step's inputs.
#[derive(Debug)]
pub(super) struct Work {
    policy: Vlm,
    optimizer: AdamW,
    prompts: Vec<Prompt>,
    groups: Vec<Group>,
    sampling: SamplingParams,
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

    /// The shape's inputs for this model.
    pub(super) fn new(policy: Vlm, shape: &Shape) -> Self {
        let device = policy.device();
        let group = |index: usize| Group {
            completions: Completions::new(&shape.completions(index as u64), device),
            advantages: Tensor::randn([shape.group_size as i64], (Kind::Float, device)),
        };
        Self {
            optimizer: AdamW::new(policy.parameters(), AdamWOptions::default()),
            prompts: shape.prompts(),
            groups: (0..shape.groups).map(group).collect(),
            sampling: SamplingParams {
                completions: shape.group_size,
                max_new_tokens: shape.completion_tokens,
                temperature: 1.0,
                top_p: 1.0,
                top_k: 0,
            },
            round: 0,
            policy,
        }
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
        let (rollouts, drawn) = self.timed(|| self.draw(&encoded, &self.sampling))?;
        let (_, prefill) =
            self.timed(|| self.draw(&encoded, &SamplingParams { max_new_tokens: 1, ..self.sampling }))?;
        let prefill = prefill.min(drawn);
        let mut phases = vec![("vision", vision), ("prefill", prefill), ("decode", drawn - prefill)];
        if let Some(layers) = capture {
            let (_, seconds) = self.timed(|| self.frame_attention(&encoded, &rollouts, layers))?;
            phases.push(("capture", seconds));
        }
        Ok(phases)
    }

    fn encode(&self) -> Result<Vec<Encoded>> {
        Ok(self.prompts.iter().map(|prompt| self.policy.encode(prompt)).collect::<Result<_, _>>()?)
    }

    fn draw(&self, prompts: &[Encoded], sampling: &SamplingParams) -> Result<Vec<Rollout>> {
        let prompts: Vec<&Encoded> = prompts.iter().collect();
        let seeds: Vec<_> =
            (0..prompts.len() as u64).map(|group| GroupSeed { seed: 0, step: self.round, group }).collect();
        Ok(self.policy.rollout(&prompts, sampling, &seeds, &[])?) // nothing ends a completion before R tokens
    }

    /// Frame attention of the drawn tokens, mean over layers and heads, `[G, R, F]` by group.
    fn frame_attention(&self, prompts: &[Encoded], rollouts: &[Rollout], layers: Layers) -> Result<Vec<Tensor>> {
        let one = |(prompt, rollout): (&Encoded, &Rollout)| {
            let completions = Completions::new(&rollout.ids, self.policy.device());
            let forward = no_grad(|| self.policy.forward(prompt, &completions, Some(layers)))?;
            Ok(forward.frame_attention.map(|attention| attention.mean_dim(0, false, Kind::Float)))
        };
        Ok(prompts.iter().zip(rollouts).map(one).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Forward and backward pass over every group, vision tower included, and one step of AdamW.
    fn update(&mut self) -> Result<Phases> {
        let (mut forward, mut backward) = (0.0, 0.0);
        for (prompt, group) in self.prompts.iter().zip(&self.groups) {
            let (head, ids) = (self.policy.head(self.sampling.temperature), group.completions.ids.flatten(0, 1));
            let ((hidden, scores), seconds) = self.timed(|| {
                let encoded = self.policy.encode(prompt)?;
                let hidden = self.policy.forward(&encoded, &group.completions, None)?.hidden.flatten(0, 1);
                let scores = head.score(&hidden, &ids);
                Ok((hidden, scores))
            })?;
            forward += seconds;
            let ((), seconds) = self.timed(|| {
                let logprobs = gradient(&scores.logprobs, group, self.groups.len());
                head.backward(&hidden, &ids, &ScoreGradients { logprobs, entropy: None });
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
        let (_, seconds) = self.timed(|| {
            let one = |(prompt, group): (&Encoded, &Group)| {
                let pass = no_grad(|| self.policy.forward(prompt, &group.completions, capture))?;
                let scores = self.policy.head(self.sampling.temperature);
                let scores = scores.score(&pass.hidden.flatten(0, 1), &group.completions.ids.flatten(0, 1));
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

/// Gradient `[G * R]` of the clipped surrogate, mean over all tokens of the step, at the log-probs.
fn gradient(logprobs: &Tensor, group: &Group, groups: usize) -> Tensor {
    let objective = Objective {
        clip: Some(ClipRange { low: 0.2, high: 0.2 }),
        ratio: Ratio::Token,
        reduction: Reduction::SequenceMean,
        mask_truncated: false,
        mask_zero_std: false,
        kl_coef: 0.0,
        entropy_coef: 0.0,
        weights: WeightSide::OnSurrogate,
    };
    let (ids, mask) = (&group.completions.ids, &group.completions.mask);
    let logprobs = logprobs.view(ids.size().as_slice()).set_requires_grad(true);
    let surrogate = surrogate_loss(&SurrogateInputs {
        objective: &objective,
        logprobs: &logprobs,
        old_logprobs: &logprobs.detach(),
        ref_logprobs: None,
        entropy: None,
        advantages: &group.advantages,
        weights: &logprobs.ones_like().detach(),
        factors: &logprobs.full_like(1.0 / (groups * ids.numel()) as f64).detach(),
        mask,
    });
    surrogate.loss.backward();
    logprobs.grad().flatten(0, 1)
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
