//! Video-KTR: reinforcement of key tokens only (ICLR 2026).
//!
//! A token is *key* if it depends on what the video shows (its log-prob falls when the video is masked), on the order of
//! the frames (when they are reordered), or if the policy was unsure of it (entropy). The others leave the loss.

use ndarray::{Array2, ArrayD, arr0};
use serde::{Deserialize, Serialize};

use crate::config::expect_within;
use crate::group::{expect_per_token, expect_shape};
use crate::settings::settings;
use crate::{
    AlgoError, Algorithm, Counterfactual, Credit, Distance, MaskedFrames, Masking, MediaKind, Needs, Objective,
    Observations, Reduction, Reordering, ScoredGroup, Variant, VisualMask, WeightSide,
};

/// The name that `--algo` takes.
pub const NAME: &str = "video-ktr";

settings! {
    /// Settings of Video-KTR.
    Settings {
        /// Which reading fills the settings left open. It alone decides the sign of visual and temporal scores: their
        /// absolute value counts (paper), or only a fall of the log-prob does (released).
        variant;
        /// Scores that make tokens key (table 2). Paper: all three.
        signals: Vec<Signal> = vec![Signal::Entropy, Signal::Visual, Signal::Temporal];
        /// Share of the group's tokens that each score makes key. Paper: 0.2.
        ratio: f64 = 0.2;
        /// How the video is masked for the visual score. Paper: zero-features; released: hide-tokens.
        visual_mask: VisualMask = VisualMask::ZeroFeatures, released VisualMask::HideTokens;
        /// What of the video is masked (figure 10). Paper: all.
        masked_frames: MaskedFrames = MaskedFrames::All;
        /// How the frames are reordered for the temporal score (figure 10). Paper: shuffled.
        reorder: Reordering = Reordering::Shuffled;
        /// How far a token moves when the video is changed (figure 8). Paper: log-prob.
        distance: Distance = Distance::LogProb;
        /// What scores make of token weights (figure 7). Paper: binary.
        weighting: Weighting = Weighting::Binary;
        /// What a completion's sum over key tokens is divided by. Paper: length; released: selected.
        normalizer: Normalizer = Normalizer::Length, released Normalizer::Selected;
        /// Coefficient of the KL term; 0 does without a reference policy. Paper: 0.4; released: 0.04.
        beta: f32 = 0.4, released 0.04;
        /// The ratio is clipped below `1 - clip_low`. Paper: 0.2.
        clip_low: f32 = 0.2;
        /// The ratio is clipped above `1 + clip_high`. Paper: 0.2.
        clip_high: f32 = 0.2;
    }
}

/// A score that tokens are ranked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// Entropy of the token's distribution.
    Entropy,
    /// How far the token moves when the video is masked.
    Visual,
    /// How far the token moves when the frames are reordered. Images have none.
    Temporal,
}

/// What scores make of token weights. `z` is the mean of the scores, each min-max scaled over the group's tokens; all but
/// `Binary` are then scaled to mean 1 over these tokens (the paper only names them).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// 1 for key tokens, 0 for the others.
    Binary,
    /// `exp(4 z)` over its sum.
    Softmax,
    /// `1 / (1 + exp(-8 (z - 0.5)))`.
    Sigmoid,
    /// `z`.
    Linear,
    /// `exp(2 z)`.
    Exponential,
}

/// What a completion's sum over key tokens is divided by. With weights other than binary every token counts, and both are
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalizer {
    /// Its length.
    Length,
    /// The number of its key tokens.
    Selected,
}

/// Reinforcement of key tokens only.
#[derive(Debug, Clone)]
pub struct VideoKtr {
    settings: Settings,
}

/// One score of a group's tokens.
struct Score {
    signal: Signal,
    values: Array2<f64>, // [G, T], 0 on padding
    key: Array2<bool>,   // [G, T]
}

impl VideoKtr {
    /// Video-KTR with these settings.
    ///
    /// # Errors
    /// If a setting lies outside its range.
    pub fn new(settings: Settings) -> Result<Self, AlgoError> {
        settings.check_shared()?;
        expect_within("beta", settings.beta, f32::MAX, "a number of at least 0")?;
        expect_within("ratio", settings.ratio as f32, 1.0, "a number from 0 to 1")?;
        if settings.signals.is_empty() {
            let expected = "at least one of entropy, visual, temporal";
            return Err(AlgoError::Setting { setting: "signals", found: "[]".to_owned(), expected });
        }
        Ok(Self { settings })
    }

    fn uses(&self, signal: Signal, media: MediaKind) -> bool {
        signal.applies(media) && self.settings.signals.contains(&signal)
    }

