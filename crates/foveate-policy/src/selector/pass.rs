//! The teacher-forced pass over picked frames, with gradients.

use tch::{Kind, Tensor, no_grad};

use super::{Candidates, PickScores, Picks, Selector};
use crate::{
    backbone::Stretch,
    head::ScoreGradients,
    qwen::{picked, push},
};

/// A pass that is half done: the scores of the picks are there, and the gradients at them are waited for.
///
/// The prompt is read once; what each layer has seen of it is shared by all sets, and their gradients at it are added up.
#[derive(Debug)]
pub struct PickPass<'a> {
    selector: &'a Selector,
    frames: Tensor, // [N, T]
    ends: Tensor,   // [F]
    taken: Tensor,  // [N, T, F]
    temperature: f64,
    embedded: Tensor, // [1, P, D], with its graph
    prompt: Stretch<'a>,
    /// Of the picks but the last of each set, if there are such: their inputs `[N, T - 1, D]`, with their graph, from the
    /// leaf beside them (what was read of the prompt), and the pass over them.
    picks: Option<(Tensor, Tensor, Stretch<'a>)>,
}

impl Selector {
    /// The pass over picked sets, whose distributions are those of the temperature that they were picked at.
    pub fn training_pass(&self, candidates: &Candidates, picks: &Picks) -> PickPass<'_> {
        let (embedded, ends) = self.embed(candidates);
        let backbone = self.backbone.as_ref();
        let (prompt, seen) = Stretch::record(backbone, &embedded, backbone.empty(1));
        let (sets, turns) = picks.frames.size2().unwrap_or_default();
        let own = (turns > 1).then(|| {
            let read = prompt.hidden().set_requires_grad(true);
            let values = self.heads.value.forward(&read.squeeze_dim(0).index_select(0, &ends)); // [F, D]
            let frames = picks.frames.narrow(1, 0, turns - 1);
            let inputs = picked(&values, &frames.flatten(0, 1)).view([sets, turns - 1, -1]);
            let inputs = inputs.to_kind(embedded.kind());
            let (stretch, _) = Stretch::record(backbone, &inputs, seen);
            (inputs, read, stretch)
        });
        let now = picks.frames.one_hot(candidates.frames() as i64); // [N, T, F]
        let taken = (now.cumsum(1, Kind::Int64) - &now).gt(0);
        PickPass {
            selector: self,
            frames: picks.frames.shallow_clone(),
            ends,
            taken,
            temperature: picks.temperature,
            embedded,
            prompt,
            picks: own,
        }
    }
}

impl PickPass<'_> {
    /// Log-prob and entropy of every pick; constants.
    pub fn scores(&self) -> PickScores {
        let hidden = self.picks.as_ref().map(|(_, _, stretch)| stretch.hidden());
        no_grad(|| self.score(&self.prompt.hidden(), hidden.as_ref()))
    }

    /// From what was read of the prompt `[1, P, D]` and of the picks `[N, T - 1, D]`.
    fn score(&self, prompt: &Tensor, picks: Option<&Tensor>) -> PickScores {
        let heads = &self.selector.heads;
        let prompt = prompt.squeeze_dim(0);
        let keys = heads.key.forward(&prompt.index_select(0, &self.ends));
        let first = prompt.narrow(0, -1, 1).unsqueeze(0).expand([self.frames.size()[0], -1, -1], false); // [N, 1, D]
        let read = match picks {
            Some(picks) => Tensor::cat(&[&first, picks], 1),
            None => first,
        };
        PickScores::of(&heads.logits(&read, &keys, &self.taken, self.temperature), &self.frames)
    }

    /// Adds the gradients of all parameters, given those at log-probs and entropies, `[N, T]` each.
    pub fn backward(mut self, at_scores: &ScoreGradients) {
        let own = self.picks.take();
        let leaf = |x: Tensor| x.detach().set_requires_grad(true);
        let read = leaf(self.prompt.hidden());
        let read_own = own.as_ref().map(|(_, _, stretch)| leaf(stretch.hidden()));
        let scores = self.score(&read, read_own.as_ref());
        let mut known = vec![(&scores.logprobs, &at_scores.logprobs)];
        known.extend(at_scores.entropy.as_ref().map(|at_entropy| (&scores.entropy, at_entropy)));
        push(&known);
        let mut at_read = read.grad();
        let mut at_states = None;
        if let (Some((inputs, from, stretch)), Some(read_own)) = (own, read_own) {
            let (at_inputs, states) = stretch.backward(&read_own.grad(), None);
            push(&[(&inputs, &at_inputs)]);
            at_read += from.grad();
            at_states = Some(states);
        }
        let (at_embedded, _) = self.prompt.backward(&at_read, at_states);
        push(&[(&self.embedded, &at_embedded)]);
    }
}
