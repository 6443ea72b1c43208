//! TW-GRPO's files of single- and multiple-answer questions (arXiv 2505.24718;
//! <https://github.com/longmalongma/TW-GRPO/blob/3abc3c3/data/evaluation/nextgqa_val_mixed.json>): the options are
//! lines of the problem, each after its letter and a blank; a solution may stand without its tag. Video paths begin
//! with a slash there; they are taken from the data root.

use foveate_reward::solution_text;
use serde::Deserialize;

use super::{At, Record, choices, lenient, times};
use crate::{Example, Fault, Medium, letter};

#[derive(Deserialize)]
pub(super) struct Question {
    #[serde(default, deserialize_with = "lenient::any")]
    id: Option<String>,
    video: String,
    problem: String,
    solution: String,
    is_negated: Option<bool>,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    glue: Vec<[f64; 2]>,
}

impl Record for Question {
    fn examples(self, at: &At<'_>) -> Result<Vec<Example>, Fault> {
        let (question, options) = split(&self.problem);
        if options.is_empty() {
            return Err(Fault::new(
                "problem",
                "expected a question and lines \"A ..\", \"B ..\" after it, found no such line",
            ));
        }
        Ok(vec![Example {
            id: self.id.unwrap_or_else(|| at.id()),
            media: vec![Medium::video(self.video.trim_start_matches('/'))],
            question,
            answer: choices::named("solution", solution_text(&self.solution), &options)?,
            options,
            kind: self.kind,
            spans: times::spans("glue", self.glue)?,
            source: "TW-GRPO".to_owned(),
            negated: self.is_negated,
            ..Example::default()
        }])
    }
}

fn split(problem: &str) -> (String, Vec<String>) {
    choices::in_lines(problem, |line, index| line.strip_prefix(letter(index).as_str())?.strip_prefix(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn question_and_options_are_found_again(
            question in "[A-C]?( [a-z]{1,4}){1,4}(\n[A-C] [a-z]{1,4})?\\?",
            options in proptest::collection::vec("[A-Za-z]{1,3}( [a-z]{1,3})?", 1..7),
        ) {
            let lines = options.iter().enumerate().map(|(index, option)| format!("\n{} {option}", letter(index)));
            let (asked, found) = split(&(question.clone() + &lines.collect::<String>()));
            // A last line of the question that begins with "A " cannot be told from an only option.
            proptest::prop_assume!(options.len() > 1);
            proptest::prop_assert_eq!((asked, found), (question, options));
        }
    }
}