    /// The score of every token, `[G, T]`, as it is ranked.
    fn score(&self, signal: Signal, group: &ScoredGroup, seen: &Observations) -> Result<Array2<f64>, AlgoError> {
        let per_token = |what, observed| expect_per_token(NAME, what, observed, &group.mask);
        let (under, what, changed) = match signal {
            Signal::Entropy => {
                let entropy = per_token("the entropy of its tokens (logits)", seen.entropy.as_ref())?;
                return Ok(on_tokens(&group.mask, |at| f64::from(entropy[at])));
            }
            Signal::Visual => (Counterfactual::Masked, "masked_logprobs", seen.masked_logprobs.as_ref()),
            Signal::Temporal => (Counterfactual::Reordered, "shuffled_logprobs", seen.reordered_logprobs.as_ref()),
        };
        if self.settings.distance != Distance::LogProb {
            let missing = AlgoError::Missing { algorithm: NAME, what: "the token distributions (logits)" };
            let distance = seen.distributions.ok_or(missing)?.distance(under, self.settings.distance)?;
            expect_shape("distance", group.mask.shape(), distance.shape())?;
            let distance = per_token("distance", Some(&distance))?;
            return Ok(on_tokens(&group.mask, |at| f64::from(distance[at])));
        }
        let (before, after) = (per_token("old_logprobs", seen.sampling_logprobs.as_ref())?, per_token(what, changed)?);
        let fall = |at: [usize; 2]| f64::from(before[at]) - f64::from(after[at]);
        Ok(match self.settings.variant {
            Variant::Paper => on_tokens(&group.mask, |at| fall(at).abs()),
            Variant::Released => on_tokens(&group.mask, fall),
        })
    }

    /// The scores in use, each with the tokens that it makes key.
    fn scores(&self, group: &ScoredGroup, seen: &Observations) -> Result<Vec<Score>, AlgoError> {
        [Signal::Visual, Signal::Temporal, Signal::Entropy]
            .into_iter()
            .filter(|signal| self.uses(*signal, group.media))
            .map(|signal| {
                let values = self.score(signal, group, seen)?;
                let bound = quantile(tokens(&values, &group.mask).collect(), 1.0 - self.settings.ratio);
                let key = Array2::from_shape_fn(values.dim(), |at| group.mask[at] && values[at] >= bound);
                Ok(Score { signal, values, key })
            })
            .collect()
    }

    /// Token weights, `[G, T]`. Without a score every token has weight 1.
    fn weights(&self, scores: &[Score], key: &Array2<bool>, mask: &Array2<bool>) -> Array2<f32> {
        let of: fn(f64) -> f64 = match self.settings.weighting {
            Weighting::Binary => return key.mapv(|key| f32::from(u8::from(key))),
            Weighting::Softmax => |z| (4.0 * z).exp(),
            Weighting::Sigmoid => |z| 1.0 / (1.0 + (-8.0 * (z - 0.5)).exp()),
            Weighting::Linear => |z| z,
            Weighting::Exponential => |z| (2.0 * z).exp(),
        };
        let scaled: Vec<Array2<f64>> = scores.iter().map(|score| min_max(&score.values, mask)).collect();
        let count = scaled.len().max(1) as f64;
        let raw = on_tokens(mask, |at| of(scaled.iter().map(|score| score[at]).sum::<f64>() / count));
        let mean = tokens(&raw, mask).sum::<f64>() / tokens(&raw, mask).count().max(1) as f64;
        on_tokens(mask, |at| if mean > 0.0 { raw[at] / mean } else { 1.0 }).mapv(|weight| weight as f32)
    }
}

impl Algorithm for VideoKtr {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self, media: MediaKind) -> Needs {
        let (visual, temporal) = (self.uses(Signal::Visual, media), self.uses(Signal::Temporal, media));
        let compares = visual || temporal;
        let of_tokens = self.settings.distance == Distance::LogProb;
        let masking = Masking { how: self.settings.visual_mask, frames: self.settings.masked_frames };
        Needs {
            distributions: compares && !of_tokens,
            entropy: self.uses(Signal::Entropy, media),
            reference: self.settings.beta > 0.0,
            sampling_logprobs: compares && of_tokens,
            masked: visual.then_some(masking),
            reordered: temporal.then_some(self.settings.reorder),
            ..Needs::default()
        }
    }

    fn objective(&self) -> Objective {
        let all_tokens_count = self.settings.weighting != Weighting::Binary;
        Objective {
            reduction: match self.settings.normalizer {
                Normalizer::Selected if !all_tokens_count => Reduction::SelectedMean,
                _ => Reduction::SequenceMean,
            },
            kl_coef: self.settings.beta,
            weights: WeightSide::OnTokenLoss,
            ..self.settings.shared_objective()
        }
    }

    fn credit(&self, group: &ScoredGroup, seen: &Observations) -> Result<Credit, AlgoError> {
        let plain = Credit::plain(group)?;
        let scores = self.scores(group, seen)?;
        let key = match scores.split_first() {
            None => group.mask.clone(),
            Some((first, others)) => others.iter().fold(first.key.clone(), |union, score| union | &score.key),
        };
        let weights = self.weights(&scores, &key, &group.mask);
        let mut details: Vec<(&'static str, ArrayD<f32>)> = Vec::new();
        for score in &scores {
            details.push((score.signal.name(), score.values.mapv(|value| value as f32).into_dyn()));
        }
        details.extend(shares(&scores, &key, &group.mask));
        Ok(Credit { weights, selected: key, details, ..plain })
    }
}

