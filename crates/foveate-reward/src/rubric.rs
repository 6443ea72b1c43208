//! A weighted sum of scorers.

use serde::{Deserialize, Serialize};

use crate::{Accuracy, Answer, Format, RewardError, Scorer, SoftChoice};

/// The `[reward]` table: a table per scorer, such as `accuracy = { weight = 0.9, rule = "appo" }`.
///
/// A scorer without a table does not take part; one of weight 0 is reported only. [`RubricConfig::default`] is APPO's:
/// 0.9 accuracy + 0.1 format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RubricConfig {
    /// Whether the answer is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Accuracy>,
    /// Partial credit for several right letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_choice: Option<SoftChoice>,
    /// Whether thought and answer stand in their tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

impl Default for RubricConfig {
    fn default() -> Self {
        Self { accuracy: Some(Accuracy::default()), soft_choice: None, format: Some(Format::default()) }
    }
}

/// Scorers with their weights.
#[derive(Debug)]
pub struct Rubric {
    scorers: Vec<Weighted>,
    /// Which of the scorers is the accuracy.
    accuracy: usize,
}

#[derive(Debug)]
struct Weighted {
    weight: f32,
    measures_accuracy: bool,
    scorer: Box<dyn Scorer>,
}

/// What a completion earns.
#[derive(Debug, Clone, PartialEq)]
pub struct Reward {
    /// Weighted sum; NaN if a scorer that has a weight could not score the example.
    pub total: f32,
    /// Value of the rubric's first accuracy scorer (`accuracy`, else `soft-choice`), whatever its weight; NaN if it could
    /// not score the example.
    pub accuracy: f32,
    /// Value of each scorer before its weight; NaN where it could not score the example.
    pub breakdown: Vec<(&'static str, f32)>,
}

impl Rubric {
    /// The rubric of a `[reward]` table.
    ///
    /// # Errors
    /// If a weight is negative or not finite, or no scorer measures accuracy.
    pub fn new(config: RubricConfig) -> Result<Self, RewardError> {
        let mut scorers = Vec::new();
        if let Some(scorer) = config.accuracy {
            scorers.push(Weighted { weight: scorer.weight, measures_accuracy: true, scorer: Box::new(scorer) });
        }
        if let Some(scorer) = config.soft_choice {
            scorers.push(Weighted { weight: scorer.weight, measures_accuracy: true, scorer: Box::new(scorer) });
        }
        if let Some(scorer) = config.format {
            scorers.push(Weighted { weight: scorer.weight, measures_accuracy: false, scorer: Box::new(scorer) });
        }
        if let Some(bad) = scorers.iter().find(|one| !(one.weight.is_finite() && one.weight >= 0.0)) {
            return Err(RewardError::Weight { scorer: bad.scorer.name(), weight: bad.weight });
        }
        match scorers.iter().position(|one| one.measures_accuracy) {
            Some(accuracy) => Ok(Self { scorers, accuracy }),
            None => Err(RewardError::NoAccuracy { scorers: scorers.iter().map(|one| one.scorer.name()).collect() }),
        }
    }

    /// What a completion earns for an example with this answer.
    pub fn score(&self, answer: &Answer, completion: &str) -> Reward {
        let breakdown: Vec<_> = self
            .scorers
            .iter()
            .map(|one| (one.scorer.name(), one.scorer.score(answer, completion).unwrap_or(f32::NAN)))
            .collect();
        let weighted = self.scorers.iter().zip(&breakdown).filter(|(one, _)| one.weight > 0.0);
        Reward {
            total: weighted.map(|(one, (_, value))| one.weight * value).sum(),
            accuracy: breakdown[self.accuracy].1,
            breakdown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const RIGHT: &str = "<think>x</think><answer>B</answer>";

    fn rubric(table: serde_json::Value) -> Result<Rubric, RewardError> {
        Rubric::new(serde_json::from_value(table).unwrap())
    }

    #[test]
    fn the_default_is_nine_tenths_accuracy_and_one_tenth_format() {
        let rubric = Rubric::new(RubricConfig::default()).unwrap();
        let right = rubric.score(&Answer::new("B"), RIGHT);
        assert_eq!(right, Reward { total: 1.0, accuracy: 1.0, breakdown: vec![("accuracy", 1.0), ("format", 1.0)] });
        let wrong = rubric.score(&Answer::new("C"), RIGHT);
        assert_eq!((wrong.total, wrong.accuracy), (0.1, 0.0));
        let bare = rubric.score(&Answer::new("B"), "<answer>B</answer>");
        assert_eq!((bare.total, bare.accuracy), (0.9, 1.0));
    }

    #[test]
    fn an_example_that_cannot_be_scored_has_no_reward() {
        let rubric = Rubric::new(RubricConfig::default()).unwrap();
        let reward = rubric.score(&Answer::new(""), RIGHT);
        assert!(reward.total.is_nan() && reward.accuracy.is_nan());
        assert_eq!(reward.breakdown[1], ("format", 1.0));
    }

    #[test]
    fn accuracy_is_reported_apart_from_the_total() {
        let both = rubric(json!({"accuracy": {"weight": 0.0, "rule": "video-r1"}, "soft-choice": {}})).unwrap();
        let reward = both.score(&Answer::new("A,C"), "<answer>A</answer>");
        assert_eq!((reward.total, reward.accuracy), (0.5, 0.0));
        let soft = rubric(json!({"soft-choice": {}, "format": {"style": "tw-grpo"}})).unwrap();
        assert_eq!(soft.score(&Answer::new("A,C"), "<answer>A</answer>").accuracy, 0.5);
    }

    #[test]
    fn a_scorer_without_weight_cannot_spoil_the_total() {
        let rubric = rubric(json!({"accuracy": {"weight": 0.0}, "format": {}})).unwrap();
        let reward = rubric.score(&Answer::new(""), RIGHT);
        assert_eq!(reward.total, 0.1);
        assert!(reward.accuracy.is_nan());
    }

    #[test]
    fn a_rubric_without_accuracy_or_with_a_bad_weight_is_an_error() {
        assert_eq!(
            rubric(json!({"format": {}})).unwrap_err().to_string(),
            "no scorer measures accuracy: expected one of accuracy, soft-choice; found format"
        );
        assert_eq!(
            rubric(json!({"accuracy": {"weight": -1.0}})).unwrap_err().to_string(),
            "the weight of scorer accuracy is -1, expected a number of at least 0"
        );
    }

    #[test]
    fn an_unknown_scorer_or_rule_is_an_error_with_the_known_ones() {
        let error = |table| serde_json::from_value::<RubricConfig>(table).unwrap_err().to_string();
        let unknown = error(json!({"fromat": {}}));
        assert!(
            ["`fromat`", "`accuracy`", "`soft-choice`", "`format`"].iter().all(|name| unknown.contains(name)),
            "{unknown}"
        );
        let rule = error(json!({"accuracy": {"rule": "strict"}}));
        assert!(rule.contains("`video-r1`") && rule.contains("`appo`"), "{rule}");
    }
}
