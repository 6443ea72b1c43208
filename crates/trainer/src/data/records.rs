//! Records of a foveate jsonl file, read one at a time by their place in the file.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;

use crate::error::{UserContext, user_error};

/// One question about a video.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Example {
    /// Unique name in its file.
    pub id: String,
    /// Videos and images, in the order in which they stand before the text; none: a question about text alone.
    pub media: Vec<MediaPath>,
    /// The question.
    pub question: String,
    /// `A. ...`, `B. ...`; none for an open question.
    pub options: Vec<String>,
    /// Letters ("B", "A,C") or text.
    pub answer: String,
    /// Type of question; results are also given for each.
    pub kind: String,
    /// Where in the video the answer is to be seen, in seconds; none if that is not known.
    pub spans: Vec<[f64; 2]>,
    /// Data set it comes from.
    pub source: String,
    /// Part of the data set.
    pub split: String,
    /// A whole completion to learn from (`sft`).
    pub target: Option<String>,
}

/// A video or image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaPath {
    /// A video.
    Video(PathBuf),
    /// An image.
    Image(PathBuf),
}

/// A record as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: String,
    #[serde(default)]
    video: OneOrMany,
    #[serde(default)]
    image: OneOrMany,
    question: String,
    #[serde(default)]
    options: Vec<String>,
    answer: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    spans: Vec<[f64; 2]>,
    #[serde(default)]
    source: String,
    #[serde(default)]
    split: String,
    target: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum OneOrMany {
    #[default]
    None,
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl OneOrMany {
    fn paths(self, root: &Path) -> Vec<PathBuf> {
        let paths = match self {
            Self::None => Vec::new(),
            Self::One(path) => vec![path],
            Self::Many(paths) => paths,
        };
        paths.into_iter().map(|path| root.join(path)).collect()
    }
}

/// A file of records. Only the place of each line is in memory.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    media_root: PathBuf,
    file: std::fs::File,
    /// Start of each line that is not blank, in bytes, and its number, counted from 1.
    lines: Vec<(u64, usize)>,
    /// Length of the file, in bytes.
    end: u64,
}

impl Records {
    /// Opens a file and finds its lines. Media paths are relative to `media_root`, or else to the file's folder.
    ///
    /// # Errors
    /// A user error: no such file, no record in it, or a first record that is none.
    pub fn open(path: &Path, media_root: Option<&Path>) -> Result<Self> {
        let (lines, end) = index(path).context("data").user()?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let records = Self {
            path: path.to_owned(),
            media_root: media_root.unwrap_or(folder).to_owned(),
            file: fs_err::File::open(path).user()?.into_file(),
            lines,
            end,
        };
        if records.is_empty() {
            return Err(user_error(format!("{}: no record in it", path.display())));
        }
        records.get(0).user()?;
        Ok(records)
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that media paths are relative to.
    pub fn media_root(&self) -> &Path {
        &self.media_root
    }

    /// File and line of a record, for messages.
    pub fn place(&self, index: usize) -> String {
        let line = self.lines.get(index).map_or(0, |(_, line)| *line);
        format!("{}:{line}", self.path.display())
    }

    /// Reads a record, counted from 0.
    ///
    /// # Errors
    /// The record is not one, named by file and line.
    pub fn get(&self, index: usize) -> Result<Example> {
        self.read(index).with_context(|| self.place(index))
    }

    /// The record of this name, looked for from the beginning; those that cannot be read are passed over.
    pub fn find(&self, id: &str) -> Option<Example> {
        (0..self.len()).filter_map(|index| self.read(index).ok()).find(|example| example.id == id)
    }

    fn read(&self, index: usize) -> Result<Example> {
        let start = self.start(index).ok_or_else(|| anyhow!("no record {index}"))?;
        let end = self.start(index + 1).unwrap_or(self.end);
        let mut line = vec![0; usize::try_from(end - start)?];
        self.file.read_exact_at(&mut line, start)?;
        let record: Record =
            serde_json::from_slice(line.trim_ascii()).map_err(|error| anyhow!("{}", reason(&error)))?;
        Ok(self.example(record))
    }

    fn start(&self, index: usize) -> Option<u64> {
        self.lines.get(index).map(|(start, _)| *start)
    }

    fn example(&self, record: Record) -> Example {
        let videos = record.video.paths(&self.media_root).into_iter().map(MediaPath::Video);
        let images = record.image.paths(&self.media_root).into_iter().map(MediaPath::Image);
        Example {
            id: record.id,
            media: videos.chain(images).collect(),
            question: record.question,
            options: record.options,
            answer: record.answer,
            kind: record.kind,
            spans: record.spans,
            source: record.source,
            split: record.split,
            target: record.target,
        }
    }
}

/// serde_json's message with the column only: the line is the file's, not the record's.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("{what}, column {}", error.column()),
        None => text,
    }
}

fn index(path: &Path) -> std::io::Result<(Vec<(u64, usize)>, u64)> {
    let mut reader = BufReader::new(fs_err::File::open(path)?);
    let (mut lines, mut at, mut number) = (Vec::new(), 0u64, 0usize);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok((lines, at));
        }
        number += 1;
        // A blank line belongs to the record before it, whose reading trims it.
        if !line.trim_ascii().is_empty() {
            lines.push((at, number));
        }
        at += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{exit_code, one_line};
    use crate::run::write_atomically;

    fn open(text: &str) -> (tempfile::TempDir, Result<Records>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.jsonl");
        write_atomically(&path, text.as_bytes()).unwrap();
        let records = Records::open(&path, None);
        (folder, records)
    }

    #[test]
    fn records_are_read_in_any_order_past_blank_lines() {
        let (folder, records) = open(concat!(
            r#"{"id": "a", "video": "v.mp4", "image": ["i.png"], "question": "q", "answer": "A", "spans": [[1, 2.5]]}"#,
            "\n\n",
            r#"{"id": "b", "question": "r", "options": ["A. x"], "answer": "A", "kind": "k", "target": "t"}"#,
        ));
        let records = records.unwrap();
        assert_eq!(records.len(), 2);
        let second = records.get(1).unwrap();
        assert_eq!((second.id.as_str(), second.target.as_deref()), ("b", Some("t")));
        assert_eq!(records.place(1), format!("{}/some.jsonl:3", folder.path().display()));
        let first = records.get(0).unwrap();
        assert_eq!(
            first.media,
            [MediaPath::Video(folder.path().join("v.mp4")), MediaPath::Image(folder.path().join("i.png"))]
        );
        assert_eq!(first.spans, [[1.0, 2.5]]);
        assert_eq!(records.find("b"), Some(second));
        assert_eq!(records.find("c"), None);
    }

    #[test]
    fn a_broken_record_is_named_by_file_and_line() {
        let (_folder, records) = open("{\"id\": \"a\", \"question\": \"q\", \"answer\": \"A\"}\n{\"id\": \"b\"}\n");
        let error = records.unwrap().get(1).unwrap_err();
        assert!(one_line(&error).ends_with("some.jsonl:2: missing field `question`, column 11"), "{error:#}");
    }

    #[test]
    fn a_file_that_is_missing_empty_or_something_else_is_the_users_to_mend() {
        for text in ["", "not json", "{\"id\": \"a\", \"vidoe\": \"x\"}"] {
            let (_folder, records) = open(text);
            assert_eq!(exit_code(&records.unwrap_err()), 2);
        }
        assert_eq!(exit_code(&Records::open(Path::new("/no/such.jsonl"), None).unwrap_err()), 2);
    }
}
