//! NExT-GQA (arXiv 2309.01327; <https://github.com/doc-doc/NExT-GQA>) in one JSON file, as two trainers write it:
//! APPO's, with a number from 0 as the answer and `time_clues`, and VideoChat-R1's, with a letter and `glue`
//! (<https://github.com/OpenGVLab/VideoChat-R1/blob/67d2d75/Videochat-R1/src_eval/evaluate_gqa.py>). Video paths are
//! relative to the data root.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{At, Record, choices, lenient, times};
use crate::{Example, Fault, Medium};

/// Names that differ between the two are fields of their own, since a record may carry both.
#[derive(Deserialize)]
pub(super) struct Question {
    #[serde(default, deserialize_with = "lenient::any")]
    id: Option<String>,
    #[serde(default, deserialize_with = "lenient::any")]
    qid: Option<String>,
    video: Option<PathBuf>,
    video_path: Option<PathBuf>,
    question: String,
    options: Vec<String>,
    #[serde(deserialize_with = "lenient::text")]
    answer: String,
    glue: Option<Vec<[f64; 2]>>,
    time_clues: Option<Vec<[f64; 2]>>,
    qtype: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl Record for Question {
    fn examples(self, at: &At<'_>) -> Result<Vec<Example>, Fault> {
        let video = lenient::required("video_path", self.video_path.or(self.video))?;
        let spans = match (self.time_clues, self.glue) {
            (Some(clues), _) => times::spans("time_clues", clues)?,
            (None, glue) => times::spans("glue", lenient::required("glue", glue)?)?,
        };
        let options = choices::texts(self.options);
        let answer = match self.answer.trim().parse() {
            Ok(index) => choices::at("answer", index, &options)?,
            Err(_) => choices::named("answer", &self.answer, &options)?,
        };
        Ok(vec![Example {
            id: self.id.or_else(|| self.qid.map(|qid| of_video(&video, qid))).unwrap_or_else(|| at.id()),
            media: vec![Medium::video(video)],
            question: self.question,
            options,
            answer,
            kind: self.qtype.or(self.kind).unwrap_or_default(),
            spans,
            source: "NExT-GQA".to_owned(),
            ..Example::default()
        }])
    }
}

/// `qid` numbers the questions of a video; some writers put the video's name before it.
fn of_video(video: &Path, qid: String) -> String {
    let name = video.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if qid.starts_with(name) { qid } else { format!("{name}_{qid}") }
}
