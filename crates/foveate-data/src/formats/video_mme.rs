//! Video-MME (arXiv 2405.21075; <https://huggingface.co/datasets/lmms-lab/Video-MME>, a parquet
//! file; fields and folder of videos:
//! <https://github.com/EvolvingLMMs-Lab/lmms-eval/blob/0696573/lmms_eval/tasks/videomme/utils.py>). Results are given
//! by task and by duration (short, medium, long). Videos lie in `data/ID.mp4`, the subtitles of those that have any in
//! `subtitle/ID.srt`: a prompt that tells them (`subtitles`) makes the benchmark "with subtitles".

use serde::Deserialize;

use super::{At, Record, choices, lenient};
use crate::{Example, Fault, Medium, Subtitles};

#[derive(Deserialize)]
pub(super) struct Question {
    #[serde(deserialize_with = "lenient::text")]
    question_id: String,
    #[serde(rename = "videoID")]
    video: String,
    duration: Duration,
    task_type: String,
    question: String,
    options: Vec<String>,
    answer: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Duration {
    Short,
    Medium,
    Long,
}

impl Record for Question {
    fn examples(self, _: &At<'_>) -> Result<Vec<Example>, Fault> {
        let options = choices::texts(self.options);
        let duration = match self.duration {
            Duration::Short => "short",
            Duration::Medium => "medium",
            Duration::Long => "long",
        };
        Ok(vec![Example {
            id: self.question_id,
            media: vec![Medium::video(format!("data/{}.mp4", self.video))],
            subtitles: Some(Subtitles { path: format!("subtitle/{}.srt", self.video).into(), begin: 0.0 }),
            question: self.question,
            answer: choices::named("answer", &self.answer, &options)?,
            options,
            kind: self.task_type,
            duration: duration.to_owned(),
            source: "Video-MME".to_owned(),
            ..Example::default()
        }])
    }
}
