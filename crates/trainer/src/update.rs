//! UPDATE: the differentiable passes over a step's groups and the optimizer's step.

use std::ops::Range;

use anyhow::{Context, Result};
use foveate_algo::{Credit, GroupShape, factors};
use foveate_policy::{
    AdamW, Completions, Encoded, PolicyError, ScoreGradients, Surrogate, SurrogateInputs, TrainingPass, surrogate_loss,
};
use ndarray::Array2;
use tch::{Kind, Tensor};

use crate::{
    draw::{Group, Scores},
    observe::Seen,
    opened::Opened,
    passes::{Part, Sizes, cut, passes, segments, viewed},
    schedule::learning_rate,
    step::Stepper,
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

/// Sums over the tokens, or picks, of the passes through a step's groups.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    loss: f64,
    kl: f64,
    clipped: [f64; 2],
    tokens: f64,
    gap: f64,
    gap_tokens: f64,
}

impl Updater<'_> {
    /// Goes `updates_per_rollout` times through the groups, each time in `minibatches` optimizer steps on as many parts of
    /// them. Groups pass through the policy packed, `optim.pass_tokens` tokens at a time, and their gradients add up; the
    /// reduction is fixed for the whole optimizer step before, so that the split into passes changes nothing. Groups
    /// whose gradient is known to be 0 are left out; without any group no step is taken.
    ///
    /// # Errors
    /// If a loss or gradient is not finite; that optimizer step is not taken.
    pub(crate) fn update(
        &mut self,
        stepper: &Stepper<'_>,
        step: u64,
        work: Work<'_>,
        mut opened: Option<Opened<'_>>,
    ) -> Result<Updated> {
        let optim = &stepper.config.optim;
        let learning_rate = learning_rate(optim, step, self.steps);
        let (mut grad_norm, mut total) = (0.0, Sums::default());
        let minibatches = minibatches(work.groups.len(), optim.minibatches);
        let groups = UpdateGroup::all(stepper, &work, &minibatches)?;
        let sizes: Vec<_> = work.groups.iter().map(|group| Sizes::of(&group.encoded, &group.completions)).collect();
        let active = |part: &Range<usize>, done: &[Part]| {
            let left = part.clone().filter(|index| groups[*index].matters(stepper));
            let left = left.filter(|index| done.iter().all(|part| part.group != *index));
            passes(left.map(|index| (index, &sizes[index])), optim.pass_tokens)
        };
        let steps = (optim.updates_per_rollout * minibatches.len()) as f64;
        self.optimizer.zero_grad();
        for update in 0..optim.updates_per_rollout {
            for (number, minibatch) in minibatches.iter().enumerate() {
                // The policy is the one that sampled until the first optimizer step.
                let first = update == 0 && number == 0;
                let all = Pass { stepper, work: &work, groups: &groups, parts: &[], first };
                let mut done = Vec::new();
                if let Some(Opened { parts, pass: under_way, scores }) = opened.take() {
                    Pass { parts: &parts, ..all }.finish(under_way, &scores, &mut total)?;
                    self.optimizer.accumulate();
                    done = parts;
                }
                for parts in active(minibatch, &done) {
                    Pass { parts: &parts, ..all }.run(&mut total)?;
                    self.optimizer.accumulate();
                }
                grad_norm += self.optimizer.step(learning_rate, optim.grad_clip)? / steps;
            }
        }
        let means = total.means(steps);
        Ok(Updated { learning_rate, grad_norm, kl: means.kl.filter(|_| stepper.reference.is_some()), ..means })
    }
}

/// What a group's loss is made of; `[G, T]`, `[G]` on the policy's device, constant.
struct UpdateGroup {
    advantages: Tensor,
    weights: Tensor,
    factors: Tensor,
    sampled: Tensor,
    reference: Option<Tensor>,
    /// Teacher-forced log-probs of the policy that sampled: of the first minibatch, filled in by the first passes, while
    /// the policy is the one that sampled; of all others, known before.
    old: Tensor,
    idle: bool,
}

