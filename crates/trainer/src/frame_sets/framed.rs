//! Examples whose one video is given as single frames.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use foveate_data::letter;
use foveate_policy::{Media, PolicyError};

use crate::answer::answered;
use crate::config::{Config, DataTable, OnBadExample};
use crate::data::{
    Apart, Example, Loader, LoaderOptions, LoaderState, MediaReader, Medium, Order, Records, Source, View, first,
};
use crate::error::{UserContext, one_line};
use crate::run::Stop;
use crate::stats::event_frames;

/// A question about candidate frames of a video.
#[derive(Debug, Clone)]
pub struct Framed {
    /// The record.
    pub example: Example,
    /// Its number in the file, counted from 0.
    pub record: usize,
    /// The candidate frames, each an image of its own.
    pub frames: Vec<Media>,
    /// Their places in the video, counted from 0.
    pub indices: Vec<usize>,
    /// Their times, in seconds.
    pub times: Vec<f64>,
    /// Length of the video in seconds.
    pub duration: f64,
}

impl Framed {
    /// A record's question about these frames.
    pub fn new(example: Example, record: usize, apart: Apart) -> Self {
        let Apart { frames, indices, times, duration } = apart;
        let frames = frames.into_iter().map(|patches| Media::Image(Arc::new(patches))).collect();
        Self { example, record, frames, indices, times, duration }
    }

    /// The right option's number.
    ///
    /// # Errors
    /// The answer is not one letter.
    pub fn gold(&self) -> Result<usize> {
        let example = &self.example;
        let gold = (0..example.options.len()).position(|option| letter(option) == example.answer);
        gold.with_context(|| format!("answer: expected one of the options, found {:?}", example.answer))
    }

    /// Which candidates show the event that is asked about, where the data says when it happens.
    pub fn event(&self) -> Option<Vec<bool>> {
        let (times, spans) = (&self.times, &self.example.spans);
        (!spans.is_empty()).then(|| event_frames(times, times.len(), spans))
    }
}

/// What is done of a file of examples.
#[derive(Debug, Default)]
pub struct Part<'a> {
    /// The first so many; 0: all.
    pub limit: usize,
    /// Those before this are done already.
    pub from: LoaderState,
    /// Ends it early when it is asked to.
    pub stop: Option<&'a Stop>,
}

/// A file of records as a source of such.
#[derive(Debug)]
pub struct FramedExamples {
    records: Arc<Records>,
    media: MediaReader,
}

impl FramedExamples {
    /// Examples whose candidate frames are those that are sampled for this view.
    ///
    /// # Errors
    /// A user error: the model's preprocessing cannot be read.
    pub fn new(records: Arc<Records>, view: &View<'_>, config: &Config) -> Result<Self> {
        let media = MediaReader::new(view, &config.data, records.media_root())?;
        Ok(Self { records, media })
    }

    /// Those to train on.
    ///
    /// # Errors
    /// A user error: `data.train` is not given, or the records or the model's preprocessing cannot be read.
    pub fn train(config: &Config, model: &Path) -> Result<Self> {
        let file = config.data.train.as_deref().context("data.train is not given").user()?;
        Self::new(config.data.training_records(file)?.into(), &View::training(config, model), config)
    }

    /// Those that are held out.
    ///
    /// # Errors
    /// As [`FramedExamples::train`], for this file.
    pub fn evaluation(file: &Path, config: &Config, model: &Path) -> Result<Self> {
        Self::new(config.data.test_records(file)?.into(), &View::evaluation(config, model), config)
    }

    /// Hands the examples of `part` to `each`, one at a time and with where the loader stands after it, and shows how many
    /// are done. One that cannot be read, or put to a model, is left out if bad examples are to be; gives the number of
    /// those.
    ///
    /// # Errors
    /// Those of `each`, or a bad example.
    pub fn visit(
        self,
        data: &DataTable,
        part: Part<'_>,
        mut each: impl FnMut(Framed, &LoaderState) -> Result<()>,
    ) -> Result<usize> {
        let Part { limit, from, stop } = part;
        let count = first(self.count(), limit);
        // Few: the candidates of a long video are large.
        let options = LoaderOptions { depth: 4, threads: data.threads, on_bad: data.on_bad_example };
        let mut loader = Loader::new(self, Order::Once(count), options, from)?;
        let (mut left_out, mut shown) = (0, answered(loader.state().position, count));
        while !stop.is_some_and(Stop::requested) {
            let Some(framed) = loader.batch(1)?.examples.pop() else { break };
            let id = framed.example.id.clone();
            if let Err(error) = each(framed, loader.state()).context(id) {
                left_out += usize::from(passed_over(error, data.on_bad_example)?);
            }
            shown(loader.state().position);
        }
        Ok(left_out + loader.state().bad.len())
    }

    fn frames(&self, example: Example, record: usize) -> Result<Framed> {
        let [Medium::Video { path, clip }] = example.media.as_slice() else {
            anyhow::bail!("expected one video to pick frames of, found {} media", example.media.len());
        };
        let options = example.options.len();
        ensure!(options >= 2, "expected a question with at least 2 options, found {options}");
        let apart = self.media.frames_apart(path, *clip)?;
        let framed = Framed::new(example, record, apart);
        framed.gold()?;
        Ok(framed)
    }
}

impl Source for FramedExamples {
    type Item = Framed;

    fn count(&self) -> usize {
        self.records.len()
    }

    fn name(&self, record: usize) -> String {
        self.records.place(record)
    }

    fn prepare(&self, record: usize) -> Result<Framed> {
        let example = self.records.get(record)?;
        let id = example.id.clone();
        self.frames(example, record).with_context(|| id)
    }
}

/// Whether a question that cannot be put to a model is passed over: it is named, and the next one takes its place.
///
/// # Errors
/// The error itself, if it is another one, or if a bad example is to end the run.
pub fn passed_over(error: anyhow::Error, on_bad: OnBadExample) -> Result<bool> {
    let put = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref::<PolicyError>(), Some(PolicyError::Prompt(_)))
    };
    if on_bad == OnBadExample::Skip && error.chain().any(put) {
        tracing::warn!("{}; left out", one_line(&error));
        return Ok(true);
    }
    Err(error)
}
