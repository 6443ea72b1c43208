//! What differs between papers once tokens have their credit: the loss as a value, and its reduction as data.

use ndarray::{Array2, ArrayView1};
use serde::{Deserialize, Serialize};

use crate::GroupShape;

/// The loss that an algorithm's credit enters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// Bounds of the importance ratio; `None` never clips.
    pub clip: Option<ClipRange>,
    /// Whether every token or every sequence has one importance ratio.
    pub ratio: Ratio,
    /// How token losses become one number.
    pub reduction: Reduction,
    /// The tokens of truncated completions leave numerator and denominator; their rewards stay in the baseline.
    pub mask_truncated: bool,
    /// A group whose rewards are all equal leaves numerator and denominator; else it still carries the KL term.
    pub mask_zero_std: bool,
    /// Coefficient of the k3 estimate of the KL divergence to the reference policy; 0 needs no reference.
    pub kl_coef: f32,
    /// Coefficient of the entropy bonus.
    pub entropy_coef: f32,
    /// Where token weights enter.
    pub weights: WeightSide,
}

/// The importance ratio stays within `1 - low` and `1 + high`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClipRange {
    /// Distance of the lower bound from 1.
    pub low: f32,
    /// Distance of the upper bound from 1.
    pub high: f32,
}

/// What an importance ratio belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ratio {
    /// `exp(logprob - old_logprob)` of each token.
    Token,
    /// One for all tokens of a sequence: the geometric mean of the tokens' ratios (GSPO, arXiv 2507.18071, eq. 7).
    Sequence,
    /// One for all of a sequence, the product of its ratios: what was done is the sequence as a whole (ReFoCUS). No setting.
    #[serde(skip)]
    Product,
}

/// Where a token's weight enters the loss of ratio `r` and advantage `A`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightSide {
    /// `min(w r A, clip(r) A)`: the weight can decide what is clipped (TW-GRPO, eq. 6).
    InsideMin,
    /// `w min(r A, clip(r) A)` (APPO and all released code).
    OnSurrogate,
    /// `w (min(r A, clip(r) A) - kl_coef k3 + entropy_coef H)`: a token of weight 0 has no part in the loss (Video-KTR).
    OnTokenLoss,
}

/// How token losses become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Mean over each completion's tokens, then over the group's completions, then over groups (GRPO).
    SequenceMean,
    /// Mean over tokens (DAPO, TW-GRPO, APPO).
    TokenMean(TokenMeanOver),
    /// Sum over each completion's tokens divided by this number, then the mean over the group's completions, then over
    /// groups (Dr. GRPO, arXiv 2503.20783): a long completion's tokens count as much as a short one's.
    ConstantLength(usize),
    /// Mean over the tokens that the credit selected of each completion, then over the group's completions, then over
    /// groups (released Video-KTR). A completion without such a token contributes 0.
    SelectedMean,
}

/// The set of tokens that one token-mean runs over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenMeanOver {
    /// The tokens of a group, then the mean over groups: the papers' formula.
    #[default]
    Group,
    /// All tokens of the optimizer step.
    Step,
}

/// The reduction of one optimizer step as data: for each group `[G, T]` such that `loss = sum(factor * token_loss)`.
///
/// 0 on padding and on whatever the objective masks. A group of which nothing is left does not count in the mean over
/// groups. Computed from all groups of the step before any forward pass, so that splitting them into passes
/// changes nothing.
pub fn factors(objective: &Objective, groups: &[GroupShape]) -> Vec<Array2<f32>> {
    let kept: Vec<Vec<usize>> = groups.iter().map(|group| kept_lengths(objective, group)).collect();
    let tokens = |lengths: &Vec<usize>| lengths.iter().sum::<usize>();
    let step_tokens: usize = kept.iter().map(tokens).sum();
    let step_groups = kept.iter().filter(|lengths| tokens(lengths) > 0).count();
    let group_factors = |(group, lengths): (&GroupShape, &Vec<usize>)| {
        let completions = lengths.iter().filter(|length| **length > 0).count() as f64;
        let selected: Vec<usize> = group.selected.rows().into_iter().map(count).collect();
        let only_selected = objective.reduction == Reduction::SelectedMean;
        Array2::from_shape_fn(group.mask.dim(), |(i, t)| {
            if !group.mask[[i, t]] || lengths[i] == 0 || (only_selected && !group.selected[[i, t]]) {
                return 0.0;
            }
            let tokens = match objective.reduction {
                Reduction::TokenMean(TokenMeanOver::Step) => return (1.0 / step_tokens as f64) as f32,
                Reduction::TokenMean(TokenMeanOver::Group) => tokens(lengths) as f64 / completions,
                Reduction::SequenceMean => lengths[i] as f64,
                Reduction::SelectedMean => selected[i] as f64,
                Reduction::ConstantLength(length) => length as f64,
            };
            (1.0 / (tokens * completions * step_groups as f64)) as f32
        })
    };
    groups.iter().zip(&kept).map(group_factors).collect()
}

