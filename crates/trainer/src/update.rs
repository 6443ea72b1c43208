//! UPDATE: the differentiable passes over a step's groups and the optimizer's step.

use anyhow::{Context, Result};
use foveate_algo::Credit;
use foveate_policy::{
    AdamW, Completions, PolicyError, ScoreGradients, Surrogate, SurrogateInputs, TokenScores, surrogate_loss,
};
use ndarray::Array2;
use tch::{Kind, Tensor};

use crate::{
    passes::{Part, Sizes, cut, passes, segments},
    schedule::learning_rate,
    step::{Group, Scores, Seen, Stepper},
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
    /// Mean k3 estimate per token; `None` without a reference.
    pub kl: Option<f64>,
    /// Share of tokens below and above the clip range.
    pub clipped: [f64; 2],
    /// Mean of |teacher-forced - sampler's| log-prob over tokens, at the first update.
    pub sampling_gap: f64,
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
    kl: f64,
    clipped: [f64; 2],
    gap: f64,
    tokens: f64,
}

impl Updater<'_> {
    /// Takes `updates_per_rollout` optimizer steps. The groups pass through the policy packed, `optim.pass_tokens` tokens
    /// at a time, and their gradients add up; the reduction is fixed for the whole step before, so that the split
    /// changes nothing. Groups whose gradient is known to be 0 are left out.
    ///
    /// # Errors
    /// If a loss or gradient is not finite; that optimizer step is not taken.
    pub fn update(&mut self, stepper: &Stepper<'_>, step: u64, work: Work<'_>) -> Result<Updated> {
        let optim = &stepper.config.optim;
        let updates = optim.updates_per_rollout.max(1);
        let learning_rate = learning_rate(optim, step, self.steps);
        let mut updated = Updated { learning_rate, ..Updated::default() };
        let mut total = Sums::default();
        let groups = UpdateGroup::all(stepper, &work)?;
        let sizes: Vec<_> = work.groups.iter().map(|group| Sizes::of(&group.encoded, &group.completions)).collect();
        let active = sizes.iter().enumerate().filter(|(index, _)| groups[*index].matters(stepper));
        let passes = passes(active, optim.pass_tokens);
        self.optimizer.zero_grad();
        for update in 0..updates {
            for parts in &passes {
                Pass { stepper, work: &work, groups: &groups, parts, first: update == 0 }.run(&mut total)?;
                self.optimizer.accumulate();
            }
            updated.grad_norm += self.optimizer.step(learning_rate, optim.grad_clip)? / updates as f64;
        }
        let tokens = total.tokens.max(1.0);
        updated.loss = total.loss / updates as f64;
        updated.kl = stepper.reference.map(|_| total.kl / tokens);
        updated.clipped = total.clipped.map(|count| count / tokens);
        updated.sampling_gap = total.gap / (tokens / updates as f64);
        Ok(updated)
    }
}

/// What a group's loss is made of; `[G, T]`, `[G]` on the policy's device, constant.
struct UpdateGroup {
    advantages: Tensor,
    weights: Tensor,
    factors: Tensor,
    sampled: Tensor,
    reference: Option<Tensor>,
    /// Teacher-forced log-probs of the policy that sampled: filled in by the first update's passes, while it is that
    /// policy.
    old: Tensor,
    idle: bool,
}

impl UpdateGroup {
    fn all(stepper: &Stepper<'_>, work: &Work<'_>) -> Result<Vec<Self>> {
        let factors = stepper.factors(work.scores, work.credit);
        factors.iter().enumerate().map(|(index, factors)| Self::new(stepper, work, index, factors)).collect()
    }

