//! T-GRPO: temporal group-relative policy optimisation (Video-R1, arXiv 2503.21776).
//!
//! Half as many further completions see the frames in a random order. If the ordered ones are right more often, the order
//! was used, and right completions get a bonus. A second bonus goes to right completions of a wanted length.

use ndarray::{Array1, ArrayView1, arr0};

use crate::config::{expect_some, expect_within};
use crate::settings::settings;
use crate::{AlgoError, Algorithm, Credit, MediaKind, Needs, Objective, Observations, ScoredGroup, Variant};

/// The name that `--algo` takes.
pub const NAME: &str = "t-grpo";

settings! {
    /// Settings of T-GRPO.
    Settings {
        /// Which reading is taken, where they differ in more than settings: paper: accuracy of at least 0.5 is right, p and
        /// q are shares of right completions, bonus if p >= q. Released: above 0.1 is right, p and q are mean
        /// accuracies, bonus if p >= 0.8 q, length bonus only if at least two completions are right.
        variant;
        /// Coefficient of the KL term; 0 does without a reference policy. Video-R1: 0.04.
        beta: f32 = 0.04;
        /// The ratio is clipped below `1 - clip_low`. Video-R1: 0.2.
        clip_low: f32 = 0.2;
        /// The ratio is clipped above `1 + clip_high`. Video-R1: 0.2.
        clip_high: f32 = 0.2;
        /// What a right completion gets where the order of the frames helped. Video-R1: 0.3.
        bonus: f32 = 0.3;
        /// What a right completion of a length from `length_min` to `length_max` gets. Video-R1: 0.2.
        length_bonus: f32 = 0.2;
        /// Shortest completion, in tokens, with a length bonus. Video-R1: 320.
        length_min: usize = 320;
        /// Longest completion, in tokens, with a length bonus. Video-R1: 512.
        length_max: usize = 512;
    }
}

/// Temporal group-relative policy optimisation.
#[derive(Debug, Clone)]
pub struct TGrpo {
    settings: Settings,
}

impl TGrpo {
    /// T-GRPO with these settings.
    ///
    /// # Errors
    /// If a setting lies outside its range.
    pub fn new(settings: Settings) -> Result<Self, AlgoError> {
        settings.check_shared()?;
        for (setting, value) in
            [("beta", settings.beta), ("bonus", settings.bonus), ("length_bonus", settings.length_bonus)]
        {
            expect_within(setting, value, f32::MAX, "a number of at least 0")?;
        }
        expect_some("length_max", settings.length_max)?;
        if settings.length_min > settings.length_max {
            let found = settings.length_min.to_string();
            return Err(AlgoError::Setting { setting: "length_min", found, expected: "at most length_max" });
        }
        Ok(Self { settings })
    }

    /// Whether a completion counts as right; NaN does not.
    fn right(&self, accuracy: f32) -> bool {
        match self.settings.variant {
            Variant::Paper => accuracy >= 0.5,
            Variant::Released => accuracy > 0.1,
        }
    }

    /// How right completions are: the share that is (paper) or their mean accuracy (released), of those that could be
    /// scored; `None` if there are none.
    fn rate(&self, accuracy: ArrayView1<f32>) -> Option<f64> {
        let scored: Vec<f32> = accuracy.iter().copied().filter(|accuracy| !accuracy.is_nan()).collect();
        let value = |accuracy: f32| match self.settings.variant {
            Variant::Paper => f64::from(u8::from(self.right(accuracy))),
            Variant::Released => f64::from(accuracy),
        };
        (!scored.is_empty()).then(|| scored.iter().map(|a| value(*a)).sum::<f64>() / scored.len() as f64)
    }

    /// Share correct of ordered and of shuffled completions, and whether the order helped: it did not where there is none.
    fn order(&self, group: &ScoredGroup, seen: &Observations) -> Result<Order, AlgoError> {
        if group.media != MediaKind::Video {
            return Ok(Order { ordered: None, shuffled: None, helped: false });
        }
        let contrast = seen.contrast_accuracy.as_ref();
        let contrast = contrast.ok_or(AlgoError::Missing { algorithm: NAME, what: "shuffled_accuracy" })?;
        let (ordered, shuffled) = (self.rate(group.accuracy.view()), self.rate(contrast.view()));
        let margin = match self.settings.variant {
            Variant::Paper => 1.0,
            Variant::Released => 0.8,
        };
        let helped = ordered.zip(shuffled).is_some_and(|(p, q)| p >= margin * q);
        Ok(Order { ordered, shuffled, helped })
    }
}

/// What shuffled completions tell about a group.
#[derive(Debug)]
struct Order {
    ordered: Option<f64>,
    shuffled: Option<f64>,
    helped: bool,
}

impl Algorithm for TGrpo {
    fn name(&self) -> &'static str {
        NAME
    }

    fn needs(&self, media: MediaKind) -> Needs {
        Needs { reference: self.settings.beta > 0.0, contrast: media == MediaKind::Video, ..Needs::default() }
    }

    fn objective(&self) -> Objective {
        Objective { kl_coef: self.settings.beta, ..self.settings.shared_objective() }
    }

    fn credit(&self, group: &ScoredGroup, seen: &Observations) -> Result<Credit, AlgoError> {
        let lengths = group.lengths()?;
        let order = self.order(group, seen)?;
        let right: Vec<bool> = group.accuracy.iter().map(|accuracy| self.right(*accuracy)).collect();
        let enough = match self.settings.variant {
            Variant::Paper => 1,
            Variant::Released => 2,
        };
        let rewards_length = right.iter().filter(|right| **right).count() >= enough;
        let wanted = self.settings.length_min..=self.settings.length_max;
        let fits: Vec<bool> = right
            .iter()
            .zip(&lengths)
            .map(|(right, length)| *right && rewards_length && wanted.contains(length))
            .collect();
        let ordered: Vec<bool> = right.iter().map(|right| *right && order.helped).collect();
        let bonus = |given: bool, bonus: f32| if given { f64::from(bonus) } else { 0.0 };
        let shaped = |(i, reward): (usize, &f32)| {
            let order = bonus(ordered[i], self.settings.bonus);
            (f64::from(*reward) + order + bonus(fits[i], self.settings.length_bonus)) as f32
        };
        let rewards: Array1<f32> = group.rewards.iter().enumerate().map(shaped).collect();
        let metric = |value: f64| arr0(value as f32).into_dyn();
        let share = |given: &[bool]| given.iter().filter(|given| **given).count() as f64 / lengths.len().max(1) as f64;
        let details = vec![
            ("p_ordered", metric(order.ordered.unwrap_or(f64::NAN))),
            ("q_shuffled", metric(order.shuffled.unwrap_or(f64::NAN))),
            ("frac_order_helped", metric(f64::from(u8::from(order.helped)))),
            ("frac_bonus", metric(share(&ordered))),
            ("frac_length_bonus", metric(share(&fits))),
        ];
        Ok(Credit { details, ..Credit::shaped(group, rewards)? })
    }
}