/// Tokens of each completion that count, `[G]`; 0 where the objective masks the completion or its group.
fn kept_lengths(objective: &Objective, group: &GroupShape) -> Vec<usize> {
    let whole_group_masked = objective.mask_zero_std && group.zero_std;
    group
        .mask
        .rows()
        .into_iter()
        .zip(&group.truncated)
        .map(|(row, truncated)| {
            let masked = whole_group_masked || (objective.mask_truncated && *truncated);
            if masked { 0 } else { count(row) }
        })
        .collect()
}

fn count(row: ArrayView1<bool>) -> usize {
    row.iter().filter(|token| **token).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn objective(reduction: Reduction) -> Objective {
        Objective {
            clip: None,
            ratio: Ratio::Token,
            reduction,
            mask_truncated: false,
            mask_zero_std: false,
            kl_coef: 0.0,
            entropy_coef: 0.0,
            weights: WeightSide::OnSurrogate,
        }
    }

    /// Two groups: lengths 1 and 3 (truncated), lengths 2 and 2 with equal rewards.
    fn step() -> Vec<GroupShape> {
        let (x, o) = (true, false);
        vec![
            GroupShape {
                mask: array![[x, o, o], [x, x, x]],
                truncated: array![o, x],
                selected: array![[o, o, o], [x, o, x]],
                zero_std: false,
            },
            GroupShape {
                mask: array![[x, x], [x, x]],
                truncated: array![o, o],
                selected: array![[x, x], [o, x]],
                zero_std: true,
            },
        ]
    }

    #[test]
    fn a_sequence_mean_gives_every_completion_the_same_share() {
        let found = factors(&objective(Reduction::SequenceMean), &step());
        let sixth = 1.0_f32 / 12.0;
        assert_eq!(found[0], array![[0.25, 0.0, 0.0], [sixth, sixth, sixth]]);
        assert_eq!(found[1], array![[0.125, 0.125], [0.125, 0.125]]);
    }

    #[test]
    fn a_token_mean_over_groups_gives_every_group_the_same_share() {
        let found = factors(&objective(Reduction::TokenMean(TokenMeanOver::Group)), &step());
        assert_eq!(found[0], array![[0.125, 0.0, 0.0], [0.125, 0.125, 0.125]]);
        assert_eq!(found[1], array![[0.125, 0.125], [0.125, 0.125]]);
    }

    #[test]
    fn a_token_mean_over_the_step_gives_every_token_the_same_share() {
        let mut groups = step();
        groups[0].mask[[0, 1]] = true;
        let found = factors(&objective(Reduction::TokenMean(TokenMeanOver::Step)), &groups);
        let ninth = 1.0_f32 / 9.0;
        assert_eq!(found[0], array![[ninth, ninth, 0.0], [ninth, ninth, ninth]]);
        assert_eq!(found[1][[1, 1]], ninth);
    }

    #[test]
    fn a_constant_length_gives_every_token_the_same_share_whatever_its_completions_length() {
        let found = factors(&objective(Reduction::ConstantLength(5)), &step());
        assert_eq!(found[0], array![[0.05, 0.0, 0.0], [0.05, 0.05, 0.05]]);
        assert_eq!(found[1], array![[0.05, 0.05], [0.05, 0.05]]);
    }

    #[test]
    fn a_mean_over_selected_tokens_leaves_the_others_out_and_counts_completions_without_one() {
        let found = factors(&objective(Reduction::SelectedMean), &step());
        assert_eq!(found[0], array![[0.0, 0.0, 0.0], [0.125, 0.0, 0.125]]);
        assert_eq!(found[1], array![[0.125, 0.125], [0.0, 0.25]]);
    }

    #[test]
    fn masked_truncated_completions_leave_numerator_and_denominator() {
        for reduction in [Reduction::SequenceMean, Reduction::TokenMean(TokenMeanOver::Group)] {
            let objective = Objective { mask_truncated: true, ..objective(reduction) };
            let found = factors(&objective, &step());
            assert_eq!(found[0], array![[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]], "{reduction:?}");
        }
    }

    #[test]
    fn a_masked_zero_std_group_leaves_numerator_and_denominator() {
        let objective = Objective { mask_zero_std: true, ..objective(Reduction::SequenceMean) };
        let found = factors(&objective, &step());
        assert_eq!(found[1], Array2::<f32>::zeros((2, 2)));
        assert_eq!(found[0][[0, 0]], 0.5);
    }

    #[test]
    fn a_step_with_nothing_left_has_no_factors_and_no_nan() {
        let mut groups = step();
        groups[0].zero_std = true;
        for reduction in [Reduction::SequenceMean, Reduction::TokenMean(TokenMeanOver::Step)] {
            let objective = Objective { mask_zero_std: true, ..objective(reduction) };
            assert!(factors(&objective, &groups).iter().all(|group| group.iter().all(|factor| *factor == 0.0)));
        }
    }
}
