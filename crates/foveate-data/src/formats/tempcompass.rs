//! TempCompass: `multi-choice.json`, `caption_matching.json` and `yes_no.json`, each an object by video of lists by
//! temporal aspect (arXiv 2403.00476; <https://github.com/llyx97/TempCompass/tree/87d5cf3/questions>).
//! `captioning.json` is not read: its captions are judged by a model. The options are lines of the question (`A. ..`,
//! `Option 1: ..`, `Sentence A: ..`, `Caption A: ..`), and the answer is one of these lines. Results are given by
//! aspect; the part of the data set is the file's task. Videos lie in `videos/ID.mp4`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{At, Record, choices};
use crate::{Example, Fault, Medium, letter};

#[derive(Deserialize)]
pub(super) struct Video(BTreeMap<String, Vec<Question>>);

#[derive(Deserialize)]
struct Question {
    question: String,
    answer: String,
}

impl Record for Video {
    fn examples(self, at: &At<'_>) -> Result<Vec<Example>, Fault> {
        let video = at.entry()?;
        let mut examples = Vec::new();
        for (aspect, questions) in self.0 {
            for (index, Question { question, answer }) in questions.into_iter().enumerate() {
                let mut example = Example {
                    id: format!("{video}-{}-{aspect}-{index}", at.stem()),
                    media: vec![Medium::video(format!("videos/{video}.mp4"))],
                    kind: aspect.clone(),
                    source: "TempCompass".to_owned(),
                    split: at.stem().to_owned(),
                    ..Example::default()
                };
                (example.question, example.options) = choices::in_lines(&question, label);
                if example.options.is_empty() {
                    choices::answer_openly(&mut example, &answer);
                } else {
                    let lines: Vec<String> = question
                        .lines()
                        .skip(question.lines().count() - example.options.len())
                        .map(str::to_owned)
                        .collect();
                    example.question.truncate(example.question.trim_end().len());
                    example.answer = choices::of_text(&format!("{aspect}[{index}].answer"), &answer, &lines)?;
                }
                examples.push(example);
            }
        }
        Ok(examples)
    }
}

/// An option without its label.
fn label(line: &str, index: usize) -> Option<&str> {
    let letter = letter(index);
    if let Some(rest) = line.strip_prefix(letter.as_str()) {
        return rest.strip_prefix('.');
    }
    let (label, text) = line.split_once(": ")?;
    let (word, place) = label.split_once(' ')?;
    let counted = place == letter || place == (index + 1).to_string();
    (["Option", "Sentence", "Caption"].contains(&word) && counted).then_some(text)
}
