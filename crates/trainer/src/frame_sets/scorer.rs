//! How clearly a frozen model prefers the right option when it is shown some frames of a video.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, ensure};
use foveate_policy::{Completions, Encoded, LoadOptions, Media, Segment, Trainable, Vlm};
use foveate_reward::margin;
use ndarray::{Array1, Array2};
use tch::{Kind, Tensor};

use super::{FrameAsker, Framed};
use crate::config::Config;
use crate::error::UserContext;
use crate::step::array2;
use crate::train::load_options;

/// A frozen model that answers questions from sets of frames.
#[derive(Debug)]
pub struct FrameScorer {
    model: Vlm,
    asker: FrameAsker,
    /// Most tokens of a pass.
    pass_tokens: usize,
}

/// What a model made of sets of frames.
#[derive(Debug, Clone)]
pub struct Judged {
    /// Logits of the option letters where the answer begins, `[N, O]`.
    pub logits: Array2<f32>,
    /// The right option.
    pub gold: usize,
}

impl Judged {
    /// The reward of each set, `[N]`: the margin of the right option's logit (`foveate_reward::margin`).
    pub fn rewards(&self) -> Array1<f32> {
        self.logits.rows().into_iter().map(|row| margin(&row.to_vec(), self.gold).unwrap_or(f32::NAN)).collect()
    }

    /// The option that the model prefers after each set, `[N]`; of several the first.
    pub fn given(&self) -> Vec<usize> {
        let best = |row: ndarray::ArrayView1<'_, f32>| {
            (0..row.len()).fold(0, |best, option| if row[option] > row[best] { option } else { best })
        };
        self.logits.rows().into_iter().map(best).collect()
    }

    /// 1 where that is the right one, `[N]`.
    pub fn accuracy(&self) -> Array1<f32> {
        self.given().into_iter().map(|given| f32::from(u8::from(given == self.gold))).collect()
    }
}

impl FrameScorer {
    /// Loads a model's directory.
    ///
    /// # Errors
    /// A user error: the model cannot be read, or a setting is wrong.
    pub fn load(dir: &Path, config: &Config) -> Result<Self> {
        let asker = FrameAsker::new(dir, &config.scorer)?;
        let options = LoadOptions { trainable: Trainable::Nothing, ..load_options(config)? };
        let model = Vlm::load(dir, &options).user()?;
        Ok(Self { model, asker, pass_tokens: config.optim.pass_tokens })
    }

    /// What the model makes of each set, shown in the frames' order in time. Every frame goes through the vision tower once,
    /// however many sets hold it.
    ///
    /// # Errors
    /// The answer is not one letter, a set is empty or names a frame that there is not, a letter is no single token, or the
    /// prompt is too long.
    pub fn judge(&self, framed: &Framed, sets: &[Vec<usize>]) -> Result<Judged> {
        let gold = framed.gold()?;
        let letters = self.asker.letters(framed.example.options.len())?;
        let seen = Seen::of(&self.model, framed, sets)?;
        let prompt = |set: &Vec<usize>| {
            let prompt = self.asker.prompt(framed, set)?;
            Ok(self.model.encode_with(&prompt, Some(seen.features(set)))?)
        };
        let prompts = sets.iter().map(prompt).collect::<Result<Vec<_>>>()?;
        // What is asked for stands before the first token of the completion, whatever that is.
        let any = Completions::new(&[vec![letters[0]]], self.model.device());
        let mut rows = Vec::with_capacity(sets.len());
        for prompts in self.passes(&prompts) {
            let segments: Vec<_> = prompts.iter().map(|prompt| Segment { prompt, completions: &any }).collect();
            let hidden = self.model.forward(&segments, None)?.into_iter().map(|group| group.hidden.flatten(0, 1));
            let hidden = Tensor::cat(&hidden.collect::<Vec<_>>(), 0);
            rows.push(self.model.head(1.0).logits_of(&hidden, &letters));
        }
        Ok(Judged { logits: array2(&Tensor::cat(&rows, 0).to_kind(Kind::Float))?, gold })
    }

    /// Consecutive prompts of at most `pass_tokens` tokens together, at least one.
    fn passes<'a>(&self, prompts: &'a [Encoded]) -> impl Iterator<Item = &'a [Encoded]> {
        let longest = prompts.iter().map(Encoded::tokens).max().unwrap_or(1);
        let most = if self.pass_tokens == 0 { prompts.len() } else { self.pass_tokens / longest };
        prompts.chunks(most.max(1))
    }
}

/// The features of all frames that some set holds.
struct Seen {
    /// `[frames, merged patches, D]`
    features: Tensor,
    /// The place of each candidate among them.
    places: BTreeMap<usize, i64>,
}

impl Seen {
    fn of(model: &Vlm, framed: &Framed, sets: &[Vec<usize>]) -> Result<Self> {
        ensure!(sets.iter().all(|set| !set.is_empty()), "expected sets of at least one frame");
        let count = framed.frames.len();
        let wanted: BTreeSet<usize> = sets.iter().flatten().copied().collect();
        ensure!(wanted.iter().all(|frame| *frame < count), "expected frames below {count}, found {wanted:?}");
        let frames: Vec<Media> = wanted.iter().map(|frame| framed.frames[*frame].clone()).collect();
        Ok(Self { features: model.image_features(&frames)?, places: wanted.into_iter().zip(0..).collect() })
    }

    /// Those of a set's frames, in their order in time, `[merged patches, D]`.
    fn features(&self, set: &[usize]) -> Tensor {
        let mut in_time = set.to_vec();
        in_time.sort_unstable();
        let places: Vec<i64> = in_time.iter().filter_map(|frame| self.places.get(frame).copied()).collect();
        let places = Tensor::from_slice(&places).to_device(self.features.device());
        self.features.index_select(0, &places).flatten(0, 1)
    }
}
