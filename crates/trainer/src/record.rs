//! Recorded rollouts: `rollouts/step-N/group-K.safetensors`, which `trainer explain` reads.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use foveate_algo::{Layers, MediaKind};
use foveate_policy::{Segment, write_safetensors};
use ndarray::Array1;
use tch::{Kind, Tensor, no_grad};

use crate::{
    config::RolloutContents,
    step::{Group, Scores, Seen, Stepper},
};

/// Layers of recorded frame attention where the algorithm names none.
const LAYERS: Layers = Layers::Last(3);

impl Stepper<'_> {
    /// Writes every group of a step as the policy that sampled it sees it.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn record(&self, folder: &Path, groups: &[Group], scores: &[Scores], seen: &[Seen]) -> Result<()> {
        fs_err::create_dir_all(folder)?;
        for (index, group) in groups.iter().enumerate() {
            let tensors = no_grad(|| self.recorded(group, &scores[index], &seen[index]))?;
            let path = folder.join(format!("group-{index}.safetensors"));
            write_safetensors(&path, tensors.iter().map(|(name, tensor)| (*name, tensor)))?;
        }
        Ok(())
    }

    fn recorded(&self, group: &Group, scores: &Scores, seen: &Seen) -> Result<BTreeMap<&'static str, Tensor>> {
        let completions = &group.completions;
        let layers = self.algorithm.needs(MediaKind::Video).frame_attention.unwrap_or(LAYERS);
        let segment = Segment { prompt: &group.encoded, completions };
        let forward = self.policy.forward(&[segment], Some(layers))?.remove(0);
        let head = self.policy.head(self.config.rollout.temperature);
        let found = head.score(&completions.flat(&forward.hidden), &completions.tokens());
        let logprobs = completions.padded(&found.logprobs);
        let truncated: Array1<f32> = group.rollout.truncated.iter().map(|cut| f32::from(u8::from(*cut))).collect();
        let rollout = &group.rollout;
        let mut tensors = BTreeMap::from([
            ("rewards", Tensor::try_from(&scores.group.rewards)?),
            ("accuracy", Tensor::try_from(&scores.group.accuracy)?),
            ("truncated", Tensor::try_from(&truncated)?),
            ("completion_mask", completions.mask().to_kind(Kind::Int64)),
            ("completion_ids", completions.ids().shallow_clone()),
            ("old_logprobs", logprobs.copy()),
            // As they were seen while drawing, where they were: credit was made of these.
            (
                "entropy",
                rollout.entropy.as_ref().map_or_else(|| completions.padded(&found.entropy), Tensor::shallow_clone),
            ),
            ("logprobs", logprobs),
        ]);
        let seen_attention = seen.frame_attention.as_ref().and(rollout.frame_attention.as_ref());
        if let Some(attention) = seen_attention.or(forward.frame_attention.as_ref()) {
            tensors.insert("frame_attention", attention.mean_dim(0, false, Kind::Float));
        }
        if let Some(reference) = &seen.ref_logprobs {
            tensors.insert("ref_logprobs", reference.shallow_clone());
        }
        if self.config.run.rollout_contents == RolloutContents::Logits {
            tensors.insert("logits", head.over_all_tokens().logits(rollout.hidden.as_ref().unwrap_or(&forward.hidden)));
        }
        Ok(tensors)
    }
}
