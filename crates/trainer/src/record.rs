//! Recorded rollouts: `rollouts/step-N/group-K.safetensors`, which `trainer explain` reads.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use foveate_algo::{Counterfactual, MediaKind};
use foveate_policy::{Segment, write_safetensors};
use ndarray::Array1;
use tch::{Kind, Tensor, no_grad};

use crate::{
    config::RolloutContents,
    draw::{Drawn, Group, Scores},
    observe::Seen,
    step::{FRAME_LAYERS, Stepper},
};

impl Stepper<'_> {
    /// Writes every group of a step as the policy that sampled it sees it.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn record(&self, folder: &Path, drawn: &Drawn, seen: &[Seen]) -> Result<()> {
        fs_err::create_dir_all(folder)?;
        for (index, group) in drawn.groups.iter().enumerate() {
            let tensors = no_grad(|| self.recorded(group, &drawn.scores[index], &seen[index]))?;
            let path = folder.join(format!("group-{index}.safetensors"));
            write_safetensors(&path, tensors.iter().map(|(name, tensor)| (*name, tensor)))?;
        }
        Ok(())
    }

    fn recorded(&self, group: &Group, scores: &Scores, seen: &Seen) -> Result<BTreeMap<&'static str, Tensor>> {
        let (completions, rollout) = (&group.completions, &group.rollout);
        // What was seen while drawing is recorded as it was: credit was made of it.
        let capture = rollout.frame_attention.is_none().then_some(FRAME_LAYERS);
        let forward = self.policy.forward(&[Segment { prompt: &group.encoded, completions }], capture)?.remove(0);
        let head = self.head(self.policy);
        let logprobs = head.logprobs(&completions.flat(&forward.hidden), &completions.tokens());
        let logprobs = completions.padded(&logprobs);
        let truncated: Array1<f32> = group.rollout.truncated.iter().map(|cut| f32::from(u8::from(*cut))).collect();
        let flag = |holds| Tensor::from_slice(&[i64::from(holds)]);
        let mut tensors = BTreeMap::from([
            ("rewards", Tensor::try_from(&scores.group.rewards)?),
            ("accuracy", Tensor::try_from(&scores.group.accuracy)?),
            ("truncated", Tensor::try_from(&truncated)?),
            ("completion_mask", completions.mask().to_kind(Kind::Int64)),
            ("has_video", flag(group.media == MediaKind::Video)),
            ("has_media", flag(group.media != MediaKind::Text)),
            ("completion_ids", completions.ids().shallow_clone()),
            ("old_logprobs", logprobs.copy()),
            ("logprobs", logprobs),
        ]);
        if let Some(attention) = rollout.frame_attention.as_ref().or(forward.frame_attention.as_ref()) {
            tensors.insert("frame_attention", attention.mean_dim(0, false, Kind::Float));
        }
        if let Some(entropy) = &rollout.entropy {
            tensors.insert("entropy", entropy.shallow_clone());
        }
        if let Some(accuracy) = &scores.contrast {
            tensors.insert("shuffled_accuracy", Tensor::try_from(accuracy)?);
        }
        let altered = [("masked_logprobs", &seen.masked_logprobs), ("shuffled_logprobs", &seen.reordered_logprobs)];
        for (name, logprobs) in altered {
            if let Some(logprobs) = logprobs {
                tensors.insert(name, Tensor::try_from(logprobs)?);
            }
        }
        if let Some(reference) = &seen.ref_logprobs {
            tensors.insert("ref_logprobs", reference.shallow_clone());
        }
        if self.config.run.rollout_contents == RolloutContents::Logits {
            tensors.insert("logits", head.over_all_tokens().logits(rollout.hidden.as_ref().unwrap_or(&forward.hidden)));
            let altered = [("masked_logits", Counterfactual::Masked), ("shuffled_logits", Counterfactual::Reordered)];
            for (name, under) in altered {
                let logits = seen.distributions.as_ref().and_then(|distributions| distributions.logits(under));
                tensors.extend(logits.map(|logits| (name, logits)));
            }
        }
        Ok(tensors)
    }
}
