//! TempCompass: `multi-choice.json`, `caption_matching.json` and `yes_no.json`, each an object by video of lists by
//! temporal aspect (arXiv 2403.00476; <https://github.com/llyx97/TempCompass/tree/87d5cf3/questions>). The options are
//! lines of the question (`A. ..`, `Option 1: ..`, `Sentence A: ..`, `Caption A: ..`), and the answer is one of these
//! lines. Results are given by aspect; the part of the data set is the file's task. Videos lie in `videos/ID.mp4`.
//!
//! `captioning.json` is a data set of its own ([`Captioned`]), since it takes two models: one writes the caption that a
//! record asks for, and another answers from it alone the first question that `multi-choice.json` has about the same
//! aspect of the video
//! (<https://github.com/llyx97/TempCompass/blob/87d5cf3/eval_captioning.py>). There the other model is GPT-3.5, which is
//! also asked for its reasons; here it is whichever is given, and asked by `data.prompt`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{At, Record, choices, lenient, parse};
use crate::{Example, Fault, Medium, letter};

/// A video's questions by aspect.
#[derive(Deserialize)]
pub(super) struct Video(BTreeMap<String, Vec<Question>>);

/// A video's captions by aspect.
#[derive(Deserialize)]
pub(super) struct Captioned(BTreeMap<String, Vec<Question>>);

#[derive(Deserialize)]
struct Question {
    question: String,
    answer: String,
}

/// The file of captions.
const CAPTIONING: &str = "captioning";

impl Record for Video {
    fn examples(self, at: &At<'_>) -> Result<Vec<Example>, Fault> {
        if at.stem() == CAPTIONING {
            return Ok(Vec::new());
        }
        let video = at.entry()?;
        each(self.0, |aspect, index, question| {
            question.put_to(begun(video, aspect, index, at), &format!("{aspect}[{index}]"))
        })
    }
}

impl Record for Captioned {
    fn examples(self, at: &At<'_>) -> Result<Vec<Example>, Fault> {
        if at.stem() != CAPTIONING {
            return Ok(Vec::new());
        }
        let video = at.entry()?;
        let questions = lenient::required("multi-choice.json", at.beside("multi-choice.json")?)?;
        each(self.0, |aspect, index, caption| {
            let place = format!("multi-choice.json: {video}.{aspect}[0]");
            let question = lenient::required(&place, questions[video][aspect].get(0))?;
            let question: Question = parse(question.clone()).map_err(|fault| Fault::new(&place, fault.to_string()))?;
            let example = Example { description: Some(caption.question), ..begun(video, aspect, index, at) };
            question.put_to(example, &place)
        })
    }
}

/// An example for every question of every aspect.
fn each(
    aspects: BTreeMap<String, Vec<Question>>,
    example: impl Fn(&str, usize, Question) -> Result<Example, Fault>,
) -> Result<Vec<Example>, Fault> {
    let mut examples = Vec::new();
    for (aspect, questions) in aspects {
        for (index, question) in questions.into_iter().enumerate() {
            examples.push(example(&aspect, index, question)?);
        }
    }
    Ok(examples)
}

/// An example without its question.
fn begun(video: &str, aspect: &str, index: usize, at: &At<'_>) -> Example {
    Example {
        id: format!("{video}-{}-{aspect}-{index}", at.stem()),
        media: vec![Medium::video(format!("videos/{video}.mp4"))],
        kind: aspect.to_owned(),
        source: "TempCompass".to_owned(),
        split: at.stem().to_owned(),
        ..Example::default()
    }
}

impl Question {
    /// The example with this question; `place` is where it stands, for messages.
    fn put_to(self, mut example: Example, place: &str) -> Result<Example, Fault> {
        let Self { question, answer } = self;
        (example.question, example.options) = choices::in_lines(&question, label);
        if example.options.is_empty() {
            choices::answer_openly(&mut example, &answer);
        } else {
            let from = question.lines().count() - example.options.len();
            let lines: Vec<String> = question.lines().skip(from).map(str::to_owned).collect();
            example.question.truncate(example.question.trim_end().len());
            example.answer = choices::of_text(&format!("{place}.answer"), &answer, &lines)?;
        }
        Ok(example)
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
