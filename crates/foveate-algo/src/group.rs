//! A scored group, what is seen of it, and the credit that comes out.

use ndarray::{Array1, Array2, Array3, ArrayD};

use crate::{AlgoError, MediaKind, TokenDistributions};

/// One prompt's completions with their scores.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredGroup {
    /// Total reward of each completion, `[G]`; NaN where it could not be scored.
    pub rewards: Array1<f32>,
    /// Accuracy of each completion apart from every other reward, `[G]`; NaN where it could not be scored.
    pub accuracy: Array1<f32>,
    /// Whether a position holds a token, `[G, T]`: ones up to and including the end-of-sequence token, then zeros.
    pub mask: Array2<bool>,
    /// Whether a completion was cut off before its end-of-sequence token, `[G]`.
    pub truncated: Array1<bool>,
    /// What the prompt shows.
    pub media: MediaKind,
}

impl ScoredGroup {
    /// Tokens of each completion, `[G]`.
    ///
    /// # Errors
    /// If `rewards`, `accuracy` or `truncated` do not fit the mask, a completion has no token, or its mask has a hole.
    pub fn lengths(&self) -> Result<Vec<usize>, AlgoError> {
        let completions = self.mask.nrows();
        for (what, found) in
            [("rewards", self.rewards.len()), ("accuracy", self.accuracy.len()), ("truncated", self.truncated.len())]
        {
            expect_shape(what, &[completions], &[found])?;
        }
        lengths(&self.mask)
    }
}

/// Tokens of each row of a mask; an empty row or one with a hole is an error.
pub(crate) fn lengths(mask: &Array2<bool>) -> Result<Vec<usize>, AlgoError> {
    mask.rows()
        .into_iter()
        .enumerate()
        .map(|(completion, row)| {
            let length = row.iter().take_while(|token| **token).count();
            if length == 0 && !row.iter().any(|token| *token) {
                return Err(AlgoError::EmptyCompletion { completion });
            }
            match row.iter().skip(length).position(|token| *token) {
                Some(gap) => Err(AlgoError::MaskHole { completion, token: length + gap }),
                None => Ok(length),
            }
        })
        .collect()
}

/// An error unless the shapes agree.
pub(crate) fn expect_shape(what: &'static str, expected: &[usize], found: &[usize]) -> Result<(), AlgoError> {
    if expected == found {
        return Ok(());
    }
    Err(AlgoError::Shape { what, expected: expected.to_vec(), found: found.to_vec() })
}

/// What was observed of a group, as far as [`crate::Needs`] asked for it.
#[derive(Default)]
pub struct Observations<'a> {
    /// Attention of the position that predicts each token to each frame, `[G, T, F]`: the mass on the frame's video
    /// tokens, averaged over heads and the layers asked for.
    pub frame_attention: Option<Array3<f32>>,
    /// The token distributions, which stay where the logits live.
    pub distributions: Option<&'a dyn TokenDistributions>,
    /// Entropy of each token's distribution in nats, `[G, T]`.
    pub entropy: Option<Array2<f32>>,
    /// The sampling policy's own teacher-forced log-prob of each token, `[G, T]`.
    pub sampling_logprobs: Option<Array2<f32>>,
    /// The same with the video masked, `[G, T]`.
    pub masked_logprobs: Option<Array2<f32>>,
    /// The same with the frames in another order, `[G, T]`.
    pub reordered_logprobs: Option<Array2<f32>>,
    /// Accuracy of each contrast completion, `[G']`, `G' = floor(G / 2)`; NaN where it could not be scored.
    pub contrast_accuracy: Option<Array1<f32>>,
}