impl Signal {
    /// Whether there is such a score: without anything shown, or its order, there is nothing to take away.
    pub fn applies(self, media: MediaKind) -> bool {
        match self {
            Self::Entropy => true,
            Self::Visual => media != MediaKind::Text,
            Self::Temporal => media == MediaKind::Video,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Entropy => "entropy",
            Self::Visual => "visual",
            Self::Temporal => "temporal",
        }
    }
}

/// Metrics: the share of the group's tokens that each score, and all together, make key, and how far scores agree.
fn shares(scores: &[Score], key: &Array2<bool>, mask: &Array2<bool>) -> Vec<(&'static str, ArrayD<f32>)> {
    let count = |set: &Array2<bool>| set.iter().filter(|member| **member).count() as f64;
    let metric = |value: f64| arr0(value as f32).into_dyn();
    let of = |signal| scores.iter().find(|score| score.signal == signal).map(|score| &score.key);
    let share = |signal| metric(of(signal).map_or(f64::NAN, |key| count(key) / count(mask)));
    let agreement = |a, b| {
        let (Some(a), Some(b)) = (of(a), of(b)) else { return metric(f64::NAN) };
        metric(count(&(a & b)) / count(&(a | b)))
    };
    vec![
        ("frac_key", metric(count(key) / count(mask))),
        ("frac_visual", share(Signal::Visual)),
        ("frac_temporal", share(Signal::Temporal)),
        ("frac_entropy", share(Signal::Entropy)),
        ("iou_visual_temporal", agreement(Signal::Visual, Signal::Temporal)),
        ("iou_visual_entropy", agreement(Signal::Visual, Signal::Entropy)),
        ("iou_temporal_entropy", agreement(Signal::Temporal, Signal::Entropy)),
    ]
}

/// `[G, T]`: the value of each token, 0 on padding.
fn on_tokens(mask: &Array2<bool>, value: impl Fn([usize; 2]) -> f64) -> Array2<f64> {
    Array2::from_shape_fn(mask.dim(), |(i, t)| if mask[[i, t]] { value([i, t]) } else { 0.0 })
}

/// The values of a group's tokens.
fn tokens<'a>(values: &'a Array2<f64>, mask: &'a Array2<bool>) -> impl Iterator<Item = f64> + 'a {
    values.iter().zip(mask).filter(|(_, token)| **token).map(|(value, _)| *value)
}

/// `(x - min) / (max - min)` over the group's tokens, `[G, T]`; 0 if they are all equal.
fn min_max(values: &Array2<f64>, mask: &Array2<bool>) -> Array2<f64> {
    let low = tokens(values, mask).fold(f64::INFINITY, f64::min);
    let spread = tokens(values, mask).fold(f64::NEG_INFINITY, f64::max) - low;
    on_tokens(mask, |at| if spread > 0.0 { (values[at] - low) / spread } else { 0.0 })
}

/// The quantile of some numbers, interpolated linearly between the two that it lies between.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return f64::INFINITY };
    let place = share.clamp(0.0, 1.0) * last as f64;
    // A place that rounding moved off a number would leave that number out.
    let place = if (place - place.round()).abs() < 1e-9 { place.round() } else { place };
    let (below, part) = (place as usize, place.fract());
    let (a, b) = (values[below], values[(below + 1).min(last)]);
    a + (b - a) * part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_interpolated_and_meets_its_number_in_spite_of_rounding() {
        let numbers = || (0..11).map(f64::from).rev().collect::<Vec<_>>();
        assert_eq!(quantile(numbers(), 0.25), 2.5);
        assert_eq!(quantile(numbers(), 1.0 - 0.7), 3.0); // 1 - 0.7 is a little more than 0.3
        assert_eq!((quantile(numbers(), 0.0), quantile(numbers(), 1.0)), (0.0, 10.0));
        assert_eq!(quantile(vec![4.0], 0.8), 4.0);
    }
}
