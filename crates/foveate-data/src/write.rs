//! Examples as foveate's own records.

use std::path::Path;

use foveate_reward::ProblemType;
use serde::Serialize;

use crate::{Example, Fault, Medium};

/// A record as it is written; what is empty is left out.
#[derive(Serialize)]
struct Record<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    video: Vec<&'a Path>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    clip: Vec<Option<[f64; 2]>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    image: Vec<&'a Path>,
    question: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    options: &'a [String],
    answer: &'a str,
    problem_type: ProblemType,
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    duration: &'a str,
    #[serde(skip_serializing_if = "<[[f64; 2]]>::is_empty")]
    spans: &'a [[f64; 2]],
    #[serde(skip_serializing_if = "str::is_empty")]
    source: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    split: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_negated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
}

/// The example as a line of foveate jsonl, without its end; media as they are named under `root`.
///
/// # Errors
/// An image stands before a video, which a record cannot say.
pub fn line(example: &Example, root: &Path) -> Result<String, Fault> {
    let (mut video, mut clip, mut image) = (Vec::new(), Vec::new(), Vec::new());
    for medium in &example.media {
        let path = medium.path().strip_prefix(root).unwrap_or(medium.path());
        match medium {
            Medium::Image(_) => image.push(path),
            Medium::Video { .. } if !image.is_empty() => {
                return Err(Fault::new("media", "expected videos before images"));
            }
            Medium::Video { clip: part, .. } => {
                video.push(path);
                clip.push(*part);
            }
        }
    }
    if clip.iter().all(Option::is_none) {
        clip.clear();
    }
    let record = Record {
        id: &example.id,
        video,
        clip,
        image,
        question: &example.question,
        options: &example.options,
        answer: &example.answer,
        problem_type: example.problem,
        kind: &example.kind,
        duration: &example.duration,
        spans: &example.spans,
        source: &example.source,
        split: &example.split,
        is_negated: example.negated,
        target: example.target.as_deref(),
    };
    serde_json::to_string(&record).map_err(|error| Fault::new("", error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::{Format, Records};

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let part = Medium::Video { path: root.join("b.mp4"), clip: Some([1.0, 2.5]) };
        let examples = [
            Example {
                id: "one".into(),
                media: vec![Medium::video(root.join("clips/a.mp4")), part, Medium::Image(root.join("c.png"))],
                question: "What \"falls\"?\n".into(),
                options: vec!["a cup".into(), "A. B.".into()],
                answer: "B".into(),
                problem: ProblemType::MultipleChoice,
                kind: "falling".into(),
                duration: "short".into(),
                spans: vec![[0.5, 1.5]],
                source: "ours".into(),
                split: "train".into(),
                negated: Some(true),
                target: Some("<answer>B</answer>".into()),
            },
            Example { id: "two".into(), problem: ProblemType::Regression, answer: "3".into(), ..Example::default() },
        ];
        let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile_in(root).unwrap();
        let lines: Vec<String> = examples.iter().map(|example| line(example, root).unwrap()).collect();
        file.write_all(lines.join("\n").as_bytes()).unwrap();
        let records = Records::open(file.path(), Format::Foveate, None).unwrap();
        let read: Vec<Example> = (0..records.len()).map(|index| records.get(index).unwrap()).collect();
        assert_eq!(read, examples);
    }
}
