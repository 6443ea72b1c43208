//! One generated token per row: the decoder's forward pass in few operations, each of which costs more to start than to
//! do in a small model.

use tch::Tensor;

use super::{
    Linear,
    cache::{Cache, paired},
    text::TextModel,
};

/// The text decoder as generation uses it. Weights must not change while it lives.
///
/// Queries, keys and values are projected by one product, with weights copied together in the order that
/// [`Cache::attend`] rotates: 6% of a 7B model's memory for as long as a rollout lasts. The gate and the projection
/// beside it stay apart: together they would take half of a model's memory again to save one operation.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    model: &'a TextModel,
    layers: Vec<Fused>,
}

#[derive(Debug)]
struct Fused {
    qkv: Linear,
    output: Tensor, // [H * E, D], a view
    down: Tensor,   // [inner, D], a view
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(model: &'a TextModel) -> Self {
        let fused = model.layers.iter().map(|layer| {
            let attention = &layer.self_attn;
            let halves = |x: &Tensor, heads: i64| {
                let (size, width) = (x.size(), x.size()[0] / heads);
                paired(&x.view([heads, width, -1]), 1).view(size.as_slice())
            };
            let parts = [(&attention.q_proj, attention.heads), (&attention.k_proj, attention.kv_heads)];
            let mut weights: Vec<_> = parts.iter().map(|(linear, heads)| halves(&linear.weight, *heads)).collect();
            weights.push(attention.v_proj.weight.shallow_clone());
            let mut biases: Vec<_> =
                parts.iter().filter_map(|(linear, heads)| Some(halves(linear.bias.as_ref()?, *heads))).collect();
            biases.extend(attention.v_proj.bias.as_ref().map(Tensor::shallow_clone));
            let bias = (!biases.is_empty()).then(|| Tensor::cat(&biases, 0));
            Fused {
                qkv: Linear { weight: Tensor::cat(&weights, 0), bias },
                output: attention.o_proj.weight.tr(),
                down: layer.mlp.down.weight.tr(),
            }
        });
        Self { model, layers: fused.collect() }
    }

    /// One generated token per row: ids `[B]` -> hidden `[B, D]`, its keys and values going into `cache`.
    pub(crate) fn decode_one_token(&self, ids: &Tensor, cache: &mut Cache) -> Tensor {
        let mut x = self.model.embed(ids);
        for (index, (layer, fused)) in self.model.layers.iter().zip(&self.layers).enumerate() {
            let projected = fused.qkv.forward(&layer.input_layernorm.forward(&x));
            x = x.addmm(&cache.attend(index, projected), &fused.output);
            let normal = layer.post_attention_layernorm.forward(&x);
            let gated = layer.mlp.gate.forward(&normal).silu_().multiply_(&layer.mlp.up.forward(&normal));
            x = x.addmm(&gated, &fused.down);
        }
        cache.advance();
        self.model.norm.forward(&x)
    }
}
