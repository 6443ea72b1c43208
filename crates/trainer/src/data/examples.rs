//! Records made ready for the policy: media decoded, prompt tokenized.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use foveate_policy::{Content, Media, Message, ModelConfig, Prompt, TextProcessor};

use foveate_data::{Prompts, Seen, Turn};
use foveate_reward::ProblemType;

use super::{Example, MediaReader, Medium, Records, Source};
use crate::cli::Ablation;
use crate::config::{Config, FramesTable, PixelsTable, prompts};
use crate::error::{UserContext, user_error};
use crate::frame_sets::Picked;
use crate::stats::event_frames;

/// An example ready for the policy.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The record.
    pub example: Example,
    /// Its number in the file, counted from 0.
    pub record: usize,
    /// What is asked, after the media.
    pub asked: String,
    /// The prompt with its media.
    pub prompt: Prompt,
    /// Frames, height and width in pixels of each medium as the policy sees it.
    pub shapes: Vec<[usize; 3]>,
    /// Which frames (temporal grids) of its one video hold the event, `[F]`; empty where the data does not say.
    pub event: Vec<bool>,
}

impl Prepared {
    /// Whether the data says when the event happens.
    pub fn knows_event(&self) -> bool {
        self.event.contains(&true)
    }
}

/// A file of records as a source of prepared examples.
#[derive(Debug)]
pub struct Examples {
    records: Arc<Records>,
    preparer: Preparer,
    ablation: Option<Ablation>,
    described: Option<HashMap<String, String>>,
}

/// Which examples are to be answered, and what is shown of them.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The examples.
    pub file: &'a Path,
    /// What is taken from their media.
    pub ablation: Option<Ablation>,
    /// Words that stand for the media of each example, by its name.
    pub described: Option<&'a HashMap<String, String>>,
}

impl<'a> Asked<'a> {
    /// The examples as they are.
    pub fn whole(file: &'a Path) -> Self {
        Self { file, ablation: None, described: None }
    }
}

/// Makes examples ready for a policy, wherever they come from.
#[derive(Debug)]
pub struct Preparer {
    media: MediaReader,
    text: Arc<TextProcessor>,
    prompts: Prompts,
    longest: usize,
    picked: Option<Picked>,
    /// Whether completions are judged, so that prompts must ask for what is.
    judged: bool,
    /// Whether the first of a video's frames is all that is shown.
    first_only: bool,
    /// Whether it was said that subtitles are missing.
    told: AtomicBool,
}

/// What is seen of examples' videos, and by whom.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The model's directory.
    pub model: &'a Path,
    /// Frames of a video.
    pub frames: &'a FramesTable,
    /// Pixels of a frame.
    pub pixels: &'a PixelsTable,
}

impl<'a> View<'a> {
    /// What training sees.
    pub fn training(config: &'a Config, model: &'a Path) -> Self {
        Self { model, frames: &config.data.frames, pixels: &config.data.pixels }
    }

    /// What evaluation sees.
    pub fn evaluation(config: &'a Config, model: &'a Path) -> Self {
        Self { model, frames: &config.eval.frames, pixels: &config.eval.pixels }
    }
}

impl Examples {
    /// Examples of records under a configuration.
    ///
    /// # Errors
    /// A user error: the model's preprocessing cannot be read, or the prompt is wrong.
    pub fn of(records: Arc<Records>, view: &View<'_>, config: &Config, text: Arc<TextProcessor>) -> Result<Self> {
        let preparer = Preparer::new(view, config, text, records.media_root())?;
        Ok(Self { records, preparer, ablation: None, described: None })
    }

    /// The examples to train on.
    ///
    /// # Errors
    /// A user error: `data.train` is not given, or the records or the model's preprocessing cannot be read.
    pub fn train(config: &Config, model: &Path, text: Arc<TextProcessor>) -> Result<Self> {
        let file = config.data.train.as_deref().context("data.train is not given").user()?;
        Self::of(config.data.training_records(file)?.into(), &View::training(config, model), config, text)
    }

