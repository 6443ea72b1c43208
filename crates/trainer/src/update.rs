//! UPDATE: the differentiable passes over a step's groups and the optimizer's step.

use anyhow::{Context, Result};
use foveate_algo::Credit;
use foveate_policy::{
    AdamW, Completions, PolicyError, ScoreGradients, Surrogate, SurrogateInputs, TokenScores, surrogate_loss,
};
use ndarray::{Array2, Array3, Axis, concatenate};
use tch::{Kind, Tensor};

use crate::{
    schedule::learning_rate,
    step::{Group, Scores, Seen, Stepper, event_layers, mean_over_layers},
};

/// What the optimizer did in a step.
#[derive(Debug, Default)]
pub struct Updated {
    /// Loss, mean over the rollout's updates.
    pub loss: f64,
    /// Gradient norm before clipping, mean over updates.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Mean entropy of the tokens' distributions, in nats.
    pub entropy: f64,
    /// Mean k3 estimate per token; `None` without a reference.
    pub kl: Option<f64>,
    /// Share of tokens below and above the clip range.
    pub clipped: [f64; 2],
    /// Mean of |teacher-forced - sampler's| log-prob over tokens, at the first update.
    pub sampling_gap: f64,
    /// Frame attention `[G, T, F]` of groups whose event is known and which nothing had observed before.
    pub frame_attention: Vec<Option<Array3<f32>>>,
}

/// The optimizer and its course.
#[derive(Debug)]
pub struct Updater<'a> {
    /// AdamW over the policy's trainable parameters.
    pub optimizer: &'a mut AdamW,
    /// Steps of the whole run.
    pub steps: u64,
}

/// A step's groups with everything the loss is made of.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// Prompts and completions.
    pub groups: &'a [Group],
    /// Their scores.
    pub scores: &'a [Scores],
    /// What was observed of them.
    pub seen: &'a [Seen],
    /// Their credit.
    pub credit: &'a [Credit],
}

/// Sums over the tokens of the passes through the step's groups.
#[derive(Debug, Default)]
struct Sums {
    loss: f64,
    entropy: f64,
    kl: f64,
    clipped: [f64; 2],
    gap: f64,
    tokens: f64,
}

impl Updater<'_> {
    /// Takes `updates_per_rollout` optimizer steps. Groups, and `micro_batch` completions of a group at a time, add up
    /// their gradients; the reduction is fixed for the whole step before, so that the split changes nothing.
    ///
    /// # Errors
    /// If a loss or gradient is not finite; that optimizer step is not taken.
    pub fn update(&mut self, stepper: &Stepper<'_>, step: u64, work: Work<'_>) -> Result<Updated> {
        let optim = &stepper.config.optim;
        let updates = optim.updates_per_rollout.max(1);
        let factors = stepper.factors(work.scores, work.credit);
        let learning_rate = learning_rate(optim, step, self.steps);
        let mut updated = Updated { learning_rate, ..Updated::default() };
        let mut total = Sums::default();
        self.optimizer.zero_grad();
        for update in 0..updates {
            for (index, factors) in factors.iter().enumerate() {
                let pass = GroupPass::new(stepper, self.optimizer, &work, index, factors)?;
                let capture = update == 0 && work.seen[index].frame_attention.is_none();
                let attention = pass.run(capture, &mut total);
                let attention = attention.with_context(|| format!("example {}", pass.group.example.example.id))?;
                if update == 0 {
                    updated.frame_attention.push(attention);
                }
            }
            updated.grad_norm += self.optimizer.step(learning_rate, optim.grad_clip)? / updates as f64;
        }
        let tokens = total.tokens.max(1.0);
        updated.loss = total.loss / updates as f64;
        updated.entropy = total.entropy / tokens;
        updated.kl = stepper.reference.map(|_| total.kl / tokens);
        updated.clipped = total.clipped.map(|count| count / tokens);
        updated.sampling_gap = total.gap / tokens;
        Ok(updated)
    }
}

/// Some completions of a group.
struct Part {
    /// The first one's place in the group.
    start: i64,
    completions: Completions,
    /// Indices of their tokens among all places, row by row.
    tokens: Tensor,
}

/// The passes through one group; tensors `[G, T]`, `[G]` on the policy's device, constant.
struct GroupPass<'a> {
    stepper: &'a Stepper<'a>,
    optimizer: &'a AdamW,
    group: &'a Group,
    seen: &'a Seen,
    advantages: Tensor,
    weights: Tensor,
    factors: Tensor,
    sampled: Tensor,
}

impl<'a> GroupPass<'a> {
    fn new(
        stepper: &'a Stepper<'a>,
        optimizer: &'a AdamW,
        work: &Work<'a>,
        index: usize,
        factors: &Array2<f32>,
    ) -> Result<Self> {
        let (group, credit) = (&work.groups[index], &work.credit[index]);
        let device = stepper.policy.device();
        let mut sampled = Array2::<f32>::zeros(factors.dim());
        for (mut row, logprobs) in sampled.rows_mut().into_iter().zip(&group.rollout.logprobs) {
            row.iter_mut().zip(logprobs).for_each(|(place, logprob)| *place = *logprob);
        }
        Ok(Self {
            stepper,
            optimizer,
            group,
            seen: &work.seen[index],
            advantages: Tensor::try_from(&credit.advantages)?.to_device(device),
            weights: Tensor::try_from(&credit.weights)?.to_device(device),
            factors: Tensor::try_from(factors)?.to_device(device),
            sampled: Tensor::try_from(&sampled)?.to_device(device),
        })
    }

