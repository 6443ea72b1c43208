//! GRPO: group-relative policy optimisation (DeepSeekMath, arXiv 2402.03300, section 4.1).
//!
//! Every token of a completion gets the completion's advantage; every other algorithm here differs from it in what
//! it adds to that.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::config::{expect_clip, expect_within};
use crate::{
    AlgoError, Algorithm, ClipRange, Credit, Needs, Objective, Observations, Ratio, Reduction, ScoredGroup, WeightSide,
    advantages,
};

/// The name that `--algo` takes.
pub const NAME: &str = "grpo";

/// Settings of GRPO.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Coefficient of the KL term; 0 does without a reference policy. DeepSeekMath: 0.04; APPO's baseline: 0.01.
    pub beta: f32,
    /// The ratio is clipped below `1 - clip_low`. DeepSeekMath: 0.2.
    pub clip_low: f32,
    /// The ratio is clipped above `1 + clip_high`. DeepSeekMath: 0.2.
    pub clip_high: f32,
    /// Whether a group with equal rewards is left out altogether, its KL term included. DeepSeekMath: false.
    pub mask_zero_std: bool,
    /// Whether truncated completions are left out of the loss; their rewards count in the baseline. DAPO, section 3.4:
    /// true ("overlong filtering"); DeepSeekMath: false.
    pub mask_truncated: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { beta: 0.04, clip_low: 0.2, clip_high: 0.2, mask_zero_std: false, mask_truncated: false }
    }
}

/// Group-relative policy optimisation.
#[derive(Debug, Clone)]
pub struct Grpo {
    settings: Settings,
}

impl Grpo {
    /// GRPO with these settings.
    ///
    /// # Errors
    /// If a setting lies outside its range.
    pub fn new(settings: Settings) -> Result<Self, AlgoError> {
        expect_within("beta", settings.beta, f32::MAX, "a number of at least 0")?;
        expect_clip(settings.clip_low, settings.clip_high)?;
        Ok(Self { settings })
    }
}

impl Algorithm for Grpo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self) -> Needs {
        Needs { reference: self.settings.beta > 0.0, ..Needs::default() }
    }

    fn objective(&self) -> Objective {
        Objective {
            clip: Some(ClipRange { low: self.settings.clip_low, high: self.settings.clip_high }),
            ratio: Ratio::Token,
            reduction: Reduction::SequenceMean,
            mask_truncated: self.settings.mask_truncated,
            mask_zero_std: self.settings.mask_zero_std,
            kl_coef: self.settings.beta,
            entropy_coef: 0.0,
            weights: WeightSide::OnSurrogate,
        }
    }

    fn credit(&self, group: &ScoredGroup, _seen: &Observations) -> Result<Credit, AlgoError> {
        group.lengths()?;
        Ok(Credit {
            rewards: group.rewards.clone(),
            advantages: advantages(group.rewards.view()),
            weights: uniform_weights(&group.mask),
            selected: group.mask.clone(),
            details: Vec::new(),
        })
    }
}

/// 1 on every token, 0 on padding, `[G, T]`.
pub(crate) fn uniform_weights(mask: &Array2<bool>) -> Array2<f32> {
    mask.mapv(|token| if token { 1.0 } else { 0.0 })
}
