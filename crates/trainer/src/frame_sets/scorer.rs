//! How clearly a frozen model prefers the right option when it is shown some frames of a video.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use foveate_data::{Prompts, letter};
use foveate_policy::{
    Completions, Content, Encoded, LoadOptions, Media, Prompt, Segment, TextProcessor, Trainable, Vlm,
};
use foveate_reward::margin;
use ndarray::{Array1, Array2};
use tch::{Kind, Tensor};

use super::Framed;
use crate::config::{Config, ScorerTable, prompts};
use crate::data::conversation;
use crate::error::UserContext;
use crate::step::array2;
use crate::train::load_options;

/// A frozen model that answers questions from sets of frames.
#[derive(Debug)]
pub struct FrameScorer {
    model: Vlm,
    text: TextProcessor,
    prompts: Prompts,
    table: ScorerTable,
    /// Most tokens of a pass.
    pass_tokens: usize,
    /// What the answer begins with, tokenized.
    prefix: Vec<i64>,
}

impl FrameScorer {
    /// Loads a model's directory.
    ///
    /// # Errors
    /// A user error: the model cannot be read, or a setting is wrong.
    pub fn load(dir: &Path, config: &Config) -> Result<Self> {
        let table = config.scorer.clone();
        let prompts = prompts("scorer.prompt", &table.prompt)?;
        let text = TextProcessor::load(dir).user()?;
        let prefix = text.encode(&table.answer_prefix).user()?;
        let options = LoadOptions { trainable: Trainable::Nothing, ..load_options(config)? };
        let model = Vlm::load(dir, &options).user()?;
        let scorer = Self { model, text, prompts, table, pass_tokens: config.optim.pass_tokens, prefix };
        scorer.letters(2).user()?;
        Ok(scorer)
    }

    /// The reward of each set, `[N]`: the margin of the right option's logit (`foveate_reward::margin`).
    ///
    /// # Errors
    /// As [`FrameScorer::option_logits`]; or the answer is not one letter.
    pub fn rewards(&self, framed: &Framed, sets: &[Vec<usize>]) -> Result<Array1<f32>> {
        let example = &framed.example;
        let gold = (0..example.options.len()).position(|option| letter(option) == example.answer);
        let gold = gold.with_context(|| format!("answer: expected one of the options, found {:?}", example.answer))?;
        let logits = self.option_logits(framed, sets)?;
        Ok(logits.rows().into_iter().map(|row| margin(&row.to_vec(), gold).unwrap_or(f32::NAN)).collect())
    }

    /// Logits of the option letters where the answer begins, `[N, O]`, of each set of frames, shown in their order in time.
    /// Every frame goes through the vision tower once, however many sets hold it.
    ///
    /// # Errors
    /// A set is empty or names a frame that there is not, a letter is no single token, or the prompt is too long.
    pub fn option_logits(&self, framed: &Framed, sets: &[Vec<usize>]) -> Result<Array2<f32>> {
        let letters = self.letters(framed.example.options.len())?;
        let seen = Seen::of(&self.model, framed, sets)?;
        let prompts = sets.iter().map(|set| self.prompt(framed, set, &seen)).collect::<Result<Vec<_>>>()?;
        // What is asked for stands before the first token of the completion, whatever that is.
        let any = Completions::new(&[vec![letters[0]]], self.model.device());
        let mut rows = Vec::with_capacity(sets.len());
        for prompts in self.passes(&prompts) {
            let segments: Vec<_> = prompts.iter().map(|prompt| Segment { prompt, completions: &any }).collect();
            let hidden = self.model.forward(&segments, None)?.into_iter().map(|group| group.hidden.flatten(0, 1));
            let hidden = Tensor::cat(&hidden.collect::<Vec<_>>(), 0);
            rows.push(self.model.head(1.0).logits_of(&hidden, &letters));
        }
        array2(&Tensor::cat(&rows, 0).to_kind(Kind::Float))
    }

    /// Consecutive prompts of at most `pass_tokens` tokens together, at least one.
    fn passes<'a>(&self, prompts: &'a [Encoded]) -> impl Iterator<Item = &'a [Encoded]> {
        let longest = prompts.iter().map(Encoded::tokens).max().unwrap_or(1);
        let most = if self.pass_tokens == 0 { prompts.len() } else { self.pass_tokens / longest };
        prompts.chunks(most.max(1))
    }

    fn prompt(&self, framed: &Framed, set: &[usize], seen: &Seen) -> Result<Encoded> {
        let mut set = set.to_vec();
        set.sort_unstable();
        let frames: Vec<Media> = set.iter().map(|frame| framed.frames[*frame].clone()).collect();
        let shown = foveate_data::Seen { duration: framed.duration, frames: frames.len() };
        let turn = self.prompts.fill(&framed.example, shown)?;
        let mut content = Vec::new();
        let (label, end) = (&self.table.frame_label, if self.table.frame_label.is_empty() { "" } else { "\n" });
        for number in 1..=frames.len() {
            let before = if number == 1 { "" } else { end };
            let label = format!("{before}{}", label.replace("{n}", &number.to_string()));
            content.extend((!label.is_empty()).then_some(Content::Text(label)));
            content.push(Content::Image);
        }
        content.push(Content::Text(format!("{end}{}", turn.user)));
        let messages = conversation(turn.system, content);
        let Prompt { mut ids, media } = self.text.prompt(&messages, frames)?;
        ids.extend(&self.prefix);
        Ok(self.model.encode_with(&Prompt { ids, media }, Some(seen.features(&set)))?)
    }

    /// Tokens of the letters as they follow what the answer begins with.
    fn letters(&self, options: usize) -> Result<Vec<i64>> {
        let token = |option: usize| {
            let text = format!("{} {}", self.table.answer_prefix, letter(option)).trim_start().to_owned();
            let ids = self.text.encode(&text)?;
            match ids.strip_prefix(self.prefix.as_slice()) {
                Some([token]) => Ok(*token),
                _ => anyhow::bail!(
                    "scorer.answer_prefix {:?}: expected the letter {} to be one token behind it",
                    self.table.answer_prefix,
                    letter(option)
                ),
            }
        };
        (0..options).map(token).collect()
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

    /// Those of a set's frames, in its order, `[merged patches, D]`.
    fn features(&self, set: &[usize]) -> Tensor {
        let places: Vec<i64> = set.iter().filter_map(|frame| self.places.get(frame).copied()).collect();
        let places = Tensor::from_slice(&places).to_device(self.features.device());
        self.features.index_select(0, &places).flatten(0, 1)
    }
}
