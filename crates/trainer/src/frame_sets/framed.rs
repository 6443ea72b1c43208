//! Examples whose one video is given as single frames.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use foveate_policy::Media;

use crate::config::Config;
use crate::data::{Example, MediaReader, Medium, Records, Source, View};

/// A question about candidate frames of a video.
#[derive(Debug, Clone)]
pub struct Framed {
    /// The record.
    pub example: Example,
    /// Its number in the file, counted from 0.
    pub record: usize,
    /// The candidate frames, each an image of its own.
    pub frames: Vec<Media>,
    /// Their times, in seconds.
    pub times: Vec<f64>,
    /// Length of the video in seconds.
    pub duration: f64,
}

/// A file of records as a source of such.
#[derive(Debug)]
pub struct FramedExamples {
    records: Arc<Records>,
    media: MediaReader,
}

impl FramedExamples {
    /// Examples whose candidate frames are those that training would sample for the model.
    ///
    /// # Errors
    /// A user error: the model's preprocessing cannot be read.
    pub fn new(records: Arc<Records>, config: &Config, model: &Path) -> Result<Self> {
        let media = MediaReader::new(&View::training(config, model), &config.data, records.media_root())?;
        Ok(Self { records, media })
    }

    fn frames(&self, example: Example, record: usize) -> Result<Framed> {
        let [Medium::Video { path, clip }] = example.media.as_slice() else {
            anyhow::bail!("expected one video to pick frames of, found {} media", example.media.len());
        };
        let options = example.options.len();
        ensure!(options >= 2, "expected a question with at least 2 options, found {options}");
        let apart = self.media.frames_apart(path, *clip)?;
        Ok(Framed {
            record,
            frames: apart.frames.into_iter().map(|patches| Media::Image(Arc::new(patches))).collect(),
            times: apart.times,
            duration: apart.duration,
            example,
        })
    }
}

impl Source for FramedExamples {
    type Item = Framed;

    fn name(&self, record: usize) -> String {
        self.records.place(record)
    }

    fn prepare(&self, record: usize) -> Result<Framed> {
        let example = self.records.get(record)?;
        let id = example.id.clone();
        self.frames(example, record).with_context(|| id)
    }
}
