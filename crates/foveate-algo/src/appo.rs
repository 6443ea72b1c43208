//! APPO: attention-guided perception policy optimisation (arXiv 2602.23823 and its supplement).
//!
//! Right and wrong completions of one question look at different frames. The tokens that look hardest at the frames
//! of the right ones are its *perception tokens*; those among them where the group's completions disagree most get a
//! larger weight. The steps in [`Appo::credit`] are numbered as on the algorithm's page, `docs/algorithms/appo.md`.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use ndarray::{Array1, Array2, Array3, ArrayD, ArrayView1, ArrayView2, Axis, Zip, arr0, concatenate, s};
use serde::{Deserialize, Serialize};

use crate::config::{expect_some, expect_within};
use crate::group::expect_shape;
use crate::settings::settings;
use crate::{
    AlgoError, Algorithm, Credit, Divergence, Layers, MediaKind, Needs, Objective, Observations, Reduction,
    ScoredGroup, TokenMeanOver, Variant, normalized,
};

/// The name that `--algo` takes.
pub const NAME: &str = "appo";

settings! {
    /// Settings of APPO. The numbers are the paper's for Qwen2.5-VL (section 4.1).
    Settings {
        /// Which reading fills the settings left open. It alone decides which completions count as right: accuracy of at
        /// least 0.5 (paper) or above 0 (released).
        variant;
        /// Which frames are crucial (supplement, table D). Paper: soft.
        selection: Selection = Selection::Soft;
        /// Whether soft selection takes the frames of the wrong completions if none is right. Paper: false; released:
        /// true.
        fallback_all: bool = false, released true;
        /// Tokens that a completion's attention to a frame is averaged over. Paper: 15.
        k1: usize = 15;
        /// Frames of each completion. Paper: 3.
        k2: usize = 3;
        /// Perception tokens of each completion for each crucial frame. Paper: 64; released: 30.
        k3: usize = 64, released 30;
        /// Most that is added to a perception token's weight. Supplement: 0.7.
        alpha: f32 = 0.7;
        /// How disagreement is measured. Paper: kl; released: log-k3.
        divergence: Divergence = Divergence::Kl, released Divergence::LogK3;
        /// What puts perception tokens of different completions side by side. Paper: attention; released: text.
        order: RankOrder = RankOrder::Attention, released RankOrder::Text;
        /// Layers that the frame attention is averaged over. Paper: last:3.
        layers: Layers = Layers::Last(3);
        /// The ratio is clipped below `1 - clip_low`. Paper: 0.2.
        clip_low: f32 = 0.2;
        /// The ratio is clipped above `1 + clip_high`. Paper: 0.28.
        clip_high: f32 = 0.28;
        /// The tokens that the mean runs over. Paper: group.
        token_mean_over: TokenMeanOver = TokenMeanOver::Group;
    }
}

/// Which frames are crucial, given those of the right completions `H` and of the wrong ones `L`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// `H` without `L`.
    Hard,
    /// `H`.
    Soft,
    /// `H` and `L`.
    All,
}

/// In which order a completion's perception tokens are ranked against those of the other completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RankOrder {
    /// Largest attention first.
    Attention,
    /// As in the text.
    Text,
}

/// Attention-guided perception policy optimisation.
#[derive(Debug, Clone)]
pub struct Appo {
    settings: Settings,
}

impl Appo {
    /// APPO with these settings.
    ///
    /// # Errors
    /// If a setting lies outside its range.
    pub fn new(settings: Settings) -> Result<Self, AlgoError> {
        expect_some("k1", settings.k1)?;
        expect_some("k2", settings.k2)?;
        expect_some("k3", settings.k3)?;
        expect_within("alpha", settings.alpha, f32::MAX, "a number of at least 0")?;
        settings.check_shared()?;
        Ok(Self { settings })
    }

