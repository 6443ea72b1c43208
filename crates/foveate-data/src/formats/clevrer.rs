//! CLEVRER: `train.json`, `validation.json` (arXiv 1910.01442; <http://clevrer.csail.mit.edu>). A record is a video
//! with its questions. Descriptive questions are open; of the choices of the others any number may be correct, and the
//! answer is all of their letters. A question none of whose choices is correct cannot be answered by a letter and is
//! left out.
//!
//! Videos lie as the archives unpack: `video_10000-11000/video_10000.mp4`.

use serde::Deserialize;

use super::{At, Record, choices, lenient};
use crate::{Example, Fault, Medium, letter};

#[derive(Deserialize)]
pub(super) struct Scene {
    scene_index: u64,
    video_filename: String,
    questions: Vec<Question>,
}

#[derive(Deserialize)]
struct Question {
    #[serde(default, deserialize_with = "lenient::any")]
    question_id: Option<String>,
    question: String,
    question_type: String,
    #[serde(default, deserialize_with = "lenient::any")]
    answer: Option<String>,
    choices: Option<Vec<Choice>>,
}

#[derive(Deserialize)]
struct Choice {
    choice: String,
    answer: Verdict,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Correct,
    Wrong,
}

impl Record for Scene {
    fn examples(self, _: &At<'_>) -> Result<Vec<Example>, Fault> {
        let first = self.scene_index / 1000 * 1000;
        let path = format!("video_{first:05}-{:05}/{}", first + 1000, self.video_filename);
        let mut examples = Vec::new();
        for (index, question) in self.questions.into_iter().enumerate() {
            let id = question.question_id.unwrap_or_else(|| index.to_string());
            let mut example = Example {
                id: format!("{}-{id}", self.scene_index),
                media: vec![Medium::video(&path)],
                question: question.question,
                kind: question.question_type,
                source: "CLEVRER".to_owned(),
                ..Example::default()
            };
            match question.choices {
                Some(found) => {
                    let right = found.iter().enumerate().filter(|(_, choice)| choice.answer == Verdict::Correct);
                    example.answer = right.map(|(index, _)| letter(index)).collect::<Vec<_>>().join(",");
                    example.options = found.into_iter().map(|choice| choice.choice).collect();
                }
                None => {
                    let answer = lenient::required(&format!("questions[{index}].answer"), question.answer)?;
                    choices::answer_openly(&mut example, &answer);
                }
            }
            if !example.answer.is_empty() {
                examples.push(example);
            }
        }
        Ok(examples)
    }
}
