//! How much a group's token distributions differ at a position: TW-GRPO's and APPO's measure of information.

use ndarray::{Array1, Array2, Array3, ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

use crate::AlgoError;
use crate::group::{expect_shape, lengths};

/// Bound on a log-ratio in [`Divergence::LogK3`], as in the released code.
const LOG_RATIO_BOUND: f64 = 11.0;
/// Denominator guard of the min-max normalisation, as in the released code.
const EPSILON: f64 = 1e-8;
/// A spread, in nats, that f32 log-probs make out of equal divergences.
const ROUNDING: f64 = 1e-6;

/// The divergence of `G` distributions `p_i` from their middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Divergence {
    /// `sum_i KL(p_i || mean_i p_i)` (TW-GRPO, eq. 4; APPO).
    Kl,
    /// `mean_i sum_v (exp(d) - d - 1)` with `d = clamp(mean_i log p_i - log p_i, -11, 11)` (released code of both).
    LogK3,
}

/// The token distributions of a group, which stay where the logits live; answers are computed a chunk at a time.
pub trait TokenDistributions {
    /// The divergence, `[J]`, over the group at the positions `[G, J]`: entry `j` compares the distribution of token
    /// `positions[i, j]` over all completions `i`. An index at or past completion `i`'s length stands for the uniform
    /// distribution. Two distributions that both lack a token (log-prob minus infinity) agree on it.
    ///
    /// In f64, and to be summed in it: log-k3 divergences of 4e5 can differ by 30 only, of which f32 loses the third
    /// digit.
    ///
    /// # Errors
    /// If `positions` has not one row per completion, or the distributions cannot be computed.
    fn divergence(&self, positions: ArrayView2<usize>, kind: Divergence) -> Result<Array1<f64>, AlgoError>;
}

/// Distributions given as logits in memory, in f64: for recorded groups, and to check faster keepers against.
#[derive(Debug, Clone)]
pub struct RecordedDistributions {
    logits: Array3<f32>,
    lengths: Vec<usize>,
}

impl RecordedDistributions {
    /// From the logits `[G, T, V]` that predict each token and the completion mask `[G, T]`. Temperature is the
    /// caller's: these are the logits of the distribution that was sampled from.
    ///
    /// # Errors
    /// If the shapes disagree, a completion has no token, or its mask has a hole.
    pub fn new(logits: Array3<f32>, mask: &Array2<bool>) -> Result<Self, AlgoError> {
        let (completions, tokens, vocabulary) = logits.dim();
        let (rows, columns) = mask.dim();
        expect_shape("logits", &[rows, columns, vocabulary], &[completions, tokens, vocabulary])?;
        Ok(Self { lengths: lengths(mask)?, logits })
    }

    /// Log-probs over the vocabulary, `[V]`.
    fn log_probs(&self, completion: usize, position: usize) -> Array1<f64> {
        let vocabulary = self.logits.dim().2;
        if position >= self.lengths[completion] {
            return Array1::from_elem(vocabulary, -(vocabulary as f64).ln());
        }
        let logits = self.logits.slice(ndarray::s![completion, position, ..]).mapv(f64::from);
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = largest + logits.mapv(|logit| (logit - largest).exp()).sum().ln();
        logits - log_sum
    }
}

impl TokenDistributions for RecordedDistributions {
    fn divergence(&self, positions: ArrayView2<usize>, kind: Divergence) -> Result<Array1<f64>, AlgoError> {
        expect_shape("positions", &[self.lengths.len(), positions.ncols()], positions.shape())?;
        let at_rank = |ranked: ArrayView1<usize>| {
            let log_probs: Vec<_> =
                ranked.iter().enumerate().map(|(completion, position)| self.log_probs(completion, *position)).collect();
            match kind {
                Divergence::Kl => kl_to_mean(&log_probs),
                Divergence::LogK3 => k3_to_log_mean(&log_probs),
            }
        };
        Ok(positions.columns().into_iter().map(at_rank).collect())
    }
}

fn kl_to_mean(log_probs: &[Array1<f64>]) -> f64 {
    let count = log_probs.len() as f64;
    let vocabulary = log_probs.first().map_or(0, |row| row.len());
    let at = |v: usize| {
        let log_mean = (log_probs.iter().map(|row| row[v].exp()).sum::<f64>() / count).ln();
        log_probs
            .iter()
            .map(|row| row[v])
            .filter(|l| *l != f64::NEG_INFINITY)
            .map(|l| l.exp() * (l - log_mean))
            .sum::<f64>()
    };
    (0..vocabulary).map(at).sum()
}

fn k3_to_log_mean(log_probs: &[Array1<f64>]) -> f64 {
    let count = log_probs.len() as f64;
    let vocabulary = log_probs.first().map_or(0, |row| row.len());
    let at = |v: usize| {
        let middle = log_probs.iter().map(|row| row[v]).sum::<f64>() / count;
        let k3 = |log_prob: f64| {
            // Both minus infinity: their difference would be NaN.
            let ratio =
                if middle == log_prob { 0.0 } else { (middle - log_prob).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND) };
            ratio.exp_m1() - ratio
        };
        log_probs.iter().map(|row| k3(row[v])).sum::<f64>()
    };
    (0..vocabulary).map(at).sum::<f64>() / count
}

