//! The Perception Test's multiple-choice questions: `mc_question_train.json`, `mc_question_valid.json` and
//! `all_*.json`, an object by video (arXiv 2305.13786; fields and archives:
//! <https://github.com/google-deepmind/perception_test#readme>). Results are given by area. Videos lie as the archives
//! unpack: `videos/ID.mp4`.

use serde::Deserialize;

use super::{At, Record, choices, lenient};
use crate::{Example, Fault, Medium};

#[derive(Deserialize)]
pub(super) struct Video {
    metadata: Metadata,
    #[serde(default)]
    mc_question: Vec<Question>,
}

#[derive(Deserialize)]
struct Metadata {
    video_id: String,
    #[serde(default)]
    split: String,
}

#[derive(Deserialize)]
struct Question {
    #[serde(deserialize_with = "lenient::text")]
    id: String,
    question: String,
    options: Vec<String>,
    #[serde(deserialize_with = "lenient::index")]
    answer_id: usize,
    #[serde(default)]
    area: String,
}

impl Record for Video {
    fn examples(self, _: &At<'_>) -> Result<Vec<Example>, Fault> {
        let Metadata { video_id, split } = self.metadata;
        let example = |(index, question): (usize, Question)| {
            let answer =
                choices::at(&format!("mc_question[{index}].answer_id"), question.answer_id, &question.options)?;
            Ok(Example {
                id: format!("{video_id}-{}", question.id),
                media: vec![Medium::video(format!("videos/{video_id}.mp4"))],
                question: question.question,
                options: question.options,
                answer,
                kind: question.area.to_lowercase(),
                source: "Perception Test".to_owned(),
                split: split.clone(),
                ..Example::default()
            })
        };
        self.mc_question.into_iter().enumerate().map(example).collect()
    }
}
