//! Learning to answer from single frames of a video, as many as the draw gives: what a model must be able to do that is to
//! reward sets of frames (ReFoCUS, arXiv 2506.01274).

use std::path::Path;

use anyhow::{Context, Result};
use foveate_policy::{AdamW, Completions, Vlm};
use rand::seq::{IndexedRandom, index::sample};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Learnt, Objective, Packing, completion::learn};
use crate::config::Config;
use crate::frame_sets::{FrameAsker, Framed, FramedExamples};

pub(super) struct Frames {
    asker: FrameAsker,
    sizes: [usize; 2],
    event_share: f64,
    random: ChaCha8Rng,
    packing: Packing,
}

impl Frames {
    pub(super) fn new(model: &Path, config: &Config, packing: Packing) -> Result<Self> {
        let random = ChaCha8Rng::seed_from_u64(config.run.seed);
        let sft = &config.sft;
        Ok(Self {
            asker: FrameAsker::new(model, &config.scorer)?,
            sizes: sft.frames,
            event_share: sft.event_share,
            random,
            packing,
        })
    }

    /// Frames at random, as many as the draw gives, and at most all; one of the event among them, if it is to be.
    fn draw(&mut self, framed: &Framed) -> Vec<usize> {
        let frames = framed.frames.len();
        let [fewest, most] = self.sizes.map(|size| size.min(frames));
        let count = self.random.random_range(fewest..=most);
        let mut set = sample(&mut self.random, frames, count).into_vec();
        let wanted = self.random.random_bool(self.event_share);
        let event = framed.event().unwrap_or_default();
        let shown: Vec<usize> = (0..event.len()).filter(|frame| event[*frame]).collect();
        if let Some(frame) = shown.choose(&mut self.random)
            && wanted
            && !set.iter().any(|frame| event[*frame])
        {
            set[0] = *frame;
        }
        set
    }
}

impl Objective for Frames {
    type Source = FramedExamples;

    fn learn(&mut self, policy: &Vlm, optimizer: &AdamW, batch: &[Framed]) -> Result<Learnt> {
        let mut pairs = Vec::with_capacity(batch.len());
        for framed in batch {
            let set = self.draw(framed);
            let letters = self.asker.letters(framed.example.options.len())?;
            let gold = framed.gold().with_context(|| framed.example.id.clone())?;
            let prompt = policy.encode(&self.asker.prompt(framed, &set)?)?;
            pairs.push((prompt, Completions::new(&[vec![letters[gold]]], policy.device())));
        }
        learn(policy, optimizer, &pairs, self.packing)
    }
}
