//! MMVU: `validation.json` (arXiv 2501.12380; <https://huggingface.co/datasets/yale-nlp/MMVU>; the file:
//! <https://github.com/yale-nlp/MMVU/blob/4d54223/data/validation.json>). Multiple-choice questions have five choices,
//! the choices of open-ended ones are empty. Results are given by subject. A video is an address in the data set's own
//! repository; its file lies likewise in the data root: `videos/SUBJECT/NUMBER.mp4`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{At, Record, choices, lenient};
use crate::{Example, Fault, Medium};

#[derive(Deserialize)]
pub(super) struct Question {
    id: String,
    video: String,
    question_type: QuestionType,
    question: String,
    #[serde(default)]
    choices: BTreeMap<String, String>,
    #[serde(deserialize_with = "lenient::text")]
    answer: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum QuestionType {
    MultipleChoice,
    OpenEnded,
}

#[derive(Deserialize)]
struct Metadata {
    subject: String,
}

impl Record for Question {
    fn examples(self, _: &At<'_>) -> Result<Vec<Example>, Fault> {
        let path = self.video.split_once("/resolve/main/").map_or(self.video.as_str(), |(_, path)| path);
        let mut example = Example {
            id: self.id,
            media: vec![Medium::video(path)],
            question: self.question,
            kind: self.metadata.subject,
            source: "MMVU".to_owned(),
            ..Example::default()
        };
        match self.question_type {
            QuestionType::MultipleChoice => {
                example.options = choices::by_letter("choices", self.choices)?;
                example.answer = choices::named("answer", &self.answer, &example.options)?;
            }
            QuestionType::OpenEnded => choices::answer_openly(&mut example, &self.answer),
        }
        Ok(vec![example])
    }
}
