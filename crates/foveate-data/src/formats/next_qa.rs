//! NExT-QA, multiple choice: `train.csv`, `val.csv`, `test.csv` (arXiv 2105.08276;
//! <https://github.com/doc-doc/NExT-QA>). Videos lie as in
//! <https://github.com/EvolvingLMMs-Lab/lmms-eval/blob/0a589d6/lmms_eval/tasks/nextqa/utils.py>: `NExTVideo/ID.mp4`, or in
//! VidOR's folders where `map_vid_vidorID.json` lies beside the file.

use serde::Deserialize;

use super::{At, Record, choices, lenient, next_gqa::vidor};
use crate::{Example, Fault};

#[derive(Deserialize)]
pub(super) struct Question {
    #[serde(deserialize_with = "lenient::text")]
    video: String,
    question: String,
    a0: String,
    a1: String,
    a2: String,
    a3: String,
    a4: String,
    #[serde(deserialize_with = "lenient::index")]
    answer: usize,
    #[serde(deserialize_with = "lenient::text")]
    qid: String,
    #[serde(default, rename = "type")]
    kind: String,
}

impl Record for Question {
    fn examples(self, at: &At<'_>) -> Result<Vec<Example>, Fault> {
        let options = vec![self.a0, self.a1, self.a2, self.a3, self.a4];
        let answer = choices::at("answer", self.answer, &options)?;
        Ok(vec![Example {
            id: format!("{}_{}", self.video, self.qid),
            media: vec![vidor(&self.video, at)?],
            question: self.question,
            options,
            answer,
            kind: self.kind,
            source: "NExT-QA".to_owned(),
            ..Example::default()
        }])
    }
}
