//! The answer that an example expects and the one that a completion gives.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::python::strip;
use crate::{ProblemType, spans};

/// The opening tag of an answer.
pub(crate) const OPEN: &str = "<answer>";
/// The closing tag of an answer.
pub(crate) const CLOSE: &str = "</answer>";

/// What an example expects: a letter, letters joined by commas, a number or text, and when its clues are seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    text: String,
    problem_type: ProblemType,
    times: Vec<[f64; 2]>,
}

impl Answer {
    /// The answer of a multiple-choice question as a record states it: `B`, `A,C`, or `<answer>B</answer>` as Video-R1
    /// writes its solutions. Blanks around it do not count.
    pub fn new(text: &str) -> Self {
        Self { text: solution_text(text).to_owned(), problem_type: ProblemType::default(), times: Vec::new() }
    }

    /// The same for another kind of problem.
    pub fn of(self, problem_type: ProblemType) -> Self {
        Self { problem_type, ..self }
    }

    /// The same with the intervals `[start, end]` in seconds in which its clues are seen.
    pub fn with_times(self, times: Vec<[f64; 2]>) -> Self {
        Self { times, ..self }
    }

    /// The answer's text; empty if the example has none and cannot be scored.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The kind of problem.
    pub fn problem_type(&self) -> ProblemType {
        self.problem_type
    }

    /// The intervals `[start, end]` in seconds in which the clues are seen, or if there are none and a time is what is asked
    /// for, those that the text names; empty if the example has none.
    pub fn times(&self) -> Cow<'_, [[f64; 2]]> {
        if self.times.is_empty() && self.problem_type == ProblemType::Grounding {
            return Cow::Owned(spans(&self.text));
        }
        Cow::Borrowed(&self.times)
    }

    /// Whether it is one of several letters.
    pub fn is_multiple(&self) -> bool {
        self.problem_type == ProblemType::MultipleChoice && parts(&self.text).len() > 1
    }
}

/// What a model wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion<'a> {
    /// The decoded text, without special tokens.
    pub text: &'a str,
    /// Number of its tokens, where known.
    pub tokens: Option<usize>,
}

impl<'a> From<&'a str> for Completion<'a> {
    fn from(text: &'a str) -> Self {
        Self { text, tokens: None }
    }
}

impl<'a> From<&'a String> for Completion<'a> {
    fn from(text: &'a String) -> Self {
        Self::from(text.as_str())
    }
}

/// The parts of an answer: split at commas, without spaces and empty parts.
pub fn parts(text: &str) -> BTreeSet<&str> {
    text.split(',').map(strip).filter(|part| !part.is_empty()).collect()
}

/// What a completion answers: the text of the first `<answer> .. </answer>`, stripped; empty if there is none.
pub fn answer_text(completion: &str) -> &str {
    block(completion, OPEN, CLOSE).map_or("", |(inside, _)| strip(inside))
}

/// What a record's solution says, stripped: the inside of its first `<answer> .. </answer>` if it has one, else all.
pub fn solution_text(solution: &str) -> &str {
    strip(block(solution, OPEN, CLOSE).map_or(solution, |(inside, _)| inside))
}

/// The inside of the first block between the two tags, and what follows it.
pub(crate) fn block<'a>(text: &'a str, open: &str, close: &str) -> Option<(&'a str, &'a str)> {
    text.split_once(open)?.1.split_once(close)
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
        assert_eq!(answer_text("<answer>\u{a0}\u{5927}\x1d</answer>"), "\u{5927}");
    }

    #[test]
    fn without_a_closed_answer_there_is_none() {
        for completion in ["", "B", "<answer>B", "B</answer>", "</answer>B<answer>", "<ANSWER>B</ANSWER>"] {
            assert_eq!(answer_text(completion), "", "{completion}");
        }
    }

    #[test]
    fn a_solution_may_stand_in_tags() {
        for solution in ["B", " B\n", "<answer>B</answer>", "<answer> B </answer>\n"] {
            assert_eq!(Answer::new(solution).text(), "B", "{solution}");
        }
        assert_eq!(solution_text("<answer></answer>"), "");
    }

    #[test]
    fn parts_have_no_spaces_order_or_repetition() {
        assert_eq!(parts(" C ,A,, C"), BTreeSet::from(["A", "C"]));
        assert!(parts(" , ").is_empty());
        assert!(Answer::new("A, C").is_multiple() && !Answer::new("A,").is_multiple());
        assert!(!Answer::new("1,000").of(ProblemType::Numerical).is_multiple());
    }

    proptest! {
        #[test]
        fn an_answer_is_found_whatever_stands_around_it(before in "[a-z \n]*", text in "[A-Z]", after in "(?s).*") {
            let completion = format!("{before}<answer> {text} </answer>{after}");
            prop_assert_eq!(answer_text(&completion), text);
        }
    }
}
