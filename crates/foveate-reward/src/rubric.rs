//! A weighted sum of scorers.

use serde::{Deserialize, Serialize};

use crate::remote::Remote;
use crate::{Accuracy, Answer, Completion, Format, Length, RemoteConfig, RewardError, Scorer, SoftChoice, TemporalIou};

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
    /// How well the named time spans meet those of the clues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temporal_iou: Option<TemporalIou>,
    /// Whether thought and answer stand in their tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// A bonus for right completions of the length wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<Length>,
    /// What a scorer behind a URL says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteConfig>,
}

impl RubricConfig {
    /// No scorer.
    fn none() -> Self {
        Self { accuracy: None, soft_choice: None, temporal_iou: None, format: None, length: None, remote: None }
    }
}

impl Default for RubricConfig {
    fn default() -> Self {
        Self { accuracy: Some(Accuracy::default()), format: Some(Format::default()), ..Self::none() }
    }
}

/// Scorers with their weights.
#[derive(Debug)]
pub struct Rubric {
    /// Never empty; the first is the accuracy.
    scorers: Vec<(f32, Box<dyn Scorer>)>,
    length: Option<Length>,
    remote: Option<(f32, Remote)>,
}

/// What a completion earns.
#[derive(Debug, Clone, PartialEq)]
pub struct Reward {
    /// Weighted sum; NaN if a scorer that has a weight could not score the example.
    pub total: f32,
    /// Value of the rubric's first accuracy scorer (`accuracy`, else `soft-choice`, else `temporal-iou`), whatever its
    /// weight; NaN if it could not score the example.
    pub accuracy: f32,
    /// Value of each scorer before its weight; NaN where it could not score the example.
    pub breakdown: Vec<(&'static str, f32)>,
}

impl Reward {
    fn add(&mut self, name: &'static str, weight: f32, value: Option<f32>) {
        let value = value.unwrap_or(f32::NAN);
        if weight > 0.0 {
            self.total += weight * value;
        }
        self.breakdown.push((name, value));
    }
}

impl Rubric {
    /// The rubric of a `[reward]` table.
    ///
    /// # Errors
    /// If a weight is negative or not finite, no scorer measures accuracy, the length bonus is for no length, or the
    /// remote scorer's settings are wrong or this build has none.
    pub fn new(config: RubricConfig) -> Result<Self, RewardError> {
        let mut scorers: Vec<(f32, Box<dyn Scorer>)> = Vec::new();
        if let Some(scorer) = config.accuracy {
            scorers.push((scorer.weight, Box::new(scorer)));
        }
        if let Some(scorer) = config.soft_choice {
            scorers.push((scorer.weight, Box::new(scorer)));
        }
        if let Some(scorer) = config.temporal_iou {
            scorers.push((scorer.weight, Box::new(scorer)));
        }
        let has_accuracy = !scorers.is_empty();
        if let Some(scorer) = config.format {
            scorers.push((scorer.weight, Box::new(scorer)));
        }
        let mut weights: Vec<_> = scorers.iter().map(|(weight, scorer)| (scorer.name(), *weight)).collect();
        weights.extend(config.length.iter().map(|length| (LENGTH, length.weight)));
        weights.extend(config.remote.iter().map(|remote| (REMOTE, remote.weight)));
        if let Some(&(scorer, weight)) = weights.iter().find(|(_, weight)| !(weight.is_finite() && *weight >= 0.0)) {
            return Err(RewardError::Weight { scorer, weight });
        }
        if !has_accuracy {
            return Err(RewardError::NoAccuracy { scorers: weights.into_iter().map(|(scorer, _)| scorer).collect() });
        }
        if let Some(&Length { min, max, .. }) = config.length.as_ref().filter(|length| length.min > length.max) {
            return Err(RewardError::Length { min, max });
        }
        let remote = config.remote.map(|config| Ok((config.weight, Remote::new(&config)?))).transpose()?;
        Ok(Self { scorers, length: config.length, remote })
    }

    /// Whether every weight is 0.
    pub fn rewards_nothing(&self) -> bool {
        let own = self.scorers.iter().map(|(weight, _)| *weight).chain(self.length.iter().map(|length| length.weight));
        own.chain(self.remote.iter().map(|(weight, _)| *weight)).all(|weight| weight == 0.0)
    }

