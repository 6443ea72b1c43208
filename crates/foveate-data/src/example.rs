//! One question about media, whatever data set it comes from.

use std::path::{Component, Path, PathBuf};

use foveate_reward::{Answer, ProblemType};

use crate::{Fault, Subtitles};

/// One question about videos and images.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Example {
    /// Unique name in its file.
    pub id: String,
    /// Videos and images, in the order in which they stand before the text; none: a question about text alone.
    pub media: Vec<Medium>,
    /// What is said in the video, where the data set has it; a prompt may tell it.
    pub subtitles: Option<Subtitles>,
    /// The question.
    pub question: String,
    /// Texts of the options, without their letters: the first is A. None for an open question.
    pub options: Vec<String>,
    /// Letters ("B", "A,C") or text.
    pub answer: String,
    /// How an answer is judged.
    pub problem: ProblemType,
    /// Type of question, or task of a benchmark; results are also given for each.
    pub kind: String,
    /// How long the video is in the words of its benchmark ("short"); results are also given for each.
    pub duration: String,
    /// Where in the video the answer is to be seen, in seconds; none if that is not known.
    pub spans: Vec<[f64; 2]>,
    /// Data set it comes from.
    pub source: String,
    /// Part of the data set.
    pub split: String,
    /// Whether question and answer were inverted; not known if none.
    pub negated: Option<bool>,
    /// What a description of the media is asked by, where the data set says; the question is then to be answered from that
    /// description alone.
    pub description: Option<String>,
    /// A whole completion to learn from (`sft`).
    pub target: Option<String>,
}

/// A video or image file.
#[derive(Debug, Clone, PartialEq)]
pub enum Medium {
    /// A video.
    Video {
        /// The file.
        path: PathBuf,
        /// The part that the question is about, seconds from the first frame; the whole video if none.
        clip: Option<[f64; 2]>,
    },
    /// An image.
    Image(PathBuf),
}

impl Medium {
    /// A whole video.
    pub fn video(path: impl Into<PathBuf>) -> Self {
        Self::Video { path: path.into(), clip: None }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Video { path, .. } | Self::Image(path) => path,
        }
    }

    /// The same with its path taken from `root`.
    ///
    /// # Errors
    /// The path leads out of `root`.
    fn under(self, root: &Path) -> Result<Self, Fault> {
        Ok(match self {
            Self::Video { path, clip } => Self::Video { path: inside(root, &path)?, clip },
            Self::Image(path) => Self::Image(inside(root, &path)?),
        })
    }
}

/// `path` taken from `root`, without `.` and `..`; an absolute path must lie in `root`.
fn inside(root: &Path, path: &Path) -> Result<PathBuf, Fault> {
    let mut found = root.to_owned();
    // A root may be given relative to the current folder, and a path in it as an absolute one.
    let whole = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    let relative = path.strip_prefix(root).or_else(|_| path.strip_prefix(&whole)).unwrap_or(path);
    let mut depth = 0usize;
    for component in relative.components() {
        match component {
            Component::Normal(name) => {
                found.push(name);
                depth += 1;
            }
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => {
                found.pop();
                depth -= 1;
            }
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                let reason = format!("{} leads out of the data root {}", path.display(), root.display());
                return Err(Fault::new("media", reason));
            }
        }
    }
    Ok(found)
}

impl Example {
    /// The same with its files taken from `root`.
    ///
    /// # Errors
    /// A path leads out of `root`.
    pub(crate) fn under(self, root: &Path) -> Result<Self, Fault> {
        let subtitles =
            self.subtitles.map(|file| Ok(Subtitles { path: inside(root, &file.path)?, ..file })).transpose()?;
        let media = self.media.into_iter().map(|medium| medium.under(root)).collect::<Result<_, _>>()?;
        Ok(Self { media, subtitles, ..self })
    }

    /// What its completions are judged by.
    pub fn gold(&self) -> Answer {
        Answer::new(&self.answer).of(self.problem).with_times(self.spans.clone())
    }
}

/// The letter of an option, counted from 0: A to Z, then AA, AB and so on.
pub fn letter(index: usize) -> String {
    let last = char::from(b'A' + (index % 26) as u8);
    if index < 26 { last.to_string() } else { letter(index / 26 - 1) + &last.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_go_on_after_z() {
        assert_eq!([0, 25, 26, 51, 52, 701, 702].map(letter), ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]);
    }

    #[test]
    fn a_path_that_leaves_the_root_is_refused() {
        let root = Path::new("/data/set");
        for (path, found) in [("a/b.mp4", "a/b.mp4"), ("./a/../b.mp4", "b.mp4"), ("/data/set/c.mp4", "c.mp4")] {
            assert_eq!(inside(root, Path::new(path)).unwrap(), root.join(found));
        }
        for path in ["../b.mp4", "a/../../b.mp4", "/etc/passwd", "/data/set/../b.mp4", "/data/settings/a.mp4"] {
            let fault = inside(root, Path::new(path)).unwrap_err();
            assert_eq!(fault.to_string(), format!("media: {path} leads out of the data root /data/set"));
        }
    }
}