    /// Adds the group's gradients to the parameters; gives its frame attention if `capture` and an event ask for it.
    fn run(&self, capture: bool, total: &mut Sums) -> Result<Option<Array3<f32>>> {
        let count = self.group.completions.count();
        let size = match self.stepper.config.optim.micro_batch {
            0 => count,
            size => count.min(size as i64),
        };
        let mut attention = Vec::new();
        for start in (0..count).step_by(size as usize) {
            attention.extend(self.rows(start, size.min(count - start), capture, total)?);
        }
        if attention.is_empty() {
            return Ok(None);
        }
        let views: Vec<_> = attention.iter().map(|part| part.view()).collect();
        Ok(Some(concatenate(Axis(0), &views)?))
    }

    /// The pass through `count` completions from `start`.
    fn rows(&self, start: i64, count: i64, capture: bool, total: &mut Sums) -> Result<Option<Array3<f32>>> {
        let rows = |x: &Tensor| x.narrow(0, start, count);
        let completions =
            Completions { ids: rows(&self.group.completions.ids), mask: rows(&self.group.completions.mask) };
        let part = Part { start, tokens: completions.token_rows(), completions };
        let capture = if capture { event_layers(self.group) } else { None };
        let forward = self.stepper.policy.forward(&self.group.encoded, &part.completions, capture)?;
        let head = self.stepper.policy.head(self.stepper.config.rollout.temperature);
        let hidden = forward.hidden.flatten(0, 1).index_select(0, &part.tokens);
        let ids = part.completions.ids.flatten(0, 1).index_select(0, &part.tokens);
        let scores = head.score(&hidden, &ids);
        total.entropy += scores.entropy.sum(Kind::Double).double_value(&[]);

        let gradients = self.loss(&part, &scores, total)?;
        if gradients.logprobs.count_nonzero(None::<i64>).int64_value(&[]) > 0 || gradients.entropy.is_some() {
            head.backward(&hidden, &ids, &gradients);
            self.optimizer.accumulate();
        }
        forward.frame_attention.as_ref().map(mean_over_layers).transpose()
    }

    /// The loss of some completions and its gradient at the scores of their tokens.
    fn loss(&self, part: &Part, scores: &TokenScores, total: &mut Sums) -> Result<ScoreGradients> {
        let Part { start, completions, tokens } = part;
        let objective = self.stepper.algorithm.objective();
        let shape = completions.ids.size();
        let rows = |x: &Tensor| x.narrow(0, *start, shape[0]);
        let padded = |x: &Tensor| {
            let flat = Tensor::zeros([shape[0] * shape[1]], (Kind::Float, x.device())).index_copy(0, tokens, x);
            flat.view([shape[0], shape[1]])
        };
        let logprobs = padded(&scores.logprobs).set_requires_grad(true);
        // With one update per rollout the old log-probs are this pass's own: the ratio is exactly 1.
        let old = self.seen.old_logprobs.as_ref().map_or_else(|| logprobs.detach(), rows);
        let entropy = (objective.entropy_coef != 0.0).then(|| padded(&scores.entropy).set_requires_grad(true));
        let reference = self.seen.ref_logprobs.as_ref().map(rows);
        let surrogate = surrogate_loss(&SurrogateInputs {
            objective: &objective,
            logprobs: &logprobs,
            old_logprobs: &old,
            ref_logprobs: reference.as_ref(),
            entropy: entropy.as_ref(),
            advantages: &rows(&self.advantages),
            weights: &rows(&self.weights),
            factors: &rows(&self.factors),
            mask: &completions.mask,
        });
        let gap = (rows(&self.sampled) - &old).abs() * completions.mask.to_kind(Kind::Float);
        total.gap += gap.sum(Kind::Double).double_value(&[]);
        total.add(&surrogate)?;
        surrogate.loss.backward();
        let gradient = |leaf: &Tensor| leaf.grad().flatten(0, 1).index_select(0, tokens);
        Ok(ScoreGradients { logprobs: gradient(&logprobs), entropy: entropy.as_ref().map(gradient) })
    }
}

impl Sums {
    fn add(&mut self, surrogate: &Surrogate) -> Result<()> {
        let loss = surrogate.loss.double_value(&[]);
        if !loss.is_finite() {
            return Err(PolicyError::NotFinite { what: "loss", value: loss }.into());
        }
        self.loss += loss;
        self.kl += surrogate.kl_sum;
        self.clipped[0] += surrogate.clipped_low;
        self.clipped[1] += surrogate.clipped_high;
        self.tokens += surrogate.tokens;
        Ok(())
    }
}
