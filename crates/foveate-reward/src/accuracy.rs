//! Whether an answer is right, or how nearly, by the kind of problem.

use serde::{Deserialize, Serialize};

use crate::answer::{CLOSE, OPEN};
use crate::number::{closeness, is_same_number};
use crate::python::strip;
use crate::rouge::rouge;
use crate::word_error::word_accuracy;
use crate::{Answer, Completion, ProblemType, Scorer, TimeBins, answer_text, parts, temporal_iou};

/// The `accuracy` scorer: 1 for the right answer, less for a nearly right one where the problem allows it, else 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Accuracy {
    /// Share in the total. APPO: 0.9; Video-R1: 1.
    pub weight: f32,
    /// How the answer is read from the completion.
    pub rule: AnswerRule,
}

impl Default for Accuracy {
    fn default() -> Self {
        Self { weight: 0.9, rule: AnswerRule::Appo }
    }
}

/// How the letter of a multiple-choice question is read from a completion. Other problems have one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerRule {
    /// The text of the first `<answer>`, stripped, equals the answer: several letters only in its order and without blanks.
    VideoR1,
    /// The letters in the first `<answer>`, split at commas, are those of the answer, in any order (foveate's own).
    Letters,
    /// There is exactly one `<answer>` with nothing but a capital letter, and it is the answer's.
    Appo,
}

impl Scorer for Accuracy {
    fn name(&self) -> &'static str {
        "accuracy"
    }

    fn score(&self, answer: &Answer, completion: &Completion) -> Option<f32> {
        accuracy(answer, completion.text, self.rule)
    }
}

/// How right the completion's answer is, from 0 to 1; `None` if the example has no answer.
///
/// | problem | value |
/// |---|---|
/// | multiple choice | 1 for the answer, else 0, by `rule` |
/// | numerical | 1 for the same number to 2 decimals, both or neither with '.' or ',' |
/// | OCR | 1 less the word error rate, not below 0 |
/// | free-form | mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L with stemming |
/// | regression | 1 less the relative error, not below 0 |
/// | temporal grounding | 1 if the temporal IoU with the answer's times, or those in its text, is at least 0.5, else 0 |
///
/// Several letters are right as the same set, whatever their order, in the first `<answer>` under `Letters` and in the only
/// one under `Appo`, whose own rule knows single letters only. The others are the rules of Video-R1 (arXiv 2503.21776), which take the text of the first `<answer>`.
/// What Python takes for a number is one: `1e5`, `inf`, digits of any script; commas are dropped before.
pub fn accuracy(answer: &Answer, completion: &str, rule: AnswerRule) -> Option<f32> {
    let gold = answer.text();
    if gold.is_empty() && answer.problem_type() != ProblemType::Grounding {
        return None;
    }
    let given = answer_text(completion);
    let score = match answer.problem_type() {
        ProblemType::Grounding => f64::from(temporal_iou(answer, completion, TimeBins::Exact)? >= OVERLAP),
        ProblemType::MultipleChoice => f64::from(is_right_choice(answer, completion, given, rule)),
        ProblemType::Numerical => f64::from(is_same_number(gold, given)),
        ProblemType::Ocr => word_accuracy(gold, given),
        ProblemType::FreeForm => rouge(gold, given),
        ProblemType::Regression => closeness(gold, given),
    };
    Some(score as f32)
}

/// From which temporal IoU on a time is right.
const OVERLAP: f32 = 0.5;

fn is_right_choice(answer: &Answer, completion: &str, given: &str, rule: AnswerRule) -> bool {
    let is_same_set = || parts(given) == parts(answer.text());
    match rule {
        AnswerRule::Letters if answer.is_multiple() => is_same_set(),
        AnswerRule::VideoR1 | AnswerRule::Letters => given == answer.text(),
        AnswerRule::Appo if answer.is_multiple() => completion.matches(OPEN).count() == 1 && is_same_set(),
        AnswerRule::Appo => only_letter(completion) == Some(answer.text()),
    }
}

/// The letter of the only match of `<answer>\s*([A-Z])\s*</answer>`.
fn only_letter(completion: &str) -> Option<&str> {
    let mut letters = completion.split(OPEN).skip(1).filter_map(|after| {
        let letter = strip(after.split_once(CLOSE)?.0);
        is_letter(letter).then_some(letter)
    });
    letters.next().filter(|_| letters.next().is_none())
}

