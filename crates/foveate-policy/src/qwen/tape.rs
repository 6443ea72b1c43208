//! The packed pass with gradients, layer by layer.
//!
//! libtorch keeps the graph of each half layer; attention between the halves has gradients of its own
//! ([`super::backward`]). Since every layer is differentiated by itself, its graph may as well be built again from its
//! input when its turn comes (layer-wise recomputation: Chen et al. 2016, arXiv 1604.06174).

use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad};

use super::{
    attention::{Attended, attend},
    backward::attend_backward,
    pack::Pack,
    rope::Rope,
    text::TextModel,
    wide_kind,
};
use crate::PolicyError;

/// What a training pass computes a second time instead of keeping it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Nothing: fastest.
    #[default]
    Nothing,
    /// All of a layer but its attention: about a third more arithmetic, and per token and layer only the input and the
    /// attention's output are kept.
    Layers,
}

/// What a training pass keeps for its gradients.
#[derive(Debug)]
pub(crate) struct Tape<'a> {
    model: &'a TextModel,
    rope: Rope,
    pack: Pack,
    embedded: Tensor, // [N, D], with its graph
    layers: Vec<Kept>,
    last: Tensor, // [R, D], the norm's input
    hidden: Tensor,
}

/// Of one layer.
#[derive(Debug)]
struct Kept {
    input: Tensor, // [N, D]
    attended: Attended,
    graph: Option<Graph>,
}

/// A layer's two halves with their graphs, which end at its input and at the attention's output.
#[derive(Debug)]
struct Graph {
    qkv: [Tensor; 3],
    output: Tensor,
}

impl<'a> Tape<'a> {
    /// The pass over embeddings `[N, D]`.
    ///
    /// # Errors
    /// [`PolicyError::Torch`] if the computation fails.
    pub(crate) fn record(
        model: &'a TextModel,
        embedded: Tensor,
        rope: Rope,
        pack: Pack,
        recompute: Recompute,
    ) -> Result<Self, PolicyError> {
        let mut x = embedded.detach();
        let mut layers = Vec::with_capacity(model.layers.len());
        for (index, layer) in model.layers.iter().enumerate() {
            let input = x.set_requires_grad(true);
            let run = || {
                let qkv = layer.before(&input, &rope);
                let mut attended = attend(model.mode, &pack, [&qkv[0], &qkv[1], &qkv[2]], &[])?;
                attended.out = attended.out.set_requires_grad(true);
                let output = after(model, index, [&input, &attended.out], &pack);
                Ok::<_, PolicyError>((attended, Graph { qkv, output }))
            };
            let (attended, graph) = match recompute {
                Recompute::Nothing => run(),
                Recompute::Layers => no_grad(run),
            }?;
            x = graph.output.detach();
            layers.push(Kept { input, attended, graph: (recompute == Recompute::Nothing).then_some(graph) });
        }
        let last = x.set_requires_grad(true);
        let hidden = model.norm.forward(&last);
        Ok(Self { model, rope, pack, embedded, layers, last, hidden })
    }

    /// Hidden states after the last norm of the rows that predict something, `[R, D]`; constants.
    pub(crate) fn hidden(&self) -> Tensor {
        self.hidden.detach()
    }

    /// Adds the gradients of all parameters, given that at the hidden states `[R, D]`.
    pub(crate) fn backward(self, at_hidden: &Tensor) {
        let Self { model, rope, pack, embedded, layers, last, hidden } = self;
        push(&[(&hidden, at_hidden)]);
        let mut gradient = last.grad();
        for (index, (layer, kept)) in model.layers.iter().zip(layers).enumerate().rev() {
            let Kept { input, attended, graph } = kept;
            let Graph { qkv, output } = graph.unwrap_or_else(|| Graph {
                qkv: layer.before(&input, &rope),
                output: after(model, index, [&input, &attended.out], &pack),
            });
            push(&[(&output, &gradient)]);
            drop(output);
            let [q, k, v] = &qkv;
            let [at_q, at_k, at_v] = attend_backward(&pack, [q, k, v], &attended, &attended.out.grad());
            push(&[(q, &at_q), (k, &at_k), (v, &at_v)]);
            gradient = input.grad();
        }
        if embedded.requires_grad() {
            push(&[(&embedded, &gradient)]);
        }
    }
}

/// A layer's second half, from its input and what attention gave.
fn after(model: &TextModel, layer: usize, [x, out]: [&Tensor; 2], pack: &Pack) -> Tensor {
    let rows = model.rows_after(layer, pack);
    model.layers[layer].after(&rows(x), &rows(&out.flatten(1, 2)))
}

