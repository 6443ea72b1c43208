//! `trainer attention`: where the tokens of completions look, frame by frame, for one video or a recorded group.

mod ask;
mod draw;
mod page;
mod replay;

use std::path::Path;

use anyhow::{Result, ensure};
use image::RgbImage;
use ndarray::{Array1, Array2, Axis};

use crate::cli::AttentionArgs;
use crate::data::Shown;
use crate::error::UserContext;
use crate::figures::visible;
use crate::run::write_atomically;
use crate::stats::event_frames;

/// Asks the policy or reads the recorded group, then writes a page, a table and a picture of each completion.
///
/// # Errors
/// A user error in what is asked for; or the files cannot be written.
pub fn run(args: &AttentionArgs) -> Result<()> {
    let looked = match &args.rollout {
        Some(file) => replay::read(args, file)?,
        None => ask::ask(args)?,
    };
    looked.check().user()?;
    fs_err::create_dir_all(&args.output).user()?;
    looked.write(&args.output)?;
    println!("{}", args.output.join(PAGE).display());
    Ok(())
}

const PAGE: &str = "attention.html";

/// Completions of one prompt and where their tokens look.
#[derive(Debug)]
struct Looked {
    /// Where they come from.
    source: String,
    /// The question with its options, a line each; empty if it is not known.
    question: Vec<String>,
    /// The right answer, if it is known.
    answer: Option<String>,
    /// The frames that attention is on.
    frames: Vec<Frame>,
    /// The completions.
    completions: Vec<Completion>,
}

/// A frame of the video: a temporal grid.
#[derive(Debug, Clone)]
struct Frame {
    /// The grid's first picture, if the video is at hand.
    picture: Option<RgbImage>,
    /// Time of that picture in seconds, if it is known.
    seconds: Option<f64>,
    /// Whether the true event is in it.
    event: bool,
}

/// A completion and its attention.
#[derive(Debug)]
struct Completion {
    /// Its place in the group.
    index: usize,
    /// Its tokens as people see them.
    tokens: Vec<String>,
    /// Attention mass of each token on each frame, `[T, F]`.
    attention: Array2<f32>,
    /// Its scores, if they are known.
    scores: Option<Scores>,
    /// Whether it was cut off at the longest length.
    truncated: bool,
}

#[derive(Debug, Clone, Copy)]
struct Scores {
    reward: f32,
    accuracy: f32,
}

impl Scores {
    /// APPO's own line between right and wrong; none for what could not be scored.
    fn right(&self) -> Option<bool> {
        (!self.accuracy.is_nan()).then_some(self.accuracy >= 0.5)
    }
}

impl Completion {
    /// Mean attention on each frame over tokens, `[F]`.
    fn mean(&self) -> Array1<f32> {
        self.attention.mean_axis(Axis(0)).unwrap_or_default()
    }

    fn right(&self) -> Option<bool> {
        self.scores.and_then(|scores| scores.right())
    }

    /// What it is, on one line.
    fn heading(&self) -> String {
        let mut heading = format!("Completion {}", self.index);
        if let Some(scores) = self.scores {
            let word = match scores.right() {
                Some(true) => "right",
                Some(false) => "wrong",
                None => "not scored",
            };
            heading += &format!(": {word}, accuracy {:.2}, reward {:.2}", scores.accuracy, scores.reward);
        }
        heading + &format!(", {} tokens{}", self.tokens.len(), if self.truncated { ", truncated" } else { "" })
    }
}

impl Frame {
    /// Frames of which nothing but their number is known.
    fn unknown(count: usize) -> Vec<Self> {
        vec![Self { picture: None, seconds: None, event: false }; count]
    }

    /// The frames of a video whose event is in those spans of seconds.
    fn of(video: Shown, spans: &[[f64; 2]]) -> Vec<Self> {
        let grids = video.pictures.len();
        let event = event_frames(&video.times, grids, spans);
        let merged = video.times.len().div_ceil(grids.max(1));
        let times: Vec<f64> = video.times.iter().step_by(merged.max(1)).copied().collect();
        let frame =
            |(grid, picture)| Self { picture: Some(picture), seconds: times.get(grid).copied(), event: event[grid] };
        video.pictures.into_iter().enumerate().map(frame).collect()
    }

    fn label(&self, index: usize) -> String {
        match self.seconds {
            Some(seconds) => format!("{seconds:.2} s"),
            None => index.to_string(),
        }
    }
}

impl Looked {
    fn check(&self) -> Result<()> {
        ensure!(!self.frames.is_empty(), "{}: no video, so there is no attention to frames", self.source);
        ensure!(!self.completions.is_empty(), "{}: no completion", self.source);
        Ok(())
    }

    fn write(&self, output: &Path) -> Result<()> {
        for (completion, picture) in self.completions.iter().zip(self.heat_maps()?) {
            write_atomically(&output.join(format!("completion-{}.png", completion.index)), &picture.png()?)?;
        }
        write_atomically(&output.join("frames.png"), &self.frame_chart().png()?)?;
        write_atomically(&output.join("attention.csv"), &self.table().csv()?)?;
        write_atomically(&output.join(PAGE), self.page()?.html().as_bytes())
    }
}

/// Tokens as people see them.
fn tokens(text: &foveate_policy::TextProcessor, ids: &[i64]) -> Result<Vec<String>> {
    ids.iter().map(|id| Ok(visible(&text.spelling(*id)?))).collect()
}
