//! TW-GRPO: token-weighted group-relative policy optimisation (arXiv 2505.24718).
//!
//! Positions at which the group's token distributions differ most carry most information, and get the largest weight. The
//! weight of a position is the same for all completions.

use ndarray::{Array1, Array2, ArrayView1, arr0};
use serde::{Deserialize, Serialize};

use crate::config::expect_within;
use crate::group::expect_shape;
use crate::settings::settings;
use crate::{
    AlgoError, Algorithm, Credit, Divergence, MediaKind, Needs, Objective, Observations, Reduction, ScoredGroup,
    TokenMeanOver, WeightSide, normalized,
};

/// The name that `--algo` takes.
pub const NAME: &str = "tw-grpo";

settings! {
    /// Settings of TW-GRPO.
    Settings {
        /// Which reading fills the settings left open.
        variant;
        /// How a position's divergence is measured. Paper (eq. 4): kl; released: log-k3.
        divergence: Divergence = Divergence::Kl, released Divergence::LogK3;
        /// How strongly divergence weighs. Paper: 0.7.
        alpha: f32 = 0.7;
        /// What a divergence makes of a weight. Released, and what alpha = 0 means in the ablation: offset; eq. 5: printed.
        weight_rule: WeightRule = WeightRule::Offset;
        /// Whether the weight can decide what is clipped: min(w r A, clip(r) A). Paper (eq. 6): true; released: false.
        weight_inside_min: bool = true, released false;
        /// Positions that are weighted; the others have weight 1 (table A2). Paper: all.
        positions: Positions = Positions::All;
        /// The ratio is clipped below `1 - clip_low`. Paper: 0.2.
        clip_low: f32 = 0.2;
        /// The ratio is clipped above `1 + clip_high`. Paper: 0.2; released: 0.28.
        clip_high: f32 = 0.2, released 0.28;
        /// The tokens that the mean runs over. Paper: group.
        token_mean_over: TokenMeanOver = TokenMeanOver::Group;
    }
}

/// What the normalised divergence `n` of a position makes of its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightRule {
    /// `1 + alpha n`.
    Offset,
    /// `(1 + alpha) n`: the least divergent position has weight 0.
    Printed,
}

/// Positions whose weight is other than 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// Every position.
    All,
    /// Those that every completion reaches.
    Content,
    /// Those that some completion does not reach.
    Padding,
    /// None.
    None,
}

/// Token-weighted group-relative policy optimisation.
#[derive(Debug, Clone)]
pub struct TwGrpo {
    settings: Settings,
}

impl TwGrpo {
    /// TW-GRPO with these settings.
    ///
    /// # Errors
    /// If a setting lies outside its range.
    pub fn new(settings: Settings) -> Result<Self, AlgoError> {
        settings.check_shared()?;
        expect_within("alpha", settings.alpha, f32::MAX, "a number of at least 0")?;
        Ok(Self { settings })
    }

    /// The weight of each position, `[T]`, from its normalised divergence.
    fn weights(&self, share: ArrayView1<f32>, lengths: &[usize]) -> Array1<f32> {
        let shortest = lengths.iter().copied().min().unwrap_or(0);
        let weighted = |position: usize| match self.settings.positions {
            Positions::All => true,
            Positions::Content => position < shortest,
            Positions::Padding => position >= shortest,
            Positions::None => false,
        };
        let weight = |(position, share): (usize, &f32)| match self.settings.weight_rule {
            _ if !weighted(position) => 1.0,
            WeightRule::Offset => 1.0 + self.settings.alpha * share,
            WeightRule::Printed => (1.0 + self.settings.alpha) * share,
        };
        share.iter().enumerate().map(weight).collect()
    }
}

impl Algorithm for TwGrpo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self, _media: MediaKind) -> Needs {
        Needs { distributions: true, ..Needs::default() }
    }

    fn objective(&self) -> Objective {
        Objective {
            reduction: Reduction::TokenMean(self.settings.token_mean_over),
            weights: if self.settings.weight_inside_min { WeightSide::InsideMin } else { WeightSide::OnSurrogate },
            ..self.settings.shared_objective()
        }
    }

    fn credit(&self, group: &ScoredGroup, seen: &Observations) -> Result<Credit, AlgoError> {
        let lengths = group.lengths()?;
        let what = "the token distributions (logits)";
        let distributions = seen.distributions.ok_or(AlgoError::Missing { algorithm: NAME, what })?;
        let positions = Array2::from_shape_fn(group.mask.dim(), |(_, position)| position);
        let divergence = distributions.divergence(positions.view(), self.settings.divergence)?;
        expect_shape("divergence", &[group.mask.ncols()], divergence.shape())?;
        let by_position = self.weights(normalized(divergence.view())?.view(), &lengths);
        let weights =
            Array2::from_shape_fn(group.mask.dim(), |(i, t)| if group.mask[[i, t]] { by_position[t] } else { 0.0 });
        let tokens = lengths.iter().sum::<usize>() as f64;
        // Over tokens, in f64.
        let mean = |value: &dyn Fn(usize) -> f64| {
            lengths.iter().map(|length| (0..*length).map(value).sum::<f64>()).sum::<f64>() / tokens
        };
        let metric = |value: f64| arr0(value as f32).into_dyn();
        let details = vec![
            ("divergence", divergence.mapv(|value| value as f32).into_dyn()),
            ("divergence_mean", metric(mean(&|t| divergence[t]))),
            ("divergence_max", metric(divergence.iter().copied().fold(0.0, f64::max))),
            ("token_weight_mean", metric(mean(&|t| f64::from(by_position[t])))),
        ];
        Ok(Credit { weights, details, ..Credit::plain(group)? })
    }
}
