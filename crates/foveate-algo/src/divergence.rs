//! How much a group's token distributions differ at a position: TW-GRPO's and APPO's measure of information.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use serde::{Deserialize, Serialize};

use crate::{AlgoError, Counterfactual, Distance};

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

    /// How far each token's distribution moves when its video is changed, `[G, T]`: the distance from what it was to what
    /// it is under the counterfactual; 0 on padding. In f64, to be rounded once.
    ///
    /// # Errors
    /// If the distributions were made without the counterfactual, or cannot be computed; [`Distance::LogProb`] is no
    /// distance of distributions.
    fn distance(&self, under: Counterfactual, kind: Distance) -> Result<Array2<f32>, AlgoError>;
}

/// Of a group's log-probs at one position, `[V]` each.
pub(crate) fn divergence_of(log_probs: &[Array1<f64>], kind: Divergence) -> f64 {
    match kind {
        Divergence::Kl => kl_to_mean(log_probs),
        Divergence::LogK3 => k3_to_log_mean(log_probs),
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
