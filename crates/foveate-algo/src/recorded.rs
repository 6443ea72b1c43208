//! Token distributions recorded as logits.

use ndarray::{Array1, Array2, Array3, ArrayView1, ArrayView2, s};

use crate::distance::distance_of;
use crate::divergence::divergence_of;
use crate::group::{expect_shape, lengths};
use crate::{AlgoError, Counterfactual, Distance, Divergence, TokenDistributions};

/// Distributions given as logits in memory, in f64: for recorded groups, and to check faster keepers against.
#[derive(Debug, Clone)]
pub struct RecordedDistributions {
    logits: Array3<f32>,
    masked: Option<Array3<f32>>,
    reordered: Option<Array3<f32>>,
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
        Ok(Self { lengths: lengths(mask)?, logits, masked: None, reordered: None })
    }

    /// The same with the logits `[G, T, V]` of the same tokens under a changed video.
    ///
    /// # Errors
    /// If the shapes disagree.
    pub fn with(mut self, under: Counterfactual, logits: Array3<f32>) -> Result<Self, AlgoError> {
        let (what, place) = match under {
            Counterfactual::Masked => ("masked_logits", &mut self.masked),
            Counterfactual::Reordered => ("shuffled_logits", &mut self.reordered),
        };
        expect_shape(what, self.logits.shape(), logits.shape())?;
        *place = Some(logits);
        Ok(self)
    }

    /// Log-probs over the vocabulary, `[V]`.
    fn log_probs(&self, completion: usize, position: usize) -> Array1<f64> {
        let vocabulary = self.logits.dim().2;
        if position >= self.lengths[completion] {
            return Array1::from_elem(vocabulary, -(vocabulary as f64).ln());
        }
        log_softmax(self.logits.slice(s![completion, position, ..]))
    }
}

fn log_softmax(logits: ArrayView1<f32>) -> Array1<f64> {
    let logits = logits.mapv(f64::from);
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = largest + logits.mapv(|logit| (logit - largest).exp()).sum().ln();
    logits - log_sum
}

impl TokenDistributions for RecordedDistributions {
    fn divergence(&self, positions: ArrayView2<usize>, kind: Divergence) -> Result<Array1<f64>, AlgoError> {
        expect_shape("positions", &[self.lengths.len(), positions.ncols()], positions.shape())?;
        let at_rank = |ranked: ArrayView1<usize>| {
            let log_probs: Vec<_> =
                ranked.iter().enumerate().map(|(completion, position)| self.log_probs(completion, *position)).collect();
            divergence_of(&log_probs, kind)
        };
        Ok(positions.columns().into_iter().map(at_rank).collect())
    }

    fn distance(&self, under: Counterfactual, kind: Distance) -> Result<Array2<f32>, AlgoError> {
        let changed = match under {
            Counterfactual::Masked => self.masked.as_ref(),
            Counterfactual::Reordered => self.reordered.as_ref(),
        };
        let changed = changed.ok_or(AlgoError::NoCounterfactual { under })?;
        let (completions, tokens, _) = self.logits.dim();
        let mut distances = Array2::zeros((completions, tokens));
        for (completion, length) in self.lengths.iter().enumerate() {
            for token in 0..*length {
                let before = self.log_probs(completion, token);
                let after = log_softmax(changed.slice(s![completion, token, ..]));
                let distance = distance_of(before.view(), after.view(), kind);
                distances[[completion, token]] = distance.ok_or(AlgoError::NotOfDistributions { kind })? as f32;
            }
        }
        Ok(distances)
    }
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
    fn distances_are_zero_on_padding_and_need_their_counterfactual() {
        let mask = array![[true, true], [true, false]];
        let logits = array![[[0.0, 0.0], [1.0, 0.0]], [[0.0, 2.0], [f32::NAN, f32::NAN]]];
        let group = RecordedDistributions::new(logits.clone(), &mask).unwrap();
        let error = group.distance(Counterfactual::Masked, Distance::Kl).unwrap_err();
        assert!(matches!(error, AlgoError::NoCounterfactual { under: Counterfactual::Masked }), "{error}");
        let group = group.with(Counterfactual::Masked, logits.mapv(|logit| logit * 2.0)).unwrap();
        let found = group.distance(Counterfactual::Masked, Distance::Kl).unwrap();
        assert_eq!((found[[0, 0]], found[[1, 1]]), (0.0, 0.0));
        assert!(found[[0, 1]] > 0.0 && found[[1, 0]] > 0.0, "{found}");
        assert!(group.distance(Counterfactual::Reordered, Distance::Kl).is_err());
        let error = group.distance(Counterfactual::Masked, Distance::LogProb).unwrap_err();
        assert_eq!(error.to_string(), "LogProb compares log-probs of tokens, not distributions");
        let error = group.with(Counterfactual::Masked, Array3::zeros((2, 1, 2))).unwrap_err();
        assert_eq!(error.to_string(), "masked_logits has shape [2, 1, 2], expected [2, 2, 2]");
    }
}
