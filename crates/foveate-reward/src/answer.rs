//! The answer that an example expects and the one that a completion gives.

use std::collections::BTreeSet;

/// The opening tag of an answer.
pub(crate) const OPEN: &str = "<answer>";
/// The closing tag of an answer.
pub(crate) const CLOSE: &str = "</answer>";

/// What an example expects: a letter, letters joined by commas, or text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    text: String,
}

impl Answer {
    /// The answer as a record states it, such as `B` or `A,C`; blanks around it do not count.
    pub fn new(text: &str) -> Self {
        Self { text: text.trim().to_owned() }
    }

    /// The answer's text; empty if the example has none and cannot be scored.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it has several parts.
    pub fn is_multiple(&self) -> bool {
        parts(&self.text).len() > 1
    }
}

/// The parts of an answer: split at commas, without spaces and empty parts.
pub fn parts(text: &str) -> BTreeSet<&str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// What a completion answers: the text of the first `<answer> .. </answer>`, stripped; empty if there is none.
pub fn answer_text(completion: &str) -> &str {
    let block = || {
        let (_, after) = completion.split_once(OPEN)?;
        let (inside, _) = after.split_once(CLOSE)?;
        Some(inside.trim())
    };
    block().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_answer_counts_stripped() {
        assert_eq!(answer_text("<think>x</think><answer>\n B </answer> <answer>C</answer>"), "B");
        assert_eq!(answer_text("<answer>two\nlines</answer>"), "two\nlines");
        assert_eq!(answer_text("<answer><answer>B</answer>"), "<answer>B");
    }

    #[test]
    fn without_a_closed_answer_there_is_none() {
        for completion in ["", "B", "<answer>B", "B</answer>", "</answer>B<answer>"] {
            assert_eq!(answer_text(completion), "", "{completion}");
        }
    }

    #[test]
    fn parts_have_no_spaces_order_or_repetition() {
        assert_eq!(parts(" C ,A,, C"), BTreeSet::from(["A", "C"]));
        assert!(parts(" , ").is_empty());
        assert!(Answer::new("A, C").is_multiple() && !Answer::new("A,").is_multiple());
    }

    proptest! {
        #[test]
        fn an_answer_is_found_whatever_stands_around_it(before in "[a-z \n]*", text in "[A-Z]", after in "(?s).*") {
            let completion = format!("{before}<answer> {text} </answer>{after}");
            prop_assert_eq!(answer_text(&completion), text);
        }
    }
}
