//! Learning whole completions: cross-entropy of the target's tokens, prompt tokens left out.

use std::sync::Arc;

use anyhow::{Context, Result};
use foveate_policy::{AdamW, Completions, Encoded, ScoreGradients, TextProcessor, Vlm};
use tch::{Kind, Tensor};

use super::{Learnt, Objective, Packing};
use crate::{
    data::{Examples, Prepared},
    passes::{Sizes, cut, passes, segments},
};

pub(super) struct Completion {
    text: Arc<TextProcessor>,
    packing: Packing,
}

impl Completion {
    pub(super) fn new(text: Arc<TextProcessor>, packing: Packing) -> Self {
        Self { text, packing }
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
    type Source = Examples;

    fn learn(&mut self, policy: &Vlm, optimizer: &AdamW, batch: &[Prepared]) -> Result<Learnt> {
        let pairs = batch
            .iter()
            .map(|sample| {
                let target = Completions::new(&[self.target(sample)?], policy.device());
                Ok((policy.encode(&sample.prompt)?, target))
            })
            .collect::<Result<Vec<_>>>()?;
        learn(policy, optimizer, &pairs, self.packing)
    }
}

/// Adds the gradients of the targets' mean cross-entropy behind their prompts.
pub(super) fn learn(
    policy: &Vlm,
    optimizer: &AdamW,
    pairs: &[(Encoded, Completions)],
    packing: Packing,
) -> Result<Learnt> {
    let sizes: Vec<_> = pairs.iter().map(|(prompt, target)| Sizes::of(prompt, target)).collect();
    let tokens = sizes.iter().flat_map(|sizes| &sizes.completions).sum::<i64>() as f64;
    let head = policy.head(1.0);
    let (mut loss, mut right) = (0.0, 0.0);
    for parts in passes(sizes.iter().enumerate(), packing.tokens) {
        let parts = cut(&parts, |index| (&pairs[index].0, &pairs[index].1));
        let pass = policy.training_pass(&segments(&parts), packing.recompute)?;
        let logprobs = pass.logprobs(&head);
        loss -= logprobs.sum(Kind::Double).double_value(&[]);
        right += head.likeliest(&pass.hidden()).eq_tensor(pass.tokens()).sum(Kind::Double).double_value(&[]);
        let gradient = Tensor::full_like(&logprobs, -1.0 / tokens);
        pass.backward(&head, &ScoreGradients { logprobs: gradient, entropy: None });
        optimizer.accumulate();
    }
    Ok(Learnt { loss: loss / tokens, accuracy: right / tokens })
}
