//! foveate's own records: a JSON object a line.

use std::path::PathBuf;

use foveate_reward::ProblemType;
use serde::Deserialize;

use super::{At, Record, choices};
use crate::{Example, Fault, Medium};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    id: String,
    #[serde(default)]
    video: OneOrMany,
    /// The part of each video that the question is about, seconds; null for all of it.
    #[serde(default)]
    clip: Vec<Option<[f64; 2]>>,
    #[serde(default)]
    image: OneOrMany,
    question: String,
    #[serde(default)]
    options: Vec<String>,
    answer: String,
    problem_type: Option<ProblemType>,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    duration: String,
    #[serde(default)]
    spans: Vec<[f64; 2]>,
    #[serde(default)]
    source: String,
    #[serde(default)]
    split: String,
    is_negated: Option<bool>,
    target: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(untagged, expecting = "expected a path or a list of paths")]
enum OneOrMany {
    #[default]
    None,
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl OneOrMany {
    fn paths(self) -> Vec<PathBuf> {
        match self {
            Self::None => Vec::new(),
            Self::One(path) => vec![path],
            Self::Many(paths) => paths,
        }
    }
}

impl Record for Question {
    fn examples(self, _: &At<'_>) -> Result<Vec<Example>, Fault> {
        let videos = self.video.paths();
        if !self.clip.is_empty() && self.clip.len() != videos.len() {
            let found = format!("expected a part for each of {} videos, found {}", videos.len(), self.clip.len());
            return Err(Fault::new("clip", found));
        }
        let clips = self.clip.into_iter().chain(std::iter::repeat(None));
        let media = videos.into_iter().zip(clips).map(|(path, clip)| Medium::Video { path, clip });
        let media = media.chain(self.image.paths().into_iter().map(Medium::Image)).collect();
        Ok(vec![Example {
            id: self.id,
            media,
            question: self.question,
            options: choices::texts(self.options),
            answer: self.answer,
            problem: self.problem_type.unwrap_or_default(),
            kind: self.kind,
            duration: self.duration,
            spans: self.spans,
            source: self.source,
            split: self.split,
            negated: self.is_negated,
            target: self.target,
        }])
    }
}
