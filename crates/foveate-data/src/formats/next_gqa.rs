//! NExT-GQA (arXiv 2309.01327): the official pair of `val.csv` and `gsub_val.json` (likewise `test`; `train.csv` has no
//! times) as <https://github.com/doc-doc/NExT-GQA/tree/8331fce/datasets/nextgqa> has them, and one JSON file as two
//! trainers write it: APPO's, with a number from 0 as the answer and `time_clues`, and VideoChat-R1's, with a letter and
//! `glue` (<https://github.com/OpenGVLab/VideoChat-R1/blob/67d2d75/Videochat-R1/src_eval/evaluate_gqa.py>).
//!
//! Video paths of a JSON file are relative to the data root; those of a csv: [`vidor`]. A csv in NExT-QA's form, with the
//! answer's number, is read too, with its times if they lie beside it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{At, Record, choices, lenient, parse, times};
use crate::{Example, Fault, Medium};

/// Names that differ between the forms are fields of their own, since a record may carry both.
#[derive(Deserialize)]
pub(super) struct Question {
    #[serde(default, deserialize_with = "lenient::any")]
    id: Option<String>,
    #[serde(default, deserialize_with = "lenient::any")]
    qid: Option<String>,
    #[serde(default, deserialize_with = "lenient::any")]
    video_id: Option<String>,
    video: Option<PathBuf>,
    video_path: Option<PathBuf>,
    question: String,
    options: Option<Vec<String>>,
    a0: Option<String>,
    a1: Option<String>,
    a2: Option<String>,
    a3: Option<String>,
    a4: Option<String>,
    #[serde(deserialize_with = "lenient::text")]
    answer: String,
    glue: Option<Vec<[f64; 2]>>,
    time_clues: Option<Vec<[f64; 2]>>,
    qtype: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl Record for Question {
    fn examples(mut self, at: &At<'_>) -> Result<Vec<Example>, Fault> {
        let example = Example {
            question: std::mem::take(&mut self.question),
            kind: self.qtype.take().or(self.kind.take()).unwrap_or_default(),
            source: "NExT-GQA".to_owned(),
            ..Example::default()
        };
        Ok(vec![if self.a0.is_some() { self.of_table(example, at)? } else { self.of_one_file(example, at)? }])
    }
}

impl Question {
    fn of_one_file(self, example: Example, at: &At<'_>) -> Result<Example, Fault> {
        let video = lenient::required("video_path", self.video_path.or(self.video))?;
        let options = choices::texts(lenient::required("options", self.options)?);
        let spans = match (self.time_clues, self.glue) {
            (Some(clues), _) => times::spans("time_clues", clues)?,
            (None, glue) => times::spans("glue", lenient::required("glue", glue)?)?,
        };
        let answer = match self.answer.trim().parse() {
            Ok(index) => choices::at("answer", index, &options)?,
            Err(_) => choices::named("answer", &self.answer, &options)?,
        };
        let id = self.id.or_else(|| self.qid.map(|qid| of_video(&video, qid))).unwrap_or_else(|| at.id());
        Ok(Example { id, media: vec![Medium::video(video)], options, answer, spans, ..example })
    }

    fn of_table(self, example: Example, at: &At<'_>) -> Result<Example, Fault> {
        // The official table says `video_id` and has the answer's text; NExT-QA's `video` and its number from 0.
        let is_official = self.video_id.is_some();
        let video = self.video_id.or_else(|| Some(self.video?.to_str()?.to_owned()));
        let video = lenient::required("video_id", video)?;
        let qid = lenient::required("qid", self.qid)?;
        let options = [("a0", self.a0), ("a1", self.a1), ("a2", self.a2), ("a3", self.a3), ("a4", self.a4)];
        let options =
            options.into_iter().map(|(name, text)| lenient::required(name, text)).collect::<Result<Vec<_>, _>>()?;
        let answer = match self.answer.trim().parse() {
            Ok(index) if !is_official => choices::at("answer", index, &options)?,
            _ => choices::of_text("answer", &self.answer, &options)?,
        };
        let spans = spans(&video, &qid, is_official, at)?;
        let media = vec![vidor(&video, at)?];
        Ok(Example { id: format!("{video}_{qid}"), media, answer, options, spans, ..example })
    }
}

/// The video of this name: `NExTVideo/1106/4010069381.mp4` as VidOR's folders have it where `map_vid_vidorID.json` lies
/// beside the records, else `NExTVideo/4010069381.mp4`.
pub(super) fn vidor(video: &str, at: &At<'_>) -> Result<Medium, Fault> {
    const MAP: &str = "map_vid_vidorID.json";
    let known = at.beside(MAP)?;
    let unknown = || Fault::new("video", format!("expected a video of {MAP}, found {video:?}"));
    let path = known.as_ref().map_or(Ok(video), |known| known[video].as_str().ok_or_else(unknown))?;
    Ok(Medium::video(format!("NExTVideo/{path}.mp4")))
}

/// When the answer to a video's question is to be seen, by the file of times that belongs to the table.
fn spans(video: &str, qid: &str, is_official: bool, at: &At<'_>) -> Result<Vec<[f64; 2]>, Fault> {
    let name = format!("gsub_{}.json", at.stem());
    let Some(times) = at.beside(&name)? else {
        let is_needed = is_official && !at.stem().starts_with("train");
        let reason = || Fault::new("", format!("expected {name} beside it, with the times; found no such file"));
        return if is_needed { Err(reason()) } else { Ok(Vec::new()) };
    };
    let place = format!("{name}: {video}.location.{qid}");
    let found = times[video]["location"].get(qid).cloned();
    let found = found.ok_or_else(|| Fault::new("qid", format!("expected {place}, found none")))?;
    let found: Vec<[f64; 2]> = parse(found).map_err(|fault| Fault::new(&place, fault.to_string()))?;
    // Some begin a tenth of a second before the video, by rounding.
    times::spans(&place, found.into_iter().map(|[start, end]| [start.max(0.0), end]).collect())
}

/// `qid` numbers the questions of a video; some writers put the video's name before it.
fn of_video(video: &Path, qid: String) -> String {
    let name = video.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if qid.starts_with(name) { qid } else { format!("{name}_{qid}") }
}
