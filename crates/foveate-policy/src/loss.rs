//! The one surrogate loss that serves every algorithm.

use foveate_algo::{Objective, Ratio, WeightSide};
use tch::{Kind, Tensor};

/// What the loss of one group is made of; tensors `[G, T]` f32 unless said otherwise.
#[derive(Debug)]
pub struct SurrogateInputs<'a> {
    /// Clip range, ratio, KL and entropy coefficients.
    pub objective: &'a Objective,
    /// Log-probs under the policy being trained (differentiable).
    pub logprobs: &'a Tensor,
    /// Log-probs under the policy that sampled.
    pub old_logprobs: &'a Tensor,
    /// Log-probs under the reference policy, for the KL term.
    pub ref_logprobs: Option<&'a Tensor>,
    /// Entropy of each token's distribution, for the entropy bonus (differentiable).
    pub entropy: Option<&'a Tensor>,
    /// Advantages `[G]`.
    pub advantages: &'a Tensor,
    /// Token weights: constants.
    pub weights: &'a Tensor,
    /// The reduction: the loss is the sum of factor times token loss.
    pub factors: &'a Tensor,
    /// Which positions are tokens, bool.
    pub mask: &'a Tensor,
}

/// The loss of one group and what to log of it.
#[derive(Debug)]
pub struct Surrogate {
    /// The loss, a differentiable scalar.
    pub loss: Tensor,
    /// Sum of the k3 estimates over tokens; 0 without a reference.
    pub kl_sum: f64,
    /// Tokens whose ratio lies below the clip range while their advantage is negative.
    pub clipped_low: f64,
    /// Tokens whose ratio lies above the clip range while their advantage is positive.
    pub clipped_high: f64,
    /// Tokens of the group.
    pub tokens: f64,
}

/// Loss = sum of factor * ( -s + kl_coef k3 - entropy_coef entropy ), with s = min(r A, clip(r, 1 - low, 1 + high) A)
/// (PPO's clipped surrogate, as in DeepSeekMath eq. 3, arXiv 2402.03300) and k3 = exp(d) - d - 1, d = ref - logprob.
/// The token weight stands inside the min on the unclipped term (TW-GRPO eq. 6) or on s, never on the KL.
pub fn surrogate_loss(inputs: &SurrogateInputs<'_>) -> Surrogate {
    let mask = inputs.mask.to_kind(Kind::Float);
    // Padding may hold anything; from here on it is 0 and has no gradient.
    let masked = |x: &Tensor| x.where_self(inputs.mask, &Tensor::zeros_like(x));
    let objective = inputs.objective;
    let logprobs = masked(inputs.logprobs);
    let log_ratio = &logprobs - masked(inputs.old_logprobs);
    let log_ratio = match objective.ratio {
        Ratio::Token => log_ratio,
        // GSPO (arXiv 2507.18071) eq. 7: the length-normalised ratio of the whole completion.
        Ratio::Sequence => {
            let lengths = mask.sum_dim_intlist(-1, true, Kind::Float).clamp_min(1.0);
            log_ratio.sum_dim_intlist(-1, true, Kind::Float) / lengths * &mask
        }
    };
    let ratio = log_ratio.exp();
    let advantages = inputs.advantages.unsqueeze(-1);
    let weights = masked(inputs.weights);
    let plain = &ratio * &advantages;
    let (surrogate, low, high) = match &objective.clip {
        None => (&weights * plain, None, None),
        Some(range) => {
            let (low, high) = (1.0 - f64::from(range.low), 1.0 + f64::from(range.high));
            let clipped = ratio.clamp(low, high) * &advantages;
            let surrogate = match objective.weights {
                WeightSide::InsideMin => (&weights * plain).minimum(&clipped),
                WeightSide::OnSurrogate => &weights * plain.minimum(&clipped),
            };
            (surrogate, Some(low), Some(high))
        }
    };
    let mut token_loss = -surrogate;
    let mut kl_sum = 0.0;
    if let Some(reference) = inputs.ref_logprobs {
        let d = masked(reference) - &logprobs;
        let k3 = d.exp() - &d - 1.0;
        kl_sum = k3.sum(Kind::Double).double_value(&[]);
        token_loss += k3 * f64::from(objective.kl_coef);
    }
    if let Some(entropy) = inputs.entropy {
        token_loss -= masked(entropy) * f64::from(objective.entropy_coef);
    }
    let clipped = |outside: Tensor, sign: Tensor| (outside.logical_and(&sign).to_kind(Kind::Float) * &mask).sum(Kind::Double).double_value(&[]);
    Surrogate {
        loss: (token_loss * masked(inputs.factors)).sum(Kind::Float),
        kl_sum,
        clipped_low: low.map_or(0.0, |low| clipped(ratio.lt(low), advantages.lt(0.0))),
        clipped_high: high.map_or(0.0, |high| clipped(ratio.gt(high), advantages.gt(0.0))),
        tokens: mask.sum(Kind::Double).double_value(&[]),
    }
}