    /// Steps 1 to 3: the crucial frames, ascending.
    fn crucial_frames(&self, accuracy: ArrayView1<f32>, attention: &[Array2<f32>]) -> Vec<usize> {
        let (mut high, mut low) = (BTreeSet::new(), BTreeSet::new());
        for (accuracy, attention) in accuracy.iter().zip(attention) {
            let right = match self.settings.variant {
                Variant::Paper => *accuracy >= 0.5,
                Variant::Released => *accuracy > 0.0,
            };
            if !accuracy.is_nan() {
                let frames = self.frames_of(attention.view());
                if right { high.extend(frames) } else { low.extend(frames) }
            }
        }
        let nobody_right = high.is_empty();
        match self.settings.selection {
            Selection::Hard => high.difference(&low).copied().collect(),
            Selection::Soft if nobody_right && self.settings.fallback_all => low.into_iter().collect(),
            Selection::Soft => high.into_iter().collect(),
            Selection::All => high.union(&low).copied().collect(),
        }
    }

    /// Steps 1 and 2: the `k2` frames that a completion's attention `[length, F]` is largest on.
    fn frames_of(&self, attention: ArrayView2<f32>) -> Vec<usize> {
        largest(response_to_frames(attention, self.settings.k1).into_iter(), self.settings.k2)
    }

    /// Step 4: the perception tokens of a frame as positions `[G, J]`, `J = min(k3, T)`; `T` past a completion's last.
    fn perception_tokens(&self, frame: usize, attention: &[Array2<f32>], width: usize) -> Array2<usize> {
        let mut positions = Array2::from_elem((attention.len(), self.settings.k3.min(width)), width);
        for (mut row, attention) in positions.rows_mut().into_iter().zip(attention) {
            let mut tokens = largest(attention.column(frame).iter().copied(), self.settings.k3);
            if self.settings.order == RankOrder::Text {
                tokens.sort_unstable();
            }
            for (position, token) in row.iter_mut().zip(tokens) {
                *position = token;
            }
        }
        positions
    }

    /// Steps 5 and 6: how much each token adds to its weight, from 0 to 1, and the divergences `[K, J]`.
    fn perception(&self, tokens: &[Array2<usize>], group: &Perceived) -> Result<Perception, AlgoError> {
        let mut sum = Array2::<f32>::zeros(group.mask.dim());
        let mut count = Array2::<f32>::zeros(group.mask.dim());
        let ranks = self.settings.k3.min(group.mask.ncols());
        let all: Vec<_> = tokens.iter().map(Array2::view).collect();
        let divergence = if all.is_empty() {
            Array2::zeros((0, ranks))
        } else {
            let positions = concatenate(Axis(1), &all).map_err(shape_error)?;
            let flat = group.distributions.divergence(positions.view(), self.settings.divergence)?;
            expect_shape("divergence", &[positions.ncols()], flat.shape())?;
            flat.into_shape_with_order((tokens.len(), ranks)).map_err(shape_error)?
        };
        for (positions, divergence) in tokens.iter().zip(divergence.rows()) {
            let share = normalized(divergence)?;
            for ((i, rank), token) in positions.indexed_iter().filter(|(_, token)| **token < group.mask.ncols()) {
                sum[[i, *token]] += share[rank];
                count[[i, *token]] += 1.0;
            }
        }
        let selected = count.mapv(|groups| groups > 0.0);
        Ok(Perception { share: sum / count.mapv(|groups| groups.max(1.0)), selected, divergence })
    }
}

/// What perception is computed from once the frames are known.
struct Perceived<'a> {
    mask: &'a Array2<bool>,
    distributions: &'a dyn crate::TokenDistributions,
}

/// What perception tokens earn: `[G, T]`, `[G, T]` and `[K, J]`.
struct Perception {
    share: Array2<f32>,
    selected: Array2<bool>,
    divergence: Array2<f64>,
}

