//! How far one token's distribution moves when its video is changed: what Video-KTR can rank tokens by.

use ndarray::ArrayView1;
use serde::{Deserialize, Serialize};

/// A video that differs from the one that completions were sampled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counterfactual {
    /// Masked, as [`crate::Needs::masked`] says.
    Masked,
    /// With its frames in another order, as [`crate::Needs::reordered`] says.
    Reordered,
}

impl std::fmt::Display for Counterfactual {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Masked => "masked",
            Self::Reordered => "reordered",
        })
    }
}

/// How far a token moves from its distribution `p` to `q`, the one under the changed video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distance {
    /// `log p - log q` of the token itself: a difference of log-probs, which needs no distributions.
    LogProb,
    /// `KL(p || q)`: from the distribution that was sampled from to the changed one.
    Kl,
    /// `(KL(p || m) + KL(q || m)) / 2` with `m = (p + q) / 2` (Jensen-Shannon).
    Js,
    /// `sum abs(p - q)`.
    L1,
    /// `sqrt(sum (p - q)^2)`.
    L2,
    /// `1 - p.q / (|p| |q|)`.
    Cosine,
    /// `sqrt(sum (sqrt p - sqrt q)^2 / 2)`.
    Hellinger,
}

/// The distance from `p` to `q`, given as log-probs `[V]`; `None` of [`Distance::LogProb`].
pub(crate) fn distance_of(log_p: ArrayView1<f64>, log_q: ArrayView1<f64>, kind: Distance) -> Option<f64> {
    let pairs = || log_p.iter().zip(&log_q).map(|(p, q)| (*p, *q));
    let sum = |term: fn(f64, f64) -> f64| pairs().map(|(p, q)| term(p, q)).sum::<f64>();
    // 0 log 0 is 0.
    let relative = |from: f64, to: f64| if from == f64::NEG_INFINITY { 0.0 } else { from.exp() * (from - to) };
    Some(match kind {
        Distance::LogProb => return None,
        Distance::Kl => pairs().map(|(p, q)| relative(p, q)).sum(),
        Distance::Js => {
            let halves = |(p, q): (f64, f64)| {
                let middle = ((p.exp() + q.exp()) / 2.0).ln();
                (relative(p, middle) + relative(q, middle)) / 2.0
            };
            pairs().map(halves).sum()
        }
        Distance::L1 => sum(|p, q| (p.exp() - q.exp()).abs()),
        Distance::L2 => sum(|p, q| (p.exp() - q.exp()).powi(2)).sqrt(),
        Distance::Cosine => {
            1.0 - sum(|p, q| (p + q).exp()) / (sum(|p, _| (2.0 * p).exp()) * sum(|_, q| (2.0 * q).exp())).sqrt()
        }
        Distance::Hellinger => (sum(|p, q| ((p / 2.0).exp() - (q / 2.0).exp()).powi(2)) / 2.0).sqrt(),
    })
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    const KINDS: [Distance; 6] =
        [Distance::Kl, Distance::Js, Distance::L1, Distance::L2, Distance::Cosine, Distance::Hellinger];

    #[test]
    fn each_distance_of_two_coins_is_the_one_worked_out_by_hand() {
        let (p, q) = (array![0.8_f64, 0.2], array![0.5_f64, 0.5]);
        let half = |a: f64, m: f64| a * (a / m).ln() / 2.0;
        let expected = [
            0.8 * 1.6_f64.ln() + 0.2 * 0.4_f64.ln(),
            half(0.8, 0.65) + half(0.2, 0.35) + half(0.5, 0.65) + half(0.5, 0.35),
            0.6,
            0.18_f64.sqrt(),
            1.0 - 0.5 / (0.68_f64 * 0.5).sqrt(),
            (1.0 - 0.4_f64.sqrt() - 0.1_f64.sqrt()).sqrt(),
        ];
        for (kind, expected) in KINDS.iter().zip(expected) {
            let found = distance_of(p.mapv(f64::ln).view(), q.mapv(f64::ln).view(), *kind).unwrap();
            assert!((found - expected).abs() < 1e-12, "{kind:?}: {found}, expected {expected}");
        }
    }

    #[test]
    fn a_distribution_is_at_no_distance_from_itself_even_if_it_lacks_a_token() {
        let p = array![0.3_f64.ln(), 0.7_f64.ln(), f64::NEG_INFINITY];
        for kind in KINDS {
            assert!(distance_of(p.view(), p.view(), kind).unwrap().abs() < 1e-7, "{kind:?}");
        }
    }
}