/// A per-token observation that an algorithm needs, `[G, T]`; an error unless it is there and finite on every token.
pub(crate) fn expect_per_token<'a>(
    algorithm: &'static str,
    what: &'static str,
    observed: Option<&'a Array2<f32>>,
    mask: &Array2<bool>,
) -> Result<&'a Array2<f32>, AlgoError> {
    let observed = observed.ok_or(AlgoError::Missing { algorithm, what })?;
    expect_shape(what, mask.shape(), observed.shape())?;
    match observed.indexed_iter().find(|(at, value)| mask[*at] && !value.is_finite()) {
        Some(((completion, token), value)) => Err(AlgoError::NotFinite { what, completion, token, value: *value }),
        None => Ok(observed),
    }
}

/// What an algorithm gives to the tokens of a group. All of it is constant to the gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct Credit {
    /// Rewards after whatever shaping depends on the group, `[G]`; NaN where one could not be scored.
    pub rewards: Array1<f32>,
    /// Advantage of each completion, `[G]`; always finite.
    pub advantages: Array1<f32>,
    /// Weight of each token in the surrogate, `[G, T]`; 0 on padding.
    pub weights: Array2<f32>,
    /// The tokens that the algorithm singled out, `[G, T]` (APPO: perception tokens; Video-KTR: key tokens; GRPO: every
    /// token). [`crate::Reduction::SelectedMean`] counts them; else they are for reports.
    pub selected: Array2<bool>,
    /// Intermediate results by name, described on the algorithm's page; those without an axis are metrics.
    pub details: Vec<(&'static str, ArrayD<f32>)>,
}

impl Credit {
    /// The detail of this name, if the algorithm gives it.
    pub fn detail(&self, name: &str) -> Option<&ArrayD<f32>> {
        self.details.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

/// As much of a group as its share in the loss depends on: the input of [`crate::factors`].
#[derive(Debug, Clone, PartialEq)]
pub struct GroupShape {
    /// As in [`ScoredGroup`], `[G, T]`.
    pub mask: Array2<bool>,
    /// As in [`ScoredGroup`], `[G]`.
    pub truncated: Array1<bool>,
    /// As in [`Credit`], `[G, T]`.
    pub selected: Array2<bool>,
    /// Whether all rewards are equal, so that every advantage is 0.
    pub zero_std: bool,
}

impl GroupShape {
    /// The shape of a group that got this credit.
    pub fn of(group: &ScoredGroup, credit: &Credit) -> Self {
        Self {
            mask: group.mask.clone(),
            truncated: group.truncated.clone(),
            selected: credit.selected.clone(),
            zero_std: credit.advantages.iter().all(|advantage| *advantage == 0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn group(mask: Array2<bool>) -> ScoredGroup {
        let completions = mask.nrows();
        ScoredGroup {
            rewards: Array1::zeros(completions),
            accuracy: Array1::zeros(completions),
            truncated: Array1::from_elem(completions, false),
            mask,
            media: MediaKind::Video,
        }
    }

    #[test]
    fn a_completion_without_a_token_is_an_error_that_says_so() {
        let error = group(array![[true, true], [false, false]]).lengths().unwrap_err();
        assert_eq!(error.to_string(), "completion 1 of the group has no token: every completion needs at least one");
    }

    #[test]
    fn a_mask_with_a_hole_is_an_error() {
        let error = group(array![[true, false, true]]).lengths().unwrap_err();
        assert!(matches!(error, AlgoError::MaskHole { completion: 0, token: 2 }), "{error}");
        let error = group(array![[false, true, true]]).lengths().unwrap_err();
        assert!(matches!(error, AlgoError::MaskHole { completion: 0, token: 1 }), "{error}");
    }

    #[test]
    fn scores_that_do_not_fit_the_mask_are_an_error() {
        let mut short = group(array![[true], [true]]);
        short.accuracy = array![1.0];
        let error = short.lengths().unwrap_err();
        assert_eq!(error.to_string(), "accuracy has shape [1], expected [2]");
    }

    #[test]
    fn lengths_are_mask_sums() {
        assert_eq!(group(array![[true, true], [true, false]]).lengths().unwrap(), [2, 1]);
    }
}