/// `(D - min) / (max - min + 1e-8)`, `[J]` to `[J]`: 0 for the smallest divergence, almost 1 for the largest.
///
/// Divergences that are equal up to rounding (1e-6 nats) are flat, and all 0: the guard of 1e-8 alone would blow their
/// last bits up to 1.
///
/// # Errors
/// If a divergence is not finite.
pub fn normalized(divergence: ArrayView1<f64>) -> Result<Array1<f32>, AlgoError> {
    if let Some((rank, value)) = divergence.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        return Err(AlgoError::Divergence { rank, value: *value });
    }
    let smallest = divergence.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = divergence.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let spread = largest - smallest;
    if spread <= ROUNDING {
        return Ok(Array1::zeros(divergence.len()));
    }
    Ok(divergence.mapv(|value| ((value - smallest) / (spread + EPSILON)) as f32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn recorded(logits: Array3<f32>) -> RecordedDistributions {
        let (completions, tokens, _) = logits.dim();
        RecordedDistributions::new(logits, &Array2::from_elem((completions, tokens), true)).unwrap()
    }

    #[test]
    fn two_opposite_coins_diverge_by_two_ln_two() {
        let coins = recorded(array![[[60.0, 0.0]], [[0.0, 60.0]]]);
        let found = coins.divergence(array![[0], [0]].view(), Divergence::Kl).unwrap();
        assert!((found[0] - 2.0 * std::f64::consts::LN_2).abs() < 1e-6, "{found}");
    }

    #[test]
    fn log_k3_of_two_distributions_is_their_cosh() {
        // Log-probs differ by +-2h: d = -+h, so sum_v cosh(h_v) - 1 each.
        let (a, b) = ((0.8_f64 / 0.2).ln(), (0.4_f64 / 0.6).ln());
        let pair = recorded(array![[[a as f32, 0.0]], [[b as f32, 0.0]]]);
        let found = pair.divergence(array![[0], [0]].view(), Divergence::LogK3).unwrap();
        let half = |p: f64, q: f64| ((p.ln() - q.ln()) / 2.0).cosh() - 1.0;
        assert!((found[0] - half(0.8, 0.4) - half(0.2, 0.6)).abs() < 1e-6, "{found}");
    }

    #[test]
    fn a_position_past_the_end_is_uniform_whatever_stands_there() {
        let mask = array![[true, true], [true, false]];
        let logits = array![[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [f32::NAN, f32::NAN]]];
        let group = RecordedDistributions::new(logits, &mask).unwrap();
        let uniform = recorded(array![[[1.0, 0.0]], [[0.0, 0.0]]]);
        for kind in [Divergence::Kl, Divergence::LogK3] {
            let expected = uniform.divergence(array![[0], [0]].view(), kind).unwrap();
            let found = group.divergence(array![[1, 1], [1, 99]].view(), kind).unwrap();
            assert_eq!(found, array![expected[0], expected[0]]);
        }
    }

    #[test]
    fn tokens_that_no_completion_can_say_do_not_count() {
        let never = f32::NEG_INFINITY;
        let with = recorded(array![[[1.0, 0.0, never]], [[0.0, 0.5, never]]]);
        let without = recorded(array![[[1.0, 0.0]], [[0.0, 0.5]]]);
        for kind in [Divergence::Kl, Divergence::LogK3] {
            let positions = array![[0], [0]];
            assert_eq!(
                with.divergence(positions.view(), kind).unwrap(),
                without.divergence(positions.view(), kind).unwrap()
            );
        }
    }

    #[test]
    fn positions_for_another_number_of_completions_are_an_error() {
        let error = recorded(Array3::zeros((2, 1, 3))).divergence(array![[0]].view(), Divergence::Kl).unwrap_err();
        assert_eq!(error.to_string(), "positions has shape [1, 1], expected [2, 1]");
    }

    #[test]
    fn normalised_divergences_span_zero_to_one_and_flat_ones_are_zero() {
        assert_eq!(normalized(array![3.0, 1.0, 2.0].view()).unwrap(), array![1.0, 0.0, 0.5]);
        assert_eq!(normalized(array![4e5, 4e5 + 30.0, 4e5 + 3.0].view()).unwrap(), array![0.0, 1.0, 0.1]);
        assert_eq!(normalized(array![2.0, 2.0].view()).unwrap(), array![0.0, 0.0]);
        assert_eq!(normalized(array![5.0, 5.000_000_5_f64].view()).unwrap(), array![0.0, 0.0]);
        assert_eq!(normalized(array![].view()).unwrap(), array![]);
        assert!(normalized(array![1.0, f64::NAN].view()).is_err());
    }
}
