//! foveate's own records: a JSON object a line, read and written.

use std::path::{Path, PathBuf};

use foveate_reward::ProblemType;
use serde::{Deserialize, Serialize};

use super::{At, Record, choices, times};
use crate::{Example, Fault, Medium, Subtitles};

/// A record; what is empty is left out where it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    id: String,
    #[serde(default, skip_serializing_if = "Paths::is_empty")]
    video: Paths,
    /// The part of each video that the question is about, seconds; null for all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    clip: Vec<Option<[f64; 2]>>,
    #[serde(default, skip_serializing_if = "Paths::is_empty")]
    image: Paths,
    #[serde(skip_serializing_if = "Option::is_none")]
    subtitles: Option<Subtitles>,
    question: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    options: Vec<String>,
    answer: String,
    #[serde(default)]
    problem_type: ProblemType,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    duration: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    spans: Vec<[f64; 2]>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    source: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    split: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_negated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

/// One path or several.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a path or a list of paths")]
enum Paths {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl Default for Paths {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Paths {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Many(paths) if paths.is_empty())
    }

    fn all(self) -> Vec<PathBuf> {
        match self {
            Self::One(path) => vec![path],
            Self::Many(paths) => paths,
        }
    }
}

impl Record for Question {
    fn examples(self, _: &At<'_>) -> Result<Vec<Example>, Fault> {
        let videos = self.video.all();
        if !self.clip.is_empty() && self.clip.len() != videos.len() {
            let found = format!("expected a part for each of {} videos, found {}", videos.len(), self.clip.len());
            return Err(Fault::new("clip", found));
        }
        let mut clips = Vec::new();
        for (index, clip) in self.clip.into_iter().enumerate() {
            clips.push(clip.map(|clip| times::span(&format!("clip[{index}]"), clip)).transpose()?);
        }
        let clips = clips.into_iter().chain(std::iter::repeat(None));
        let media = videos.into_iter().zip(clips).map(|(path, clip)| Medium::Video { path, clip });
        let media = media.chain(self.image.all().into_iter().map(Medium::Image)).collect();
        let options = choices::texts(self.options);
        Ok(vec![Example {
            id: self.id,
            media,
            subtitles: self.subtitles,
            question: self.question,
            answer: choices::letters_or_text("answer", &self.answer, self.problem_type, &options)?,
            options,
            problem: self.problem_type,
            kind: self.kind,
            duration: self.duration,
            spans: times::spans("spans", self.spans)?,
            source: self.source,
            split: self.split,
            negated: self.is_negated,
            description: self.description,
            target: self.target,
        }])
    }
}

/// The example as a line of foveate jsonl, without its end; media as they are named under `root`.
///
/// # Errors
/// An image stands before a video, which a record cannot say.
pub fn line(example: &Example, root: &Path) -> Result<String, Fault> {
    let named = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
    let (mut video, mut clip, mut image) = (Vec::new(), Vec::new(), Vec::new());
    for medium in &example.media {
        let path = named(medium.path());
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
    let Example { id, question, options, answer, kind, duration, spans, source, split, .. } = example.clone();
    let record = Question {
        id,
        video: Paths::Many(video),
        clip,
        image: Paths::Many(image),
        subtitles: example.subtitles.clone().map(|file| Subtitles { path: named(&file.path), ..file }),
        question,
        options,
        answer,
        problem_type: example.problem,
        kind,
        duration,
        spans,
        source,
        split,
        is_negated: example.negated,
        description: example.description.clone(),
        target: example.target.clone(),
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
                subtitles: Some(Subtitles { path: root.join("a.srt"), begin: 1.5 }),
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
                description: Some("What falls, and when?".into()),
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
