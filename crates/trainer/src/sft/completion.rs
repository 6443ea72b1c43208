//! Learning whole completions: cross-entropy of the target's tokens, prompt tokens left out.

use std::sync::Arc;

use anyhow::{Context, Result};
use foveate_policy::{AdamW, Completions, ScoreGradients, TextProcessor, Vlm};
use tch::{Kind, Tensor, no_grad};

use super::{Learnt, Objective};
use crate::data::Prepared;

pub(super) struct Completion {
    text: Arc<TextProcessor>,
}

impl Completion {
    pub(super) fn new(text: Arc<TextProcessor>) -> Self {
        Self { text }
    }

    /// Ids of an example's target and the end of sequence.
    fn target(&self, sample: &Prepared) -> Result<Vec<i64>> {
        let example = &sample.example;
        let target = example.target.as_deref().with_context(|| format!("example {} has no target", example.id))?;
        let mut ids = self.text.encode(target)?;
        ids.extend(self.text.eos_ids().first());
        Ok(ids)
    }
}

impl Objective for Completion {
    fn learn(&mut self, policy: &Vlm, optimizer: &AdamW, batch: &[Prepared]) -> Result<Learnt> {
        let targets = batch.iter().map(|sample| self.target(sample)).collect::<Result<Vec<_>>>()?;
        let tokens = targets.iter().map(Vec::len).sum::<usize>() as f64;
        let head = policy.head(1.0);
        let (mut loss, mut right) = (0.0, 0.0);
        for (sample, target) in batch.iter().zip(&targets) {
            let encoded = policy.encode(&sample.prompt)?;
            let completions = Completions::new(std::slice::from_ref(target), policy.device());
            let hidden = policy.forward(&encoded, &completions, None)?.hidden.flatten(0, 1);
            let ids = completions.ids.flatten(0, 1);
            let scores = head.score(&hidden, &ids);
            loss -= scores.logprobs.sum(Kind::Double).double_value(&[]);
            let likeliest = no_grad(|| head.logits(&hidden).argmax(-1, false));
            right += likeliest.eq_tensor(&ids).sum(Kind::Double).double_value(&[]);
            let gradient = Tensor::full_like(&scores.logprobs, -1.0 / tokens);
            head.backward(&hidden, &ids, &ScoreGradients { logprobs: gradient, entropy: None });
            optimizer.accumulate();
        }
        Ok(Learnt { loss: loss / tokens, accuracy: right / tokens })
    }
}