impl UpdateGroup {
    fn all(stepper: &Stepper<'_>, work: &Work<'_>, minibatches: &[Range<usize>]) -> Result<Vec<Self>> {
        let objective = stepper.algorithm.objective();
        let shapes: Vec<_> =
            work.scores.iter().zip(work.credit).map(|(scores, credit)| GroupShape::of(&scores.group, credit)).collect();
        let factors = minibatches.iter().flat_map(|part| factors(&objective, &shapes[part.clone()]));
        let groups = factors.enumerate().map(|(index, factors)| Self::new(stepper, work, index, &factors));
        let mut groups = groups.collect::<Result<Vec<_>>>()?;
        if let Some(first) = minibatches.first() {
            // By their turn the policy will have moved.
            let later: Vec<_> =
                (first.end..groups.len()).filter(|index| groups[*index].awaits(stepper, work, *index)).collect();
            let prompts: Vec<_> =
                later.iter().map(|&index| (&work.groups[index].encoded, &work.groups[index].completions)).collect();
            let policy = stepper.policy;
            let tokens = stepper.config.optim.pass_tokens;
            let seen = viewed(policy, &stepper.head(policy), &prompts, tokens, |_| false)?;
            later.into_iter().zip(seen).for_each(|(index, seen)| groups[index].old.copy_(&seen.logprobs));
        }
        Ok(groups)
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
            old: match &work.seen[index].sampling_logprobs {
                Some(logprobs) => Tensor::try_from(logprobs)?.to_device(device),
                None => sampled.zeros_like(),
            },
            sampled,
            reference: work.seen[index].ref_logprobs.as_ref().map(Tensor::shallow_clone),
            idle: credit.advantages.iter().all(|advantage| *advantage == 0.0) || factors.iter().all(|f| *f == 0.0),
        })
    }

    /// Whether the group's old log-probs are needed and not known.
    fn awaits(&self, stepper: &Stepper<'_>, work: &Work<'_>, index: usize) -> bool {
        self.matters(stepper) && work.seen[index].sampling_logprobs.is_none()
    }

    /// Whether the group can have a gradient: without advantages only the KL and entropy terms have one.
    fn matters(&self, stepper: &Stepper<'_>) -> bool {
        !self.idle || self.reference.is_some() || stepper.algorithm.objective().entropy_coef != 0.0
    }
}

/// Groups `0..count` in `wanted` parts whose sizes differ by at most one; fewer, if there are fewer groups.
pub(crate) fn minibatches(count: usize, wanted: usize) -> Vec<Range<usize>> {
    let parts = wanted.clamp(1, count.max(1)).min(count);
    (0..parts).map(|part| part * count / parts..(part + 1) * count / parts).collect()
}

/// What a loss is formed of, of the tokens of a pass, `[R]`.
#[derive(Debug)]
pub(crate) struct LossScores {
    pub(crate) logprobs: Tensor,
    /// Where the loss has a term of it.
    pub(crate) entropy: Option<Tensor>,
}

impl Stepper<'_> {
    /// What the loss of a pass is formed of.
    pub(crate) fn loss_scores(&self, pass: &TrainingPass<'_>) -> LossScores {
        let head = self.head(self.policy);
        if self.algorithm.objective().entropy_coef == 0.0 {
            return LossScores { logprobs: pass.logprobs(&head), entropy: None };
        }
        let scores = pass.score(&head);
        LossScores { logprobs: scores.logprobs, entropy: Some(scores.entropy) }
    }
}

/// One pass through the policy.
#[derive(Clone, Copy)]
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
        let cut = self.cut();
        let pass = self.stepper.policy.training_pass(&segments(&cut), self.stepper.config.optim.recompute)?;
        let scores = self.stepper.loss_scores(&pass);
        self.finish(pass, &scores, total)
    }

    /// The parts' prompts and completions.
    fn cut(&self) -> Vec<(&Encoded, Completions)> {
        cut(self.parts, |index| (&self.work.groups[index].encoded, &self.work.groups[index].completions))
    }

    /// The same from a pass through the parts that is under way.
    fn finish(&self, pass: TrainingPass<'_>, scores: &LossScores, total: &mut Sums) -> Result<()> {
        let cut = self.cut();
        let head = self.stepper.head(self.stepper.policy);
        let (mut at_logprobs, mut at_entropy) = (Vec::new(), Vec::new());
        let logprobs = pass.split(&scores.logprobs);
        let mut entropies = scores.entropy.as_ref().map(|entropy| pass.split(entropy).into_iter());
        for ((part, (_, completions)), logprobs) in self.parts.iter().zip(&cut).zip(logprobs) {
            let entropy = entropies.as_mut().and_then(Iterator::next);
            let gradients = self.loss(part, completions, &LossScores { logprobs, entropy }, total);
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
        scores: &LossScores,
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
            total.add_gap(&rows(&group.sampled), &old, completions.mask());
        }
        let entropy = scores.entropy.as_ref().map(|entropy| completions.padded(entropy).set_requires_grad(true));
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
    /// The means over tokens and over so many optimizer steps; k3 as if there were a reference.
    pub(crate) fn means(&self, steps: f64) -> Updated {
        let tokens = self.tokens.max(1.0);
        Updated {
            loss: self.loss / steps.max(1.0),
            kl: Some(self.kl / tokens),
            clipped: self.clipped.map(|count| count / tokens),
            sampling_gap: self.gap / self.gap_tokens.max(1.0),
            ..Updated::default()
        }
    }

    /// Adds |teacher-forced - sampler's| log-prob of each token.
    pub(crate) fn add_gap(&mut self, sampled: &Tensor, teacher_forced: &Tensor, mask: &Tensor) {
        let gap = (sampled - teacher_forced).abs() * mask.to_kind(Kind::Float);
        self.gap += gap.sum(Kind::Double).double_value(&[]);
        self.gap_tokens += mask.sum(Kind::Double).double_value(&[]);
    }

    /// Adds the loss of a group, or of a part of one.
    ///
    /// # Errors
    /// It is not finite.
    pub(crate) fn add(&mut self, surrogate: &Surrogate) -> Result<()> {
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
