//! OBSERVE: what credit and loss need to know of a step's groups beyond their scores.

use anyhow::Result;
use foveate_algo::{Counterfactual, Credit, Observations};
use foveate_policy::{Completions, Encoded, GroupDistributions};
use ndarray::{Array1, Array2, Array3, ArrayD, Ix3};
use tch::{Kind, Tensor};

use crate::{
    counterfactual::Views,
    draw::{Group, Scores},
    passes::viewed,
    step::{Clock, Stepper, array2},
};

/// What was observed of a group beyond its scores.
#[derive(Debug, Default)]
pub struct Seen {
    /// Log-probs `[G, T]` of the reference policy.
    pub ref_logprobs: Option<Tensor>,
    /// Frame attention `[G, T, F]`, mean over the chosen layers.
    pub frame_attention: Option<Array3<f32>>,
    /// Entropy `[G, T]` in nats.
    pub entropy: Option<Array2<f32>>,
    /// The group's token distributions.
    pub distributions: Option<GroupDistributions>,
    /// The sampling policy's teacher-forced log-probs `[G, T]`.
    pub sampling_logprobs: Option<Array2<f32>>,
    /// The same with the video masked.
    pub masked_logprobs: Option<Array2<f32>>,
    /// The same with the frames in another order.
    pub reordered_logprobs: Option<Array2<f32>>,
}

impl Seen {
    /// The same as an algorithm reads it, with the accuracies of contrast completions.
    pub(crate) fn observations(&self, contrast: Option<&Array1<f32>>) -> Observations<'_> {
        Observations {
            frame_attention: self.frame_attention.clone(),
            distributions: self.distributions.as_ref().map(|d| d as _),
            entropy: self.entropy.clone(),
            sampling_logprobs: self.sampling_logprobs.clone(),
            masked_logprobs: self.masked_logprobs.clone(),
            reordered_logprobs: self.reordered_logprobs.clone(),
            contrast_accuracy: contrast.cloned(),
        }
    }
}

impl Stepper<'_> {
    /// What was seen while the groups were drawn and in views of altered videos, and the reference policy's log-probs.
    pub(crate) fn observe(&self, groups: &[Group], views: Vec<Views>, clock: &mut Clock) -> Result<Vec<Seen>> {
        let mut seen: Vec<_> =
            groups.iter().zip(views).map(|(group, views)| self.seen(group, views)).collect::<Result<_>>()?;
        if self.reference.is_some() {
            let logprobs = clock.time("timing/reference", || self.reference_logprobs(groups))?;
            seen.iter_mut().zip(logprobs).for_each(|(seen, logprobs)| seen.ref_logprobs = logprobs);
        }
        Ok(seen)
    }

    fn seen(&self, group: &Group, views: Views) -> Result<Seen> {
        let rollout = &group.rollout;
        let altered = [(Counterfactual::Masked, &views.masked), (Counterfactual::Reordered, &views.reordered)];
        let with = |distributions: GroupDistributions| {
            altered.iter().fold(distributions, |distributions, (under, view)| {
                match view.as_ref().and_then(|view| view.hidden.as_ref()) {
                    Some(hidden) => distributions.with(*under, hidden),
                    None => distributions,
                }
            })
        };
        let hidden = rollout.hidden.as_ref().filter(|_| self.algorithm.needs(group.media).distributions);
        Ok(Seen {
            ref_logprobs: None,
            frame_attention: rollout.frame_attention.as_ref().map(mean_over_layers).transpose()?,
            entropy: rollout.entropy.as_ref().map(array2).transpose()?,
            distributions: hidden
                .map(|hidden| with(GroupDistributions::new(hidden, group.completions.mask(), &self.head(self.policy)))),
            masked_logprobs: views.masked.as_ref().map(|view| array2(&view.logprobs)).transpose()?,
            reordered_logprobs: views.reordered.as_ref().map(|view| array2(&view.logprobs)).transpose()?,
            sampling_logprobs: views.own,
        })
    }

    fn reference_logprobs(&self, groups: &[Group]) -> Result<Vec<Option<Tensor>>> {
        let Some(reference) = self.reference else { return Ok(groups.iter().map(|_| None).collect()) };
        let prompts: Vec<(&Encoded, &Completions)> =
            groups.iter().map(|group| (&group.encoded, &group.completions)).collect();
        let seen = viewed(reference, &self.head(reference), &prompts, self.config.optim.pass_tokens, |_| false)?;
        Ok(seen.into_iter().map(|view| Some(view.logprobs)).collect())
    }

    /// The credit of every group's tokens. One without a gradient that was not looked at has none to share out.
    pub(crate) fn credit(&self, scores: &[Scores], seen: &[Seen]) -> Result<Vec<Credit>> {
        let credit = |(scores, seen): (&Scores, &Seen)| {
            let needs = self.algorithm.needs(scores.group.media);
            let lacks = (needs.masked.is_some() && seen.masked_logprobs.is_none())
                || (needs.reordered.is_some() && seen.reordered_logprobs.is_none());
            Ok(match lacks && !self.trains_on(scores) {
                true => Credit::plain(&scores.group)?,
                false => self.algorithm.credit(&scores.group, &seen.observations(scores.contrast.as_ref()))?,
            })
        };
        scores.iter().zip(seen).map(credit).collect()
    }
}

/// `[L, G, T, F]` -> `[G, T, F]`.
pub(crate) fn mean_over_layers(attention: &Tensor) -> Result<Array3<f32>> {
    let array: ArrayD<f32> = (&attention.mean_dim(0, false, Kind::Float).to_device(tch::Device::Cpu)).try_into()?;
    Ok(array.into_dimensionality::<Ix3>()?)
}