impl Algorithm for Appo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self, _media: MediaKind) -> Needs {
        Needs { frame_attention: Some(self.settings.layers), distributions: true, ..Needs::default() }
    }

    fn objective(&self) -> Objective {
        Objective { reduction: Reduction::TokenMean(self.settings.token_mean_over), ..self.settings.shared_objective() }
    }

    fn credit(&self, group: &ScoredGroup, seen: &Observations) -> Result<Credit, AlgoError> {
        let missing = |what| AlgoError::Missing { algorithm: NAME, what };
        let lengths = group.lengths()?;
        let attention = seen.frame_attention.as_ref().ok_or_else(|| missing("frame_attention"))?;
        let distributions = seen.distributions.ok_or_else(|| missing("the token distributions (logits)"))?;
        let attention = per_completion(attention, &group.mask, &lengths)?;

        let crucial = self.crucial_frames(group.accuracy.view(), &attention);
        let tokens: Vec<_> =
            crucial.iter().map(|frame| self.perception_tokens(*frame, &attention, group.mask.ncols())).collect();
        let perception = self.perception(&tokens, &Perceived { mask: &group.mask, distributions })?;
        let weights = Zip::from(&group.mask)
            .and(&perception.share)
            .map_collect(|token, share| if *token { 1.0 + self.settings.alpha * share } else { 0.0 });

        // In f64 and in order, so that padding cannot change its rounding.
        let sum: f64 = weights.iter().copied().map(f64::from).sum();
        let covered = lengths.iter().filter(|length| self.settings.k3 >= **length).count();
        let metric = |value: f32| arr0(value).into_dyn();
        let details: Vec<(&'static str, ArrayD<f32>)> = vec![
            ("crucial_frames", crucial.iter().map(|frame| *frame as f32).collect::<Array1<f32>>().into_dyn()),
            ("divergence", perception.divergence.mapv(|value| value as f32).into_dyn()),
            ("frac_groups_with_crucial", metric(if crucial.is_empty() { 0.0 } else { 1.0 })),
            ("frac_covered_by_k3", metric(covered as f32 / lengths.len() as f32)),
            ("token_weight_mean", metric((sum / lengths.iter().sum::<usize>() as f64) as f32)),
        ];
        Ok(Credit { weights, selected: perception.selected, details, ..Credit::plain(group)? })
    }
}

/// The attention of each completion's tokens, `[length, F]` each; NaN or infinity on a token is an error.
fn per_completion(
    attention: &Array3<f32>,
    mask: &Array2<bool>,
    lengths: &[usize],
) -> Result<Vec<Array2<f32>>, AlgoError> {
    let (rows, columns, frames) = attention.dim();
    expect_shape("frame_attention", &[mask.nrows(), mask.ncols(), frames], &[rows, columns, frames])?;
    let checked = |(completion, length): (usize, &usize)| {
        let tokens = attention.slice(s![completion, ..*length, ..]);
        match tokens.indexed_iter().find(|(_, value)| !value.is_finite()) {
            Some(((token, _), value)) => {
                Err(AlgoError::NotFinite { what: "frame_attention", completion, token, value: *value })
            }
            None => Ok(tokens.to_owned()),
        }
    };
    lengths.iter().enumerate().map(checked).collect()
}

/// Step 1, b of one completion: the mean of its `k1` largest attentions `[length, F]` to each frame, `[F]`.
pub fn response_to_frames(attention: ArrayView2<f32>, k1: usize) -> Vec<f64> {
    let of_frame = |tokens: ArrayView1<f32>| {
        let top = largest(tokens.iter().copied(), k1);
        top.iter().map(|token| f64::from(tokens[*token])).sum::<f64>() / top.len() as f64
    };
    attention.columns().into_iter().map(of_frame).collect()
}

/// Indices of the `count` largest values, largest first, ties lowest index first; all of them if there are fewer.
pub fn largest<T: PartialOrd>(values: impl Iterator<Item = T>, count: usize) -> Vec<usize> {
    let mut ranked: Vec<(usize, T)> = values.enumerate().collect();
    ranked.sort_by(|(_, a), (_, b)| b.partial_cmp(a).unwrap_or(Ordering::Equal));
    ranked.truncate(count);
    ranked.into_iter().map(|(index, _)| index).collect()
}

fn shape_error(error: ndarray::ShapeError) -> AlgoError {
    AlgoError::Distributions(Box::new(error))
}
