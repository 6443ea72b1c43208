//! Partial credit for questions with several right letters (TW-GRPO, arXiv 2505.24718, eq. 7).

use serde::{Deserialize, Serialize};

use crate::{Answer, Completion, Scorer, answer_text, parts};

/// The `soft-choice` scorer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoftChoice {
    /// Share in the total. TW-GRPO: 1.
    pub weight: f32,
}

impl Default for SoftChoice {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

impl Scorer for SoftChoice {
    fn name(&self) -> &'static str {
        "soft-choice"
    }

    fn score(&self, answer: &Answer, completion: &Completion) -> Option<f32> {
        soft_choice(answer, completion.text)
    }
}

/// The share of the right letters that are given if no wrong one is, else 0; `None` if the example has no answer.
pub fn soft_choice(answer: &Answer, completion: &str) -> Option<f32> {
    let (given, right) = (parts(answer_text(completion)), parts(answer.text()));
    if right.is_empty() {
        return None;
    }
    Some(if given.is_subset(&right) { given.len() as f32 / right.len() as f32 } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn right_letters_count_unless_a_wrong_one_is_among_them() {
        for (given, expected) in
            [("A,C", 1.0), ("C", 0.5), ("A,B", 0.0), ("", 0.0), ("A,B,C", 0.0), ("C,C", 0.5), (" ,\u{a0}c", 0.0)]
        {
            let completion = format!("<answer>{given}</answer>");
            assert_eq!(soft_choice(&Answer::new("A, C"), &completion), Some(expected), "{given}");
        }
        assert_eq!(soft_choice(&Answer::new("A"), "A"), Some(0.0));
        assert_eq!(soft_choice(&Answer::new(","), "<answer>A</answer>"), None);
    }

    proptest! {
        #[test]
        fn neither_order_nor_blanks_count(mut letters in prop::collection::vec("[A-D]", 1..5)) {
            let given = letters.join(",");
            letters.reverse();
            let turned = letters.join(" ,\n");
            let score = |text: &str| soft_choice(&Answer::new("A,B,C"), &format!("<answer>{text}</answer>"));
            prop_assert_eq!(score(&given), score(&turned));
        }
    }
}
