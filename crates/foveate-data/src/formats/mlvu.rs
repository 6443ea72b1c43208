//! MLVU: a folder of files, one for each task: `1_plotQA.json` to `7_topic_reasoning.json`, and `8_sub_scene.json` and
//! `9_summary.json`, whose questions are open (arXiv 2406.04264; <https://huggingface.co/datasets/MLVU/MVLU>; read as
//! by <https://github.com/JUNJIE99/MLVU> and
//! <https://github.com/OpenGVLab/VideoChat-R1/blob/16f03aa/Videochat-R1.5/src_eval/eval_mlvu.py>). Videos lie in a
//! folder for each file: `video/1_plotQA/NAME.mp4`.

use foveate_reward::ProblemType;
use serde::Deserialize;

use super::{At, Record, choices, lenient};
use crate::{Example, Fault, Medium};

#[derive(Deserialize)]
pub(super) struct Question {
    video: String,
    question: String,
    #[serde(default, deserialize_with = "lenient::texts")]
    candidates: Vec<String>,
    #[serde(deserialize_with = "lenient::text")]
    answer: String,
    question_type: String,
}

impl Record for Question {
    fn examples(self, at: &At<'_>) -> Result<Vec<Example>, Fault> {
        let (problem, answer) = match self.candidates.as_slice() {
            [] => (ProblemType::FreeForm, self.answer),
            options => (ProblemType::MultipleChoice, choices::of_text("answer", &self.answer, options)?),
        };
        Ok(vec![Example {
            id: at.id(),
            media: vec![Medium::video(format!("video/{}/{}", at.stem(), self.video))],
            question: self.question,
            options: self.candidates,
            answer,
            problem,
            kind: self.question_type,
            source: "MLVU".to_owned(),
            ..Example::default()
        }])
    }
}
