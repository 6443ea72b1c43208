//! The update's pass, begun before there is credit.

use anyhow::Result;
use foveate_policy::TrainingPass;
use tch::Tensor;

use crate::{
    draw::{Group, Scores},
    passes::{Part, Sizes, cut, passes, segments},
    step::Stepper,
    update::LossScores,
};

/// The update's first pass, begun because the algorithm must know its log-probs to give credit. Only where all groups that
/// the update is about fit into that one pass: else the tape of each would have to be kept.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    pub(crate) parts: Vec<Part>,
    pub(crate) pass: TrainingPass<'a>,
    pub(crate) scores: LossScores,
}

impl Opened<'_> {
    /// The teacher-forced log-probs of the policy that sampled, `[G, T]`, of each group that the pass holds.
    pub(crate) fn logprobs<'b>(&'b self, groups: &'b [Group]) -> impl Iterator<Item = (usize, Tensor)> + 'b {
        let logprobs = self.pass.split(&self.scores.logprobs);
        self.parts.iter().zip(logprobs).map(|(part, own)| (part.group, groups[part.group].completions.padded(&own)))
    }

    /// Whether the pass holds that group.
    pub(crate) fn holds(&self, group: usize) -> bool {
        self.parts.iter().any(|part| part.group == group)
    }
}

impl<'a> Stepper<'a> {
    /// Whether a group has a gradient: its rewards differ, or the loss has terms that need no advantage.
    pub(crate) fn trains_on(&self, scores: &Scores) -> bool {
        let rewards = &scores.group.rewards;
        let others_count = self.reference.is_some() || self.algorithm.objective().entropy_coef != 0.0;
        others_count || rewards.iter().any(|reward| *reward != rewards[0])
    }

    /// Begins the update if it is a single pass and its log-probs are needed before it. Groups whose rewards are all equal
    /// are left out where only advantages have a gradient, as the update would.
    pub(crate) fn open(&self, groups: &[Group], scores: &[Scores]) -> Result<Option<Opened<'a>>> {
        let optim = &self.config.optim;
        let opens = |index: usize| {
            self.algorithm.needs(groups[index].media).sampling_logprobs && self.trains_on(&scores[index])
        };
        let sizes: Vec<_> = groups.iter().map(|group| Sizes::of(&group.encoded, &group.completions)).collect();
        let chosen = sizes.iter().enumerate().filter(|(index, _)| opens(*index));
        let mut passes = passes(chosen, optim.pass_tokens);
        if optim.minibatches > 1 || passes.len() != 1 {
            return Ok(None);
        }
        let parts = passes.remove(0);
        let cut = cut(&parts, |index| (&groups[index].encoded, &groups[index].completions));
        let pass = self.policy.training_pass(&segments(&cut), optim.recompute)?;
        let scores = self.loss_scores(&pass);
        Ok(Some(Opened { parts, pass, scores }))
    }
}
