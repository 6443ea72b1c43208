//! DAPO: decoupled clip and dynamic sampling policy optimisation (arXiv 2503.14476).
//!
//! Four changes to GRPO: a higher upper clip bound, groups drawn again while all their completions are right or all wrong,
//! a mean over tokens, and a soft punishment of overlong completions. No KL term.

use ndarray::{Array1, arr0};

use crate::config::expect_some;
use crate::settings::settings;
use crate::{
    AlgoError, Algorithm, Credit, MediaKind, Needs, Objective, Observations, Reduction, ScoredGroup, TokenMeanOver,
};

/// The name that `--algo` takes.
pub const NAME: &str = "dapo";

settings! {
    /// Settings of DAPO.
    Settings {
        /// Which reading fills the settings left open; here both are the same.
        variant;
        /// How often a step draws further groups in place of those whose accuracies are all the same; it goes on with
        /// what there is then. 0: such groups are dropped and none is drawn.
        max_refills: usize = 10;
        /// The ratio is clipped below `1 - clip_low`. DAPO: 0.2.
        clip_low: f32 = 0.2;
        /// The ratio is clipped above `1 + clip_high`. DAPO: 0.28.
        clip_high: f32 = 0.28;
        /// Length, in tokens, at which a completion loses 1 of its reward (DAPO: 20480); unset: no punishment.
        overlong_max: Option<usize> = None;
        /// The punishment begins so many tokens earlier and grows evenly (DAPO: 4096).
        overlong_cache: Option<usize> = None;
        /// The tokens that the mean runs over. Paper: group.
        token_mean_over: TokenMeanOver = TokenMeanOver::Group;
    }
}

/// Where overlong completions begin to lose reward, and how fast.
#[derive(Debug, Clone, Copy)]
struct Overlong {
    max: usize,
    cache: usize,
}

impl Overlong {
    /// `min(0, -(length - (max - cache)) / cache)` (DAPO, eq. 13, without its bound at -1: no completion is longer than
    /// `max` if `rollout.max_new_tokens` is not).
    fn penalty(self, length: usize) -> f64 {
        let over = length as f64 - (self.max as f64 - self.cache as f64);
        (-over / self.cache as f64).min(0.0)
    }
}

/// Decoupled clip and dynamic sampling policy optimisation.
#[derive(Debug, Clone)]
pub struct Dapo {
    settings: Settings,
    overlong: Option<Overlong>,
}

impl Dapo {
    /// DAPO with these settings.
    ///
    /// # Errors
    /// If a setting lies outside its range, or one of `overlong_max` and `overlong_cache` stands without the other.
    pub fn new(settings: Settings) -> Result<Self, AlgoError> {
        settings.check_shared()?;
        let alone = |setting, value: usize| AlgoError::Setting {
            setting,
            found: value.to_string(),
            expected: "overlong_max and overlong_cache together, or neither",
        };
        let overlong = match (settings.overlong_max, settings.overlong_cache) {
            (None, None) => None,
            (Some(max), None) => return Err(alone("overlong_max", max)),
            (None, Some(cache)) => return Err(alone("overlong_cache", cache)),
            (Some(max), Some(cache)) => {
                expect_some("overlong_cache", cache)?;
                if cache > max {
                    let expected = "at most overlong_max";
                    return Err(AlgoError::Setting { setting: "overlong_cache", found: cache.to_string(), expected });
                }
                Some(Overlong { max, cache })
            }
        };
        Ok(Self { settings, overlong })
    }
}

impl Algorithm for Dapo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self, _media: MediaKind) -> Needs {
        Needs::default()
    }

    fn objective(&self) -> Objective {
        Objective { reduction: Reduction::TokenMean(self.settings.token_mean_over), ..self.settings.shared_objective() }
    }

    fn max_refills(&self) -> Option<usize> {
        Some(self.settings.max_refills)
    }

    /// Whether two completions differ in accuracy; one that could not be scored differs from nothing.
    fn keeps(&self, group: &ScoredGroup) -> bool {
        let mut scored = group.accuracy.iter().filter(|accuracy| !accuracy.is_nan());
        scored.next().is_some_and(|first| scored.any(|accuracy| accuracy != first))
    }

    fn credit(&self, group: &ScoredGroup, _seen: &Observations) -> Result<Credit, AlgoError> {
        let lengths = group.lengths()?;
        let penalties: Vec<f64> =
            lengths.iter().map(|length| self.overlong.map_or(0.0, |overlong| overlong.penalty(*length))).collect();
        let rewards: Array1<f32> = group
            .rewards
            .iter()
            .zip(&penalties)
            .map(|(reward, penalty)| (f64::from(*reward) + penalty) as f32)
            .collect();
        let count = lengths.len().max(1) as f64;
        let overlong = penalties.iter().filter(|penalty| **penalty < 0.0).count();
        let metric = |value: f64| arr0(value as f32).into_dyn();
        let details = vec![
            ("overlong_frac", metric(overlong as f64 / count)),
            ("overlong_penalty_mean", metric(penalties.iter().sum::<f64>() / count)),
        ];
        Ok(Credit { details, ..Credit::shaped(group, rewards)? })
    }
}