    fn new(stepper: &Stepper<'_>, work: &Work<'_>, index: usize, factors: &Array2<f32>) -> Result<Self> {
        let (group, credit) = (&work.groups[index], &work.credit[index]);
        let device = stepper.policy.device();
        let mut sampled = Array2::<f32>::zeros(factors.dim());
        for (mut row, logprobs) in sampled.rows_mut().into_iter().zip(&group.rollout.logprobs) {
            row.iter_mut().zip(logprobs).for_each(|(place, logprob)| *place = *logprob);
        }
        let sampled = Tensor::try_from(&sampled)?.to_device(device);
        Ok(Self {
            advantages: Tensor::try_from(&credit.advantages)?.to_device(device),
            weights: Tensor::try_from(&credit.weights)?.to_device(device),
            factors: Tensor::try_from(factors)?.to_device(device),
            old: sampled.zeros_like(),
            sampled,
            reference: work.seen[index].ref_logprobs.as_ref().map(Tensor::shallow_clone),
            idle: credit.advantages.iter().all(|advantage| *advantage == 0.0) || factors.iter().all(|f| *f == 0.0),
        })
    }

    /// Whether the group can have a gradient: without advantages only the KL and entropy terms have one.
    fn matters(&self, stepper: &Stepper<'_>) -> bool {
        !self.idle || self.reference.is_some() || stepper.algorithm.objective().entropy_coef != 0.0
    }
}

/// One pass through the policy.
struct Pass<'a> {
    stepper: &'a Stepper<'a>,
    work: &'a Work<'a>,
    groups: &'a [UpdateGroup],
    parts: &'a [Part],
    /// Whether the policy still is the one that sampled.
    first: bool,
}

impl Pass<'_> {
    /// Adds the parts' gradients to the parameters.
    fn run(&self, total: &mut Sums) -> Result<()> {
        let group = |index: usize| (&self.work.groups[index].encoded, &self.work.groups[index].completions);
        let cut = cut(self.parts, group);
        let pass = self.stepper.policy.training_pass(&segments(&cut), self.stepper.config.optim.recompute)?;
        let head = self.stepper.head(self.stepper.policy);
        let scores = pass.score(&head);
        let (mut at_logprobs, mut at_entropy) = (Vec::new(), Vec::new());
        let scored = pass.split(&scores.logprobs).into_iter().zip(pass.split(&scores.entropy));
        for ((part, (_, completions)), (logprobs, entropy)) in self.parts.iter().zip(&cut).zip(scored) {
            let gradients = self.loss(part, completions, &TokenScores { logprobs, entropy }, total);
            let id = &self.work.groups[part.group].example.example.id;
            let gradients = gradients.with_context(|| format!("example {id}"))?;
            at_logprobs.push(gradients.logprobs);
            at_entropy.extend(gradients.entropy);
        }
        let entropy = (!at_entropy.is_empty()).then(|| Tensor::cat(&at_entropy, 0));
        let gradients = ScoreGradients { logprobs: Tensor::cat(&at_logprobs, 0), entropy };
        pass.backward(&head, &gradients);
        Ok(())
    }

    /// The loss of some completions and its gradient at the scores of their tokens.
    fn loss(
        &self,
        part: &Part,
        completions: &Completions,
        scores: &TokenScores,
        total: &mut Sums,
    ) -> Result<ScoreGradients> {
        let group = &self.groups[part.group];
        let objective = self.stepper.algorithm.objective();
        let rows = |x: &Tensor| x.narrow(0, part.start, part.count);
        let logprobs = completions.padded(&scores.logprobs).set_requires_grad(true);
        let mut old = rows(&group.old);
        if self.first {
            // So the ratio is exactly 1.
            old.copy_(&logprobs.detach());
            let gap = (rows(&group.sampled) - &old).abs() * completions.mask().to_kind(Kind::Float);
            total.gap += gap.sum(Kind::Double).double_value(&[]);
        }
        let entropy =
            (objective.entropy_coef != 0.0).then(|| completions.padded(&scores.entropy).set_requires_grad(true));
        let reference = group.reference.as_ref().map(rows);
        let surrogate = surrogate_loss(&SurrogateInputs {
            objective: &objective,
            logprobs: &logprobs,
            old_logprobs: &old,
            ref_logprobs: reference.as_ref(),
            entropy: entropy.as_ref(),
            advantages: &rows(&group.advantages),
            weights: &rows(&group.weights),
            factors: &rows(&group.factors),
            mask: completions.mask(),
        });
        total.add(&surrogate)?;
        surrogate.loss.backward();
        let gradient = |leaf: &Tensor| completions.flat(&leaf.grad());
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
