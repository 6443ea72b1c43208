//! Scorers by name, by the rules of the papers that they come from: what one recorded completion is worth.

use std::cell::LazyCell;

use serde::{Deserialize, Serialize};

use crate::{
    Answer, AnswerRule, FormatStyle, Length, ProblemType, TimeBins, accuracy, format, soft_choice, temporal_iou,
};

/// A scorer that [`judge`] can be asked for, under its name in a rubric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScorerName {
    /// Video-R1's accuracy of the problem type.
    Accuracy,
    /// Video-R1's form.
    Format,
    /// Partial credit for several right letters.
    SoftChoice,
    /// Time spans against `time_clues`, exact.
    TemporalIou,
    /// Video-R1's bonus for length, by that accuracy.
    Length,
}

impl ScorerName {
    /// Every scorer.
    pub const ALL: [Self; 5] = [Self::Accuracy, Self::Format, Self::SoftChoice, Self::TemporalIou, Self::Length];

    /// The name, such as `soft-choice`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Format => "format",
            Self::SoftChoice => "soft-choice",
            Self::TemporalIou => "temporal-iou",
            Self::Length => "length",
        }
    }
}

/// A completion to be judged, as a line of JSON states it. Other fields are ignored; a scorer that is not known is an
/// error that lists those that are.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Record {
    /// Kind of the problem; multiple choice if left out.
    #[serde(default)]
    pub problem_type: ProblemType,
    /// The right answer, with or without `<answer>` tags.
    pub solution: String,
    /// What the model wrote.
    pub completion: String,
    /// The scorers to ask.
    pub scorers: Vec<ScorerName>,
    /// When the clues are seen, `[start, end]` in seconds, for `temporal-iou`.
    pub time_clues: Option<Vec<[f64; 2]>>,
    /// Number of the completion's tokens, for `length`.
    pub tokens: Option<usize>,
}

/// The value of each scorer that the record names, in its order; `None` where it cannot score the record.
pub fn judge(record: &Record) -> Vec<(ScorerName, Option<f32>)> {
    let times = record.time_clues.clone().unwrap_or_default();
    let answer = Answer::new(&record.solution).of(record.problem_type).with_times(times);
    let text = record.completion.as_str();
    let accuracy = LazyCell::new(|| accuracy(&answer, text, AnswerRule::VideoR1));
    let score = |scorer| match scorer {
        ScorerName::Accuracy => *accuracy,
        ScorerName::Format => Some(format(text, FormatStyle::VideoR1)),
        ScorerName::SoftChoice => soft_choice(&answer, text),
        ScorerName::TemporalIou => temporal_iou(&answer, text, TimeBins::Exact),
        ScorerName::Length => Length::default().score(record.tokens, accuracy.unwrap_or(f32::NAN)),
    };
    record.scorers.iter().map(|&scorer| (scorer, score(scorer))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn judged(record: Value) -> Vec<(&'static str, Option<f32>)> {
        let record = serde_json::from_value(record).unwrap();
        judge(&record).into_iter().map(|(scorer, value)| (scorer.name(), value)).collect()
    }

    #[test]
    fn every_scorer_is_known_by_its_name() {
        let names = ScorerName::ALL.map(ScorerName::name);
        let record = json!({
            "id": 7, "problem_type": "multiple choice", "solution": "<answer>B</answer>", "scorers": names,
            "completion": "<think>x</think> <answer>B</answer>", "time_clues": [[1, 2.5]], "tokens": 320,
        });
        let expected = [1.0, 1.0, 1.0, 0.0, 1.0].map(Some);
        assert_eq!(judged(record), names.into_iter().zip(expected).collect::<Vec<_>>());
    }

    #[test]
    fn what_a_record_lacks_cannot_be_scored() {
        let record = json!({
            "problem_type": "free-form", "solution": "a red ball", "completion": "<answer>A red ball.</answer>",
            "scorers": ["temporal-iou", "length", "accuracy", "format"], "time_clues": null,
        });
        let expected = [("temporal-iou", None), ("length", None), ("accuracy", Some(1.0)), ("format", Some(0.0))];
        assert_eq!(judged(record), expected);
    }

    #[test]
    fn an_unknown_scorer_is_an_error_with_the_known_ones() {
        let record = json!({"solution": "B", "completion": "", "scorers": ["accuracy", "acuracy"]});
        let error = serde_json::from_value::<Record>(record).unwrap_err().to_string();
        assert!(error.contains("`acuracy`"), "{error}");
        assert!(ScorerName::ALL.iter().all(|known| error.contains(known.name())), "{error}");
    }
}
