//! ReFoCUS: which frames of a video to look at, learnt from how clearly a frozen model then prefers the right option.
//!
//! The action is an ordered set of frame picks rather than tokens: position `t` of a completion is its t-th pick. A set
//! has one advantage and one importance ratio, the product over its picks; the objective is
//! `mean_j ratio_j A_j + entropy_coef mean H`, H being the entropy of a pick's distribution over the frames still
//! available. The reward is `foveate_reward::margin`. `docs/algorithms/refocus.md` has the rest.

use crate::settings::settings;
use crate::{AlgoError, Algorithm, Credit, MediaKind, Needs, Objective, Observations, Ratio, ScoredGroup};

/// The name that `--algo` takes.
pub const NAME: &str = "refocus";

settings! {
    /// Settings of ReFoCUS.
    Settings with entropy_coef 0.002 {
        /// Which reading fills the settings left open; only inference was released, so both are the same.
        variant;
        /// Whether the ratio is clipped, by `clip_low` and `clip_high`; the paper does not.
        clip: bool = false;
        /// The ratio of a set is clipped below `1 - clip_low`.
        clip_low: f32 = 0.2;
        /// The ratio of a set is clipped above `1 + clip_high`.
        clip_high: f32 = 0.2;
    }
}

/// Reinforcement of sets of frame picks.
#[derive(Debug, Clone)]
pub struct Refocus {
    settings: Settings,
}

impl Refocus {
    /// ReFoCUS with these settings.
    ///
    /// # Errors
    /// If a setting lies outside its range.
    pub fn new(settings: Settings) -> Result<Self, AlgoError> {
        settings.check_shared()?;
        Ok(Self { settings })
    }
}

impl Algorithm for Refocus {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self, _media: MediaKind) -> Needs {
        Needs::default()
    }

    fn objective(&self) -> Objective {
        let shared = self.settings.shared_objective();
        Objective { ratio: Ratio::Product, clip: shared.clip.filter(|_| self.settings.clip), ..shared }
    }

    fn credit(&self, group: &ScoredGroup, _seen: &Observations) -> Result<Credit, AlgoError> {
        Credit::plain(group)
    }
}
