//! GRPO: group-relative policy optimisation (DeepSeekMath, arXiv 2402.03300, section 4.1).
//!
//! Every token of a completion gets the completion's advantage; every other algorithm here differs from it in what
//! it adds to that. Dr. GRPO (`configs/dr-grpo.toml`) and GSPO (`configs/gspo.toml`) are settings of it.

use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};

use crate::config::{expect_some, expect_within};
use crate::settings::settings;
use crate::{
    AlgoError, Algorithm, Credit, MediaKind, Needs, Objective, Observations, Ratio, Reduction, Scaling, ScoredGroup,
    TokenMeanOver, advantages,
};

/// The name that `--algo` takes.
pub const NAME: &str = "grpo";

settings! {
    /// Settings of GRPO.
    Settings {
        /// Which reading fills the settings left open; here both are the same.
        variant;
        /// Coefficient of the KL term; 0 does without a reference policy. DeepSeekMath: 0.04; APPO's baseline: 0.01.
        beta: f32 = 0.04;
        /// The ratio is clipped below `1 - clip_low`. DeepSeekMath: 0.2.
        clip_low: f32 = 0.2;
        /// The ratio is clipped above `1 + clip_high`. DeepSeekMath: 0.2.
        clip_high: f32 = 0.2;
        /// What has an importance ratio. DeepSeekMath: token; GSPO: sequence.
        ratio: Ratio = Ratio::Token;
        /// How token losses become one number. DeepSeekMath, GSPO: sequence-mean; Dr. GRPO: constant-length.
        reduction: Averaging = Averaging::SequenceMean;
        /// What a completion's sum is divided by with `reduction = "constant-length"`: the longest completion there may
        /// be (Dr. GRPO).
        constant_length: usize = 512;
        /// The tokens that a token-mean runs over.
        token_mean_over: TokenMeanOver = TokenMeanOver::Group;
        /// Whether advantages are divided by the standard deviation of the group's rewards. DeepSeekMath: true; Dr. GRPO:
        /// false.
        scale_rewards: bool = true;
    }
}

/// How token losses become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Averaging {
    /// [`Reduction::SequenceMean`].
    SequenceMean,
    /// [`Reduction::TokenMean`].
    TokenMean,
    /// [`Reduction::ConstantLength`].
    ConstantLength,
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
        settings.check_shared()?;
        expect_within("beta", settings.beta, f32::MAX, "a number of at least 0")?;
        expect_some("constant_length", settings.constant_length)?;
        Ok(Self { settings })
    }
}

impl Algorithm for Grpo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self, _media: MediaKind) -> Needs {
        Needs { reference: self.settings.beta > 0.0, ..Needs::default() }
    }

    fn objective(&self) -> Objective {
        Objective {
            ratio: self.settings.ratio,
            reduction: match self.settings.reduction {
                Averaging::SequenceMean => Reduction::SequenceMean,
                Averaging::TokenMean => Reduction::TokenMean(self.settings.token_mean_over),
                Averaging::ConstantLength => Reduction::ConstantLength(self.settings.constant_length),
            },
            kl_coef: self.settings.beta,
            ..self.settings.shared_objective()
        }
    }

    fn credit(&self, group: &ScoredGroup, _seen: &Observations) -> Result<Credit, AlgoError> {
        let scaling = if self.settings.scale_rewards { Scaling::ByStd } else { Scaling::Unscaled };
        Ok(Credit { advantages: advantages(group.rewards.view(), scaling), ..Credit::plain(group)? })
    }
}

impl Credit {
    /// What GRPO gives: the group's rewards as they are, their advantages, weight 1 on every token.
    ///
    /// # Errors
    /// As [`ScoredGroup::lengths`].
    pub fn plain(group: &ScoredGroup) -> Result<Self, AlgoError> {
        group.lengths()?;
        Ok(Self {
            rewards: group.rewards.clone(),
            advantages: advantages(group.rewards.view(), Scaling::ByStd),
            weights: uniform_weights(&group.mask),
            selected: group.mask.clone(),
            details: Vec::new(),
        })
    }

    /// What GRPO gives for rewards other than the group's own.
    ///
    /// # Errors
    /// As [`Credit::plain`].
    pub(crate) fn shaped(group: &ScoredGroup, rewards: Array1<f32>) -> Result<Self, AlgoError> {
        Ok(Self { advantages: advantages(rewards.view(), Scaling::ByStd), rewards, ..Self::plain(group)? })
    }
}

/// 1 on every token, 0 on padding, `[G, T]`.
fn uniform_weights(mask: &Array2<bool>) -> Array2<f32> {
    mask.mapv(|token| if token { 1.0 } else { 0.0 })
}
