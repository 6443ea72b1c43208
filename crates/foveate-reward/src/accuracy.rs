//! Whether the answer of a multiple-choice question is right.

use serde::{Deserialize, Serialize};

use crate::answer::{CLOSE, OPEN};
use crate::{Answer, Scorer, answer_text, parts};

/// The `accuracy` scorer: 1 for the right answer, else 0.
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

/// How the answer of a completion is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerRule {
    /// The text of the first `<answer>`, stripped, equals the answer.
    VideoR1,
    /// There is exactly one `<answer>` with nothing but a capital letter, and it is the answer's.
    Appo,
}

impl Scorer for Accuracy {
    fn name(&self) -> &'static str {
        "accuracy"
    }

    fn score(&self, answer: &Answer, completion: &str) -> Option<f32> {
        accuracy(answer, completion, self.rule)
    }
}

/// 1 if the completion gives the answer, else 0; `None` if the example has no answer.
///
/// An answer of several letters is right if the same set of letters is given, whatever their order, in the first
/// `<answer>` (`VideoR1`) or in the only one (`Appo`).
pub fn accuracy(answer: &Answer, completion: &str, rule: AnswerRule) -> Option<f32> {
    if answer.text().is_empty() {
        return None;
    }
    let right = match rule {
        AnswerRule::VideoR1 if answer.is_multiple() => parts(answer_text(completion)) == parts(answer.text()),
        AnswerRule::VideoR1 => answer_text(completion) == answer.text(),
        AnswerRule::Appo if answer.is_multiple() => {
            completion.matches(OPEN).count() == 1 && parts(answer_text(completion)) == parts(answer.text())
        }
        AnswerRule::Appo => only_letter(completion) == Some(answer.text()),
    };
    Some(if right { 1.0 } else { 0.0 })
}

/// The letter of the only match of `<answer>\s*([A-Z])\s*</answer>`.
fn only_letter(completion: &str) -> Option<&str> {
    let mut letters = completion.split(OPEN).skip(1).filter_map(|after| {
        let letter = after.split_once(CLOSE)?.0.trim();
        let is_letter = letter.len() == 1 && letter.starts_with(|c: char| c.is_ascii_uppercase());
        is_letter.then_some(letter)
    });
    letters.next().filter(|_| letters.next().is_none())
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
    fn a_letter_with_its_text_is_no_letter() {
        assert_eq!(scores("B", "<answer>B. red</answer>"), (Some(0.0), Some(0.0)));
        assert_eq!(scores("B. red", "<answer>B. red</answer>"), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn several_letters_are_compared_as_sets() {
        assert_eq!(scores("A,C", "<answer>C, A</answer>"), (Some(1.0), Some(1.0)));
        assert_eq!(scores("A,C", "<answer>A</answer>"), (Some(0.0), Some(0.0)));
        assert_eq!(scores("A,C", "<answer>A,B,C</answer>"), (Some(0.0), Some(0.0)));
        assert_eq!(scores("A,C", "<answer>A,C</answer><answer>A,C</answer>"), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn an_example_without_an_answer_cannot_be_scored() {
        assert_eq!(scores(" ", "<answer></answer>"), (None, None));
    }
}