    /// The examples that are to be answered, seen as evaluation sees them.
    ///
    /// # Errors
    /// A user error: the records or the model's preprocessing cannot be read.
    pub fn evaluation(asked: &Asked<'_>, config: &Config, model: &Path, text: Arc<TextProcessor>) -> Result<Self> {
        let ablation = asked.ablation;
        let first_only = ablation == Some(Ablation::FirstFrame);
        let view = View::evaluation(config, model);
        let examples = Self::of(config.data.test_records(asked.file)?.into(), &view, config, text)?;
        let preparer = Preparer { first_only, ..examples.preparer };
        Ok(Self { ablation, described: asked.described.cloned(), preparer, ..examples })
    }

    /// The same for completions that are judged: a prompt that does not ask for what is judged makes an example bad.
    pub fn judged(self) -> Self {
        Self { preparer: Preparer { judged: true, ..self.preparer }, ..self }
    }

    /// The media of the next example that shows other media of the same kinds.
    fn other_media(&self, record: usize, example: &Example) -> Result<Vec<Medium>> {
        if example.media.is_empty() {
            return Ok(Vec::new());
        }
        let all = self.records.len();
        let mut others = (1..all).filter_map(|step| self.records.get((record + step) % all).ok());
        let is_video = |medium: &Medium| matches!(medium, Medium::Video { .. });
        let differs = |other: &Example| {
            let kinds = |media: &[Medium]| media.iter().map(is_video).collect::<Vec<_>>();
            let mut pairs = other.media.iter().zip(&example.media);
            kinds(&other.media) == kinds(&example.media) && pairs.all(|(other, own)| other.path() != own.path())
        };
        Ok(others.find(differs).context("no other example shows other media of the same kinds")?.media)
    }

    /// The records.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// The model's tokens.
    pub fn text(&self) -> &Arc<TextProcessor> {
        &self.preparer.text
    }
}

impl Preparer {
    /// For examples whose prepared videos are named relative to `root`.
    ///
    /// # Errors
    /// A user error: the model's preprocessing cannot be read, or the prompt's template is wrong.
    pub fn new(view: &View<'_>, config: &Config, text: Arc<TextProcessor>, root: &Path) -> Result<Self> {
        let data = &config.data;
        let picked = Picked::of(view, config, root)?;
        // A selector's candidates are what it was trained on.
        let frames = picked.as_ref().map_or(view.frames, Picked::candidates);
        Ok(Self {
            media: MediaReader::new(&View { frames, ..*view }, data, root)?,
            text,
            prompts: prompts("data.prompt", &data.prompt)?,
            longest: data.max_prompt_tokens.min(room(view.model, config)?),
            picked,
            judged: false,
            first_only: false,
            told: AtomicBool::new(false),
        })
    }

    /// The example with its prompt and what its media show.
    ///
    /// # Errors
    /// A medium cannot be read, or the prompt is too long.
    pub fn ready(&self, example: Example) -> Result<Prepared> {
        let media = example.media.iter().map(|medium| self.read(&example, medium)).collect::<Result<Vec<_>>>()?;
        self.tell_of_subtitles(&example);
        let event = event(&example, &media);
        let shapes = media.iter().map(|medium| self.media.shape(medium.patches())).collect();
        let turn = self.prompts.fill(&example, seen(&example, &media))?;
        if self.judged && example.problem == ProblemType::Grounding && !turn.user.contains("<time>") {
            bail!("the prompt does not ask for a time between <time> and </time>: data.prompt=when does");
        }
        let asked = turn.user.clone();
        let prompt = self.text.prompt(&messages(turn, &media), media)?;
        if prompt.ids.len() > self.longest {
            bail!(
                "the prompt has {} tokens, more than the {} that data.max_prompt_tokens and the model allow",
                prompt.ids.len(),
                self.longest
            );
        }
        Ok(Prepared { example, record: 0, asked, prompt, shapes, event })
    }