/// Backpropagates from tensors whose gradients are known. tch cannot start from a given gradient; a product's gradient
/// is that gradient.
pub(crate) fn push(known: &[(&Tensor, &Tensor)]) {
    let products = known.iter().map(|(output, gradient)| (*output * *gradient).sum(wide_kind(output.kind())));
    products.reduce(|sum, product| sum + product).iter().for_each(Tensor::backward);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::{prelude::*, test_runner::TestCaseError};
    use tch::{Device, Kind};

    use super::*;
    use crate::{config::TextConfig, qwen::AttentionMode, weights::Weights};

    fn config() -> TextConfig {
        TextConfig {
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            vocab_size: 20,
            max_position_embeddings: 64,
            rms_norm_eps: 1e-6,
            rope_theta: 1e4,
            mrope_section: [1, 1, 0],
            initializer_range: 0.3,
            tie_word_embeddings: true,
        }
    }

    /// Rotations of a sequence that goes on at `start`.
    fn positions(start: i64, length: i64) -> Tensor {
        (Tensor::arange(length, (Kind::Int64, Device::Cpu)) + start).unsqueeze(0).expand([3, -1], false)
    }

    fn rope(positions: &[Tensor], kind: Kind) -> Rope {
        Rope::text(&config(), &Tensor::cat(positions, 1), kind)
    }

    /// The decoder over one whole sequence of embeddings `[S, D]`, all of it differentiated by libtorch.
    fn plain(model: &TextModel, embedded: &Tensor) -> Tensor {
        let (length, kind) = (embedded.size()[0], embedded.kind());
        let rope = rope(&[positions(0, length)], kind);
        let mut x = embedded.shallow_clone();
        for layer in &model.layers {
            let [q, k, v] = layer.before(&x, &rope).map(|x| x.transpose(0, 1));
            let [k, v] = [k, v].map(|x| x.repeat_interleave_self_int(2, 0, None));
            let hidden = Tensor::full([length, length], f64::NEG_INFINITY, (kind, Device::Cpu)).triu(1);
            let scores = q.matmul(&k.transpose(-2, -1)) / 2.0 + hidden;
            let out = scores.softmax(-1, kind).matmul(&v).transpose(0, 1).flatten(1, 2);
            x = layer.after(&x, &out);
        }
        model.norm.forward(&x)
    }

    /// Gradients of the parameters and of what was embedded.
    fn taken(parameters: &[(String, Tensor)], embedded: &[Tensor]) -> Vec<Tensor> {
        let all = parameters.iter().map(|(_, tensor)| tensor).chain(embedded);
        all.map(|tensor| {
            let mut gradient = tensor.grad();
            let copy = if gradient.defined() { gradient.copy() } else { tensor.zeros_like() };
            if gradient.defined() {
                let _ = gradient.zero_();
            }
            copy
        })
        .collect()
    }

    /// Every completion of `groups` behind its prompt, packed and one sequence at a time.
    fn compared(
        groups: &[(i64, Vec<i64>)],
        mode: AttentionMode,
        recompute: Recompute,
        kind: Kind,
        seed: i64,
    ) -> Result<(), TestCaseError> {
        tch::manual_seed(seed);
        let weights = Weights::random(Path::new(""), Device::Cpu, kind, 0.3);
        let model = TextModel::new(&weights, &config(), mode);
        let parameters = weights.finish().unwrap();
        parameters.iter().for_each(|(_, tensor)| {
            let _ = tensor.set_requires_grad(true);
        });
        let leaf = |rows: i64| Tensor::randn([rows, 16], (kind, Device::Cpu)).set_requires_grad(true);
        let prompts: Vec<_> = groups.iter().map(|(prompt, _)| leaf(*prompt)).collect();
        let own: Vec<_> = groups.iter().flat_map(|(_, lengths)| lengths).map(|length| leaf(*length)).collect();
        let leaves: Vec<_> = prompts.iter().chain(&own).map(Tensor::shallow_clone).collect();
        let tokens = own.iter().map(|x| x.size()[0]).sum::<i64>();
        let at_hidden = Tensor::randn([tokens, 16], (kind, Device::Cpu));

        // Every completion behind its prompt, one sequence at a time.
        let mut completions = own.iter();
        let mut expected = Vec::new();
        for (prompt, (rows, lengths)) in prompts.iter().zip(groups) {
            for length in lengths {
                let completion = completions.next().unwrap();
                let hidden = plain(&model, &Tensor::cat(&[prompt, completion], 0));
                expected.push(hidden.narrow(0, rows - 1, *length));
            }
        }
        let expected = Tensor::cat(&expected, 0);
        (&expected * &at_hidden).sum(kind).backward();
        let expected_gradients = taken(&parameters, &leaves);

        let (mut embedded, mut places) = (Vec::new(), Vec::new());
        let mut completions = own.iter();
        for (prompt, (rows, lengths)) in prompts.iter().zip(groups) {
            embedded.push(prompt.shallow_clone());
            places.push(positions(0, *rows));
            for length in lengths {
                embedded.push(completions.next().unwrap().narrow(0, 0, length - 1));
                places.push(positions(*rows, length - 1));
            }
        }
        let pack = Pack::new(groups, Device::Cpu);
        let tape = Tape::record(&model, Tensor::cat(&embedded, 0), rope(&places, kind), pack, recompute).unwrap();
        // In f64 to its last digits; in f32 to 1e-5 of the largest gradient, since terms of a small one may cancel.
        let largest = |x: &Tensor| x.abs().max().double_value(&[]);
        let double = kind == Kind::Double;
        let tolerance = if double { 1e-11 } else { 1e-5 };
        prop_assert!(largest(&(tape.hidden() - &expected)) <= tolerance * largest(&expected));
        tape.backward(&at_hidden);
        let scale = expected_gradients.iter().map(largest).fold(0.0, f64::max);
        for (found, expected) in taken(&parameters, &leaves).iter().zip(&expected_gradients) {
            let scale = if double { largest(expected).max(1e-3 * scale) } else { scale };
            prop_assert!(largest(&(found - expected)) <= tolerance * scale);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_packed_pass_equals_plain_passes_in_hidden_states_and_gradients(
            groups in prop::collection::vec((1..7_i64, prop::collection::vec(1..6_i64, 1..5)), 1..4),
            eager in any::<bool>(),
            layers in any::<bool>(),
            seed in 0..1000_i64,
        ) {
            let mode = if eager { AttentionMode::Eager } else { AttentionMode::Fused };
            let recompute = if layers { Recompute::Layers } else { Recompute::Nothing };
            for kind in [Kind::Double, Kind::Float] {
                compared(&groups, mode, recompute, kind, seed)?;
            }
        }
    }
}