    /// What a completion earns for an example with this answer, all but the remote scorer's part.
    pub fn score<'a>(&self, answer: &Answer, completion: impl Into<Completion<'a>>) -> Reward {
        let completion = completion.into();
        let mut reward = Reward { total: 0.0, accuracy: f32::NAN, breakdown: Vec::new() };
        for (weight, scorer) in &self.scorers {
            reward.add(scorer.name(), *weight, scorer.score(answer, &completion));
        }
        reward.accuracy = reward.breakdown[0].1;
        if let Some(length) = &self.length {
            reward.add(LENGTH, length.weight, length.score(completion.tokens, reward.accuracy));
        }
        reward
    }

    /// What each completion of one prompt earns. A remote scorer is asked once for all of them, and the thread waits
    /// for it: inside an asynchronous task call this where blocking is allowed.
    ///
    /// # Errors
    /// If the remote scorer gives no scores, asked as often as its settings allow.
    pub fn score_group(
        &self,
        prompt: &str,
        answer: &Answer,
        completions: &[Completion],
    ) -> Result<Vec<Reward>, RewardError> {
        let mut rewards: Vec<_> = completions.iter().map(|completion| self.score(answer, *completion)).collect();
        if let Some((weight, remote)) = self.remote.as_ref().filter(|_| !completions.is_empty()) {
            for (reward, value) in rewards.iter_mut().zip(remote.scores(prompt, answer, completions)?) {
                reward.add(REMOTE, *weight, value);
            }
        }
        Ok(rewards)
    }
}

const LENGTH: &str = "length";
const REMOTE: &str = "remote";

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
            "no scorer measures accuracy: expected one of accuracy, soft-choice, temporal-iou; found format"
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

    #[test]
    fn accuracy_is_that_of_the_first_scorer_that_measures_it() {
        let grounded = rubric(json!({"temporal-iou": {"bins": "seconds"}, "format": {"style": "grounding"}})).unwrap();
        let answer = Answer::new("B").with_times(vec![[2.0, 4.0]]);
        let reward = grounded.score(&answer, "<think>x</think><answer>B</answer><time>2.5 to 2.9</time>");
        assert_eq!(reward.breakdown, [("temporal-iou", 0.5), ("format", 1.0)]);
        assert_eq!((reward.accuracy, reward.total), (0.5, 0.6));
    }

    #[test]
    fn the_length_bonus_goes_by_the_accuracy() {
        let rubric = rubric(json!({"accuracy": {"weight": 1.0}, "length": {"min": 2, "max": 3}})).unwrap();
        let total = |answer, tokens| rubric.score(&Answer::new(answer), Completion { text: RIGHT, tokens }).total;
        assert_eq!([total("B", Some(3)), total("B", Some(4)), total("C", Some(3))], [1.2, 1.0, 0.0]);
        assert!(total("B", None).is_nan());
    }

    #[test]
    fn a_group_is_scored_as_its_completions_are() {
        let rubric = Rubric::new(RubricConfig::default()).unwrap();
        let completions = [RIGHT, "B", ""].map(Completion::from);
        let answer = Answer::new("B");
        let group = rubric.score_group("Which?", &answer, &completions).unwrap();
        assert_eq!(group, completions.map(|completion| rubric.score(&answer, completion)));
        assert!(rubric.score_group("Which?", &answer, &[]).unwrap().is_empty());
    }

    #[test]
    fn a_bad_weight_or_length_of_any_scorer_is_an_error() {
        let error = |name: &str, table: serde_json::Value| {
            rubric(json!({"accuracy": {}, name: table})).unwrap_err().to_string()
        };
        assert!(error("length", json!({"weight": -0.5})).starts_with("the weight of scorer length is -0.5"));
        assert!(
            error("temporal-iou", json!({"weight": -0.5})).starts_with("the weight of scorer temporal-iou is -0.5")
        );
        let remote = json!({"url": "http://localhost/", "weight": -0.5});
        assert!(error("remote", remote).starts_with("the weight of scorer remote is -0.5"));
        assert_eq!(
            error("length", json!({"min": 5, "max": 4})),
            "the length bonus is for 5 to 4 tokens, expected min at most max"
        );
    }

    #[test]
    fn a_table_is_written_back_as_it_was_read() {
        for table in [
            json!({"accuracy": {"weight": 1.0, "rule": "video-r1"}, "format": {"weight": 0.5, "style": "grounding"}}),
            json!({"soft-choice": {"weight": 1.0}, "format": {"weight": 1.0, "style": "tw-grpo"}}),
            json!({"temporal-iou": {"weight": 1.0, "bins": "exact"}, "length": {"weight": 0.5, "min": 1, "max": 2}}),
        ] {
            let config: RubricConfig = serde_json::from_value(table.clone()).unwrap();
            assert_eq!(serde_json::to_value(config).unwrap(), table);
        }
    }
}
