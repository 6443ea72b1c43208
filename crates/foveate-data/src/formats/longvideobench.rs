//! LongVideoBench: `lvb_val.json` (arXiv 2407.15754;
//! <https://huggingface.co/datasets/longvideobench/LongVideoBench>; groups and folder of videos:
//! <https://github.com/EvolvingLMMs-Lab/lmms-eval/blob/03a5823/lmms_eval/tasks/longvideobench/utils.py>). Results are
//! given by category of question and by duration group (15, 60, 600 or 3600 seconds). Videos lie in `videos/PATH`,
//! subtitles in `subtitles/PATH`; where a prompt tells them, they stand before the question and not between the frames as
//! there.

use serde::Deserialize;

use super::{At, Record, choices, lenient};
use crate::{Example, Fault, Medium, Subtitles};

#[derive(Deserialize)]
pub(super) struct Question {
    id: String,
    video_path: String,
    question: String,
    #[serde(deserialize_with = "lenient::texts")]
    candidates: Vec<String>,
    #[serde(deserialize_with = "lenient::index")]
    correct_choice: usize,
    question_category: String,
    #[serde(deserialize_with = "lenient::text")]
    duration_group: String,
    subtitle_path: Option<String>,
    #[serde(default)]
    starting_timestamp_for_subtitles: f64,
}

impl Record for Question {
    fn examples(self, _: &At<'_>) -> Result<Vec<Example>, Fault> {
        Ok(vec![Example {
            id: self.id,
            subtitles: self.subtitle_path.map(|path| Subtitles {
                path: format!("subtitles/{path}").into(),
                begin: self.starting_timestamp_for_subtitles,
            }),
            media: vec![Medium::video(format!("videos/{}", self.video_path))],
            question: self.question,
            answer: choices::at("correct_choice", self.correct_choice, &self.candidates)?,
            options: self.candidates,
            kind: self.question_category,
            duration: self.duration_group,
            source: "LongVideoBench".to_owned(),
            ..Example::default()
        }])
    }
}