/// Whether the text is one of `A` to `Z`.
pub(crate) fn is_letter(text: &str) -> bool {
    text.len() == 1 && text.starts_with(|c: char| c.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(answer: &str, completion: &str) -> (Option<f32>, Option<f32>) {
        let answer = Answer::new(answer);
        (accuracy(&answer, completion, AnswerRule::VideoR1), accuracy(&answer, completion, AnswerRule::Appo))
    }

    #[test]
    fn equal_strings_are_right_under_both_rules() {
        assert_eq!(scores("B", "<think>x</think><answer> B\n</answer>"), (Some(1.0), Some(1.0)));
        assert_eq!(scores("B", "<answer>C</answer>"), (Some(0.0), Some(0.0)));
        assert_eq!(scores("B", "<answer>b</answer>"), (Some(0.0), Some(0.0)));
        assert_eq!(scores("B", "B"), (Some(0.0), Some(0.0)));
    }

    #[test]
    fn two_letters_in_two_answers_are_wrong_under_the_rule_of_appo_only() {
        assert_eq!(scores("B", "<answer>B</answer><answer>B</answer>"), (Some(1.0), Some(0.0)));
        assert_eq!(scores("B", "<answer>because</answer><answer>B</answer>"), (Some(0.0), Some(1.0)));
    }

    #[test]
    fn a_time_is_right_from_half_an_overlap_on() {
        let answer = Answer::new("2 to 4").of(ProblemType::Grounding).with_times(vec![[2.0, 4.0]]);
        let right = |said: &str| accuracy(&answer, said, AnswerRule::Letters);
        assert_eq!(right("<time>1 to 4</time>"), Some(1.0));
        assert_eq!([right("<time>0 to 4.1</time>"), right("<answer>2 to 4</answer>")], [Some(0.0); 2]);
        let in_words = Answer::new("2 to 4").of(ProblemType::Grounding);
        assert_eq!(accuracy(&in_words, "<time>1 to 4</time>", AnswerRule::Letters), Some(1.0));
        let unsaid = Answer::new("").of(ProblemType::Grounding).with_times(vec![[2.0, 4.0]]);
        assert_eq!(accuracy(&unsaid, "<time>1 to 4</time>", AnswerRule::Letters), Some(1.0));
        let unknown = Answer::new("soon").of(ProblemType::Grounding);
        assert_eq!(accuracy(&unknown, "<time>1 to 4</time>", AnswerRule::Letters), None);
    }

    #[test]
    fn a_letter_with_its_text_is_no_letter() {
        assert_eq!(scores("B", "<answer>B. red</answer>"), (Some(0.0), Some(0.0)));
        assert_eq!(scores("B. red", "<answer>B. red</answer>"), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn several_letters_are_compared_as_sets() {
        let letters = |given: &str| accuracy(&Answer::new("A,C"), given, AnswerRule::Letters);
        assert_eq!(letters("<answer>C , A</answer><answer>B</answer>"), Some(1.0));
        assert_eq!([letters("<answer>A</answer>"), letters("<answer>A,B,C</answer>")], [Some(0.0); 2]);
        assert_eq!(accuracy(&Answer::new("B"), "<answer> B</answer>", AnswerRule::Letters), Some(1.0));
        assert_eq!(scores("A,C", "<answer> A,C </answer>"), (Some(1.0), Some(1.0)));
        assert_eq!(scores("A,C", "<answer>C, A</answer>"), (Some(0.0), Some(1.0)));
        assert_eq!(scores("A,C", "<answer>A</answer>"), (Some(0.0), Some(0.0)));
        assert_eq!(scores("A,C", "<answer>A,B,C</answer>"), (Some(0.0), Some(0.0)));
        assert_eq!(scores("A,C", "<answer>A,C</answer><answer>A,C</answer>"), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn an_example_without_an_answer_cannot_be_scored() {
        assert_eq!(scores(" ", "<answer></answer>"), (None, None));
        for kind in ProblemType::ALL {
            let empty = Answer::new("<answer> </answer>").of(kind);
            assert_eq!(accuracy(&empty, "<answer>B</answer>", AnswerRule::VideoR1), None);
        }
    }

    #[test]
    fn other_problems_have_their_own_rule_under_either_rule() {
        for (kind, gold, given, expected) in [
            (ProblemType::Numerical, "3.50", "3.5", 1.0),
            (ProblemType::Numerical, "3", "3.5", 0.0),
            (ProblemType::Ocr, "no entry", "no exit", 0.5),
            (ProblemType::FreeForm, "a red ball rolls", "a red ball rolls", 1.0),
            (ProblemType::FreeForm, "ball", "balls", 2.0 / 3.0),
            (ProblemType::Regression, "10", "9", 0.9),
        ] {
            let answer = Answer::new(gold).of(kind);
            for rule in [AnswerRule::VideoR1, AnswerRule::Appo] {
                let score = accuracy(&answer, &format!("<think>7</think><answer>{given}</answer>"), rule).unwrap();
                assert!((score - expected).abs() < 1e-6, "{kind} {gold} {given}: {score}");
                assert_eq!(accuracy(&answer, given, rule), Some(0.0), "{kind}: without tags");
            }
        }
    }
}