    /// Says once if subtitles that a prompt is to tell are not there: some videos have none, but not all.
    fn tell_of_subtitles(&self, example: &Example) {
        let file = example.subtitles.as_ref().filter(|_| self.prompts.tells_subtitles());
        if let Some(file) = file.filter(|file| !file.path.exists())
            && !self.told.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("no subtitles at {}; how many there are: trainer data inspect", file.path.display());
        }
    }

    fn read(&self, example: &Example, medium: &Medium) -> Result<Media> {
        Ok(match (medium, &self.picked) {
            (Medium::Video { path, clip }, _) if self.first_only => {
                Media::Video(Arc::new(self.media.video_of(path, *clip, &[0])?))
            }
            (Medium::Video { path, clip }, None) => Media::Video(Arc::new(self.media.video(path, *clip)?)),
            (Medium::Video { path, clip }, Some(picked)) => {
                let places = picked.places(example, path, *clip)?;
                Media::Video(Arc::new(self.media.video_of(path, *clip, &places)?))
            }
            (Medium::Image(path), _) => Media::Image(Arc::new(self.media.image(path)?)),
        })
    }
}

/// What a prompt may tell of the first video: its length and frames, or those of the part that is shown.
fn seen<'a>(example: &Example, media: &'a [Media]) -> Seen<'a> {
    let clips = example.media.iter().filter_map(|medium| match medium {
        Medium::Video { clip, .. } => Some(*clip),
        Medium::Image(_) => None,
    });
    let patches = media.iter().filter_map(|medium| match medium {
        Media::Video(patches) => Some(patches),
        Media::Image(_) => None,
    });
    let first = patches.zip(clips).next();
    first.map_or(Seen::default(), |(patches, clip)| {
        let whole = patches.duration;
        let duration = clip.map_or(whole, |[start, end]| (end.min(whole) - start).max(0.0));
        Seen { duration, times: &patches.times }
    })
}

fn messages(turn: Turn, media: &[Media]) -> Vec<Message> {
    let shown = media.iter().map(|medium| match medium {
        Media::Video(_) => Content::Video,
        Media::Image(_) => Content::Image,
    });
    conversation(turn.system, shown.chain([Content::Text(turn.user)]).collect())
}

/// A user's turn, behind a system message if there is one.
pub(crate) fn conversation(system: Option<String>, content: Vec<Content>) -> Vec<Message> {
    let system = system.map(|text| Message { role: "system".into(), content: vec![Content::Text(text)] });
    system.into_iter().chain([Message { role: "user".into(), content }]).collect()
}

impl Source for Examples {
    type Item = Prepared;

    fn count(&self) -> usize {
        self.records.len()
    }

    fn name(&self, record: usize) -> String {
        self.records.place(record)
    }

    fn prepare(&self, record: usize) -> Result<Prepared> {
        let mut example = self.records.get(record)?;
        match self.ablation {
            Some(Ablation::Blind) => example.media.clear(),
            Some(Ablation::OtherVideo) => {
                example.media = self.other_media(record, &example)?;
                example.subtitles = None; // they belong to its own
            }
            Some(Ablation::Shuffle | Ablation::FirstFrame) | None => {}
        }
        if let Some(described) = &self.described {
            let words = described.get(&example.id).with_context(|| format!("{}: no description of it", example.id))?;
            example.media.clear();
            example.question = format!("{words}\n\n{}", example.question);
        }
        let id = example.id.clone();
        let mut prepared = Prepared { record, ..self.preparer.ready(example).with_context(|| id)? };
        if self.ablation.is_some() {
            prepared.event.clear(); // the frames are not where the data says
        }
        Ok(prepared)
    }
}

/// Tokens of a prompt that leave the model room for a completion.
fn room(model: &Path, config: &Config) -> Result<usize> {
    let positions = ModelConfig::from_dir(model).user()?.text.max_position_embeddings as usize;
    let completion = config.rollout.max_new_tokens.max(config.eval.max_new_tokens);
    match positions.checked_sub(completion) {
        Some(room @ 1..) => Ok(room),
        _ => Err(user_error(format!(
            "rollout.max_new_tokens and eval.max_new_tokens: expected less than the model's {positions} positions, found \
             {completion}"
        ))),
    }
}

/// The event's frames of an example with one video and known spans; none of any other.
fn event(example: &Example, media: &[Media]) -> Vec<bool> {
    let mut videos = media.iter().filter_map(|media| match media {
        Media::Video(patches) => Some(patches),
        Media::Image(_) => None,
    });
    match (videos.next(), videos.next()) {
        (Some(video), None) if !example.spans.is_empty() => event_frames(&video.times, video.grid.t, &example.spans),
        _ => Vec::new(),
    }
}
