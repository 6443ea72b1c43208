//! Video-Holmes: `train_Video-Holmes.json`, `test_Video-Holmes.json` (arXiv 2505.21374;
//! <https://huggingface.co/datasets/TencentARC/Video-Holmes>; fields and folder of videos:
//! <https://github.com/TencentARC/Video-Holmes/blob/7745c87/evaluate.py>). Videos lie in `videos/ID.mp4`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{At, Record, choices, lenient};
use crate::{Example, Fault, Medium};

#[derive(Deserialize)]
pub(super) struct Question {
    #[serde(rename = "video ID", deserialize_with = "lenient::text")]
    video: String,
    #[serde(rename = "Question ID", deserialize_with = "lenient::text")]
    id: String,
    #[serde(rename = "Question Type")]
    kind: String,
    #[serde(rename = "Question")]
    question: String,
    #[serde(rename = "Options")]
    options: BTreeMap<String, String>,
    #[serde(rename = "Answer")]
    answer: String,
}

impl Record for Question {
    fn examples(self, _: &At<'_>) -> Result<Vec<Example>, Fault> {
        let options = choices::by_letter("Options", self.options)?;
        Ok(vec![Example {
            id: format!("{}-{}", self.video, self.id),
            media: vec![Medium::video(format!("videos/{}.mp4", self.video))],
            question: self.question,
            answer: choices::named("Answer", &self.answer, &options)?,
            options,
            kind: self.kind,
            source: "Video-Holmes".to_owned(),
            ..Example::default()
        }])
    }
}
