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
/// The token weight stands inside the min on the unclipped term (TW-GRPO eq. 6), on s, or on the whole token loss.
pub fn surrogate_loss(inputs: &SurrogateInputs<'_>) -> Surrogate {
    let kind = inputs.logprobs.kind();
    let mask = inputs.mask.to_kind(kind);
    // Padding may hold anything; from here on it is 0 and has no gradient.
    let masked = |x: &Tensor| x.where_self(inputs.mask, &Tensor::zeros_like(x));
    let objective = inputs.objective;
    let logprobs = masked(inputs.logprobs);
    let log_ratio = &logprobs - masked(inputs.old_logprobs);
    let log_ratio = match objective.ratio {
        Ratio::Token => log_ratio,
        // GSPO (arXiv 2507.18071) eq. 7: the length-normalised ratio of the whole completion.
        Ratio::Sequence => {
            let lengths = mask.sum_dim_intlist(-1, true, kind).clamp_min(1.0);
            log_ratio.sum_dim_intlist(-1, true, kind) / lengths * &mask
        }
        // Bounded, so that a policy that has moved far cannot make the infinite of a product with advantage 0.
        Ratio::Product => log_ratio.sum_dim_intlist(-1, true, kind).clamp_max(60.0) * &mask,
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
                WeightSide::OnSurrogate | WeightSide::OnTokenLoss => &weights * plain.minimum(&clipped),
            };
            (surrogate, Some(low), Some(high))
        }
    };
    let mut token_loss = -surrogate;
    let weighted = |term: Tensor| if objective.weights == WeightSide::OnTokenLoss { term * &weights } else { term };
    let mut kl_sum = 0.0;
    if let Some(reference) = inputs.ref_logprobs {
        let d = masked(reference) - &logprobs;
        let k3 = d.exp() - &d - 1.0;
        kl_sum = k3.sum(Kind::Double).double_value(&[]);
        token_loss += weighted(k3 * f64::from(objective.kl_coef));
    }
    if let Some(entropy) = inputs.entropy {
        token_loss -= weighted(masked(entropy) * f64::from(objective.entropy_coef));
    }
    let clipped = |outside: Tensor, sign: Tensor| {
        (outside.logical_and(&sign).to_kind(kind) * &mask).sum(Kind::Double).double_value(&[])
    };
    Surrogate {
        loss: (token_loss * masked(inputs.factors)).sum(kind),
        kl_sum,
        clipped_low: low.map_or(0.0, |low| clipped(ratio.lt(low), advantages.lt(0.0))),
        clipped_high: high.map_or(0.0, |high| clipped(ratio.gt(high), advantages.gt(0.0))),
        tokens: mask.sum(Kind::Double).double_value(&[]),
    }
}

#[cfg(test)]
mod tests {
    use foveate_algo::{ClipRange, Reduction};
    use tch::Device;

    use super::*;

    const CLIP: ClipRange = ClipRange { low: 0.2, high: 0.28 };
    // Two completions of 3 and 2 tokens; the last place is padding.
    const LOGPROBS: [f32; 6] = [-0.5, -1.5, -2.0, -0.1, -3.0, f32::NAN];
    const OLD: [f32; 6] = [-0.4, -2.5, -1.0, -0.1, -2.9, f32::NAN];
    const REFERENCE: [f32; 6] = [-0.7, -1.4, -2.5, -0.3, -2.0, f32::INFINITY];
    const ENTROPY: [f32; 6] = [0.5, 1.0, 1.5, 2.0, 2.5, f32::NAN];
    const WEIGHTS: [f32; 6] = [1.0, 1.7, 1.2, 0.5, 1.4, f32::NAN];
    const FACTORS: [f32; 6] = [0.1, 0.2, 0.3, 0.15, 0.25, f32::NAN];
    const ADVANTAGES: [f32; 2] = [0.8, -1.2];

