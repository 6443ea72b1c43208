//! What a frame selector reads frames and questions with: a causal model whose layers go on from what they have seen.
//!
//! [`Stretch`] is one stretch of positions through all layers with gradients. It keeps the input of every layer and
//! builds a layer's graph again when its turn comes (Chen et al. 2016, arXiv 1604.06174), so that a long video costs a
//! layer's activations once, not depth times.
//!
//! Shapes in comments: B rows, S positions, D hidden.

use std::fmt::Debug;

use tch::{Tensor, no_grad};

use crate::qwen::push;

/// What one layer has seen, rows first: of Mamba-2 the convolution's last inputs and the state, of attention keys and
/// values.
pub(crate) type State = [Tensor; 2];

/// A causal sequence model.
pub(crate) trait Backbone: Debug + Send {
    /// Hidden size, D.
    fn width(&self) -> i64;

    /// Size of the vocabulary.
    fn vocabulary(&self) -> i64;

    /// Most positions that it was made for.
    fn most_positions(&self) -> i64;

    /// Number of layers.
    fn depth(&self) -> usize;

    /// Embeddings of ids `[..]`, `[.., D]`.
    fn embed(&self, ids: &Tensor) -> Tensor;

    /// What each layer has seen of nothing, for `rows` rows.
    fn empty(&self, rows: i64) -> Vec<State>;

    /// A layer's output `[B, S, D]` behind what it has seen, and what it has seen then.
    fn layer(&self, index: usize, x: &Tensor, before: &State) -> (Tensor, State);

    /// The last norm, `[.., D]`.
    fn finish(&self, x: &Tensor) -> Tensor;

    /// Hidden states `[B, S, D]` of embeddings behind `states`, which go on to what was seen then. Without gradients.
    fn forward(&self, embedded: &Tensor, states: &mut [State]) -> Tensor {
        no_grad(|| {
            let mut x = embedded.shallow_clone();
            for (index, state) in states.iter_mut().enumerate() {
                (x, *state) = self.layer(index, &x, state);
            }
            self.finish(&x)
        })
    }
}

/// What one row has seen, for each of `rows` rows that go on from it; a view.
pub(crate) fn expanded(state: &State, rows: i64) -> State {
    [0, 1].map(|part: usize| {
        let mut shape = state[part].size();
        shape[0] = rows;
        state[part].expand(shape.as_slice(), false)
    })
}

/// Consecutive positions of all rows, half done: their hidden states are there, and the gradients at them are waited for.
#[derive(Debug)]
pub(crate) struct Stretch<'a> {
    backbone: &'a dyn Backbone,
    /// Of each layer: its input, and what it had seen before, of one row.
    layers: Vec<(Tensor, State)>,
    last: Tensor,
}

impl<'a> Stretch<'a> {
    /// The pass over embeddings `[B, S, D]`, all rows of which go on from what one row had seen; and what each layer has seen
    /// then.
    pub(crate) fn record(
        backbone: &'a dyn Backbone,
        embedded: &Tensor,
        before: impl IntoIterator<Item = State>,
    ) -> (Self, Vec<State>) {
        no_grad(|| {
            let mut x = embedded.detach();
            let (mut layers, mut after) = (Vec::new(), Vec::new());
            for (index, before) in before.into_iter().enumerate() {
                let (output, state) = backbone.layer(index, &x, &expanded(&before, x.size()[0]));
                layers.push((std::mem::replace(&mut x, output), before));
                after.push(state);
            }
            (Self { backbone, layers, last: x }, after)
        })
    }

    /// Hidden states after the last norm, `[B, S, D]`; a constant.
    pub(crate) fn hidden(&self) -> Tensor {
        no_grad(|| self.backbone.finish(&self.last))
    }

    /// Adds the gradients of all parameters, given those at the hidden states and, where others went on from them, at what
    /// was seen then. Gives the gradients at the embeddings and at what had been seen before, of one row.
    pub(crate) fn backward(self, at_hidden: &Tensor, mut at_after: Option<Vec<State>>) -> (Tensor, Vec<State>) {
        let Self { backbone, layers, last } = self;
        let leaf = |x: &Tensor| x.detach().set_requires_grad(true);
        let last = leaf(&last);
        push(&[(&backbone.finish(&last), at_hidden)]);
        let mut gradient = last.grad();
        let mut at_before = Vec::with_capacity(layers.len());
        for (index, (input, before)) in layers.into_iter().enumerate().rev() {
            let (input, before) = (leaf(&input), before.map(|state| leaf(&state)));
            let (output, after) = backbone.layer(index, &input, &expanded(&before, input.size()[0]));
            let at_states = at_after.as_mut().and_then(Vec::pop);
            let mut known = vec![(&output, &gradient)];
            if let Some([a, b]) = &at_states {
                known.extend([(&after[0], a), (&after[1], b)]);
            }
            push(&known);
            gradient = input.grad();
            at_before.push(before.map(|state| match state.grad() {
                gradient if gradient.defined() => gradient,
                _ => state.zeros_like(),
            }));
        }
        at_before.reverse();
        (gradient, at_before)
    }
}