    fn objective() -> Objective {
        Objective {
            clip: Some(CLIP),
            ratio: Ratio::Token,
            reduction: Reduction::SequenceMean,
            mask_truncated: false,
            mask_zero_std: false,
            kl_coef: 0.0,
            entropy_coef: 0.0,
            weights: WeightSide::OnSurrogate,
        }
    }

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).view([2, 3])
    }

    /// Loss, gradient at the log-probs, and what is logged; all terms given, whatever their coefficients.
    fn run(objective: &Objective, logprobs: &[f32; 6], old: &[f32; 6]) -> (f64, Vec<f64>, Surrogate) {
        let logprobs = tensor(logprobs).set_requires_grad(true);
        let surrogate = surrogate_loss(&SurrogateInputs {
            objective,
            logprobs: &logprobs,
            old_logprobs: &tensor(old),
            ref_logprobs: Some(&tensor(&REFERENCE)),
            entropy: Some(&tensor(&ENTROPY)),
            advantages: &Tensor::from_slice(&ADVANTAGES),
            weights: &tensor(&WEIGHTS),
            factors: &tensor(&FACTORS),
            mask: &Tensor::from_slice(&[true, true, true, true, true, false]).view([2, 3]),
        });
        surrogate.loss.backward();
        let gradient = Vec::try_from(logprobs.grad().flatten(0, -1).to_kind(Kind::Double)).unwrap();
        (surrogate.loss.double_value(&[]), gradient, surrogate)
    }

    /// The loss of the five tokens on plain numbers.
    fn by_hand(objective: &Objective, log_ratio: impl Fn(usize) -> f64) -> f64 {
        let f = f64::from;
        (0..5)
            .map(|i| {
                let (advantage, weight, r) = (f(ADVANTAGES[i / 3]), f(WEIGHTS[i]), log_ratio(i).exp());
                let clipped = objective.clip.map_or(r, |c| r.clamp(1.0 - f(c.low), 1.0 + f(c.high))) * advantage;
                let s = match objective.weights {
                    WeightSide::InsideMin if objective.clip.is_some() => (weight * r * advantage).min(clipped),
                    _ => weight * (r * advantage).min(clipped),
                };
                let d = f(REFERENCE[i]) - f(LOGPROBS[i]);
                let k3 = d.exp() - d - 1.0;
                let rest = f(objective.kl_coef) * k3 - f(objective.entropy_coef) * f(ENTROPY[i]);
                f(FACTORS[i]) * (-s + if objective.weights == WeightSide::OnTokenLoss { weight * rest } else { rest })
            })
            .sum()
    }

    fn assert_near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
    }

    #[test]
    fn the_loss_equals_the_formula_and_padding_has_no_part_in_it() {
        for weights in [WeightSide::InsideMin, WeightSide::OnSurrogate, WeightSide::OnTokenLoss] {
            for clip in [None, Some(CLIP)] {
                let objective = Objective { weights, clip, kl_coef: 0.3, entropy_coef: 0.2, ..objective() };
                let (loss, gradient, _) = run(&objective, &LOGPROBS, &OLD);
                assert_near(loss, by_hand(&objective, |i| f64::from(LOGPROBS[i]) - f64::from(OLD[i])));
                assert_eq!(gradient[5], 0.0);
                assert!(gradient.iter().all(|g| g.is_finite()), "{gradient:?}");
            }
        }
    }

    #[test]
    fn a_sequence_ratio_is_the_mean_log_ratio_of_its_tokens() {
        let objective = Objective { ratio: Ratio::Sequence, clip: None, ..objective() };
        let log_ratio = |i: usize| f64::from(LOGPROBS[i]) - f64::from(OLD[i]);
        let means = [(log_ratio(0) + log_ratio(1) + log_ratio(2)) / 3.0, (log_ratio(3) + log_ratio(4)) / 2.0];
        assert_near(run(&objective, &LOGPROBS, &OLD).0, by_hand(&objective, |i| means[i / 3]));
    }

    #[test]
    fn a_sequence_ratio_spreads_its_gradient_evenly_over_the_completion_and_is_clipped_as_one() {
        // GSPO eq. 10: the gradient of s_i by each of its log-probs is s_i / length.
        let objective = Objective { ratio: Ratio::Sequence, ..objective() };
        let wide = Objective { clip: Some(ClipRange { low: 0.9, high: 9.0 }), ..objective };
        let log_ratio = |i: usize| f64::from(LOGPROBS[i]) - f64::from(OLD[i]);
        let ratio = ((log_ratio(3) + log_ratio(4)) / 2.0).exp();
        let weights = f64::from(FACTORS[3] * WEIGHTS[3] + FACTORS[4] * WEIGHTS[4]);
        let (_, gradient, _) = run(&wide, &LOGPROBS, &OLD);
        for i in [3, 4] {
            assert_near(gradient[i], -weights * f64::from(ADVANTAGES[1]) * ratio / 2.0);
        }
        // The mean log-ratio of the first completion is -0.033, of all its tokens together; A > 0 and a tight bound
        // above leave it its gradient, one below 1 - 0.05 for the second (A < 0) takes it away.
        let tight = Objective { clip: Some(ClipRange { low: 0.01, high: 0.01 }), ..objective };
        let (_, gradient, surrogate) = run(&tight, &LOGPROBS, &OLD);
        assert!(gradient[..3].iter().all(|g| *g != 0.0) && gradient[3..].iter().all(|g| *g == 0.0), "{gradient:?}");
        assert_eq!((surrogate.clipped_low, surrogate.clipped_high), (2.0, 0.0));
    }

    #[test]
    fn one_update_per_rollout_has_a_ratio_of_exactly_one() {
        // A clip range without width would clip anything else.
        let objective = Objective { clip: Some(ClipRange { low: 0.0, high: 0.0 }), ..objective() };
        let (loss, gradient, surrogate) = run(&objective, &LOGPROBS, &LOGPROBS);
        assert_eq!((surrogate.clipped_low, surrogate.clipped_high, surrogate.tokens), (0.0, 0.0, 5.0));
        assert_near(loss, by_hand(&objective, |_| 0.0));
        let wide = run(&super::tests::objective(), &LOGPROBS, &LOGPROBS).1;
        let policy_gradient = |i: usize| -f64::from(FACTORS[i] * WEIGHTS[i] * ADVANTAGES[i / 3]);
        (0..5).for_each(|i| assert_near(wide[i], policy_gradient(i)));
        assert!(gradient.iter().all(|g| g.is_finite()));
    }

    #[test]
    fn clipped_tokens_are_counted_and_have_no_gradient() {
        // Ratios exp(-0.1), exp(1), exp(-1) with A > 0, then 1 and exp(-0.1) with A < 0.
        let (_, gradient, surrogate) = run(&objective(), &LOGPROBS, &OLD);
        assert_eq!((surrogate.clipped_low, surrogate.clipped_high), (0.0, 1.0));
        assert_eq!(gradient[1], 0.0);
        assert!([0, 2, 3, 4].iter().all(|i| gradient[*i] != 0.0), "{gradient:?}");
        let lower = [-0.5, -1.5, -2.0, -0.1, -4.0, 0.0];
        let (_, gradient, surrogate) = run(&objective(), &lower, &OLD);
        assert_eq!((surrogate.clipped_low, gradient[4]), (1.0, 0.0));
    }

    #[test]
    fn the_logged_kl_is_the_sum_of_k3_over_tokens() {
        let expected: f64 = (0..5).map(|i| f64::from(REFERENCE[i] - LOGPROBS[i])).map(|d| d.exp() - d - 1.0).sum();
        assert_near(run(&objective(), &LOGPROBS, &OLD).2.kl_sum, expected);
    }

    #[test]
    fn without_a_reference_there_is_no_kl() {
        let some = Tensor::zeros([1, 2], (Kind::Float, Device::Cpu));
        let surrogate = surrogate_loss(&SurrogateInputs {
            objective: &Objective { kl_coef: 1.0, ..objective() },
            logprobs: &some,
            old_logprobs: &some,
            ref_logprobs: None,
            entropy: None,
            advantages: &Tensor::from_slice(&[2.0_f32]),
            weights: &some.ones_like(),
            factors: &some.full_like(0.5),
            mask: &some.ones_like().to_kind(Kind::Bool),
        });
        assert_eq!((surrogate.kl_sum, surrogate.loss.double_value(&[])), (0.0, -2.0));
    }
}
