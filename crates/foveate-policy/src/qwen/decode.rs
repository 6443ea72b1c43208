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
    qkv: Tensor,    // [(H + 2K) * E, D]
    bias: Tensor,   // [(H + 2K) * E, 1]
    output: Tensor, // [H * E, D], a view
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(model: &'a TextModel) -> Self {
        let fused = model.layers.iter().map(|layer| {
            let attention = &layer.self_attn;
            let (q, k) = ((&attention.q_proj, attention.heads), (&attention.k_proj, attention.kv_heads));
            let fused = |part: fn(&Linear) -> Tensor| {
                let [q, k] = [q, k].map(|(linear, heads)| {
                    let x = part(linear); // [heads * E, X]
                    paired(&x.view([heads, x.size()[0] / heads, -1]), 1).view_as(&x)
                });
                Tensor::cat(&[q, k, part(&attention.v_proj)], 0)
            };
            let bias = |linear: &Linear| match &linear.bias {
                Some(bias) => bias.unsqueeze(1),
                None => Tensor::zeros([linear.weight.size()[0], 1], (linear.weight.kind(), linear.weight.device())),
            };
            Fused {
                qkv: fused(|linear| linear.weight.shallow_clone()),
                bias: fused(bias),
                output: attention.o_proj.weight.tr(),
            }
        });
        Self { model, layers: fused.collect() }
    }

    /// One generated token per row: ids `[B]` -> hidden `[B, D]`, its keys and values going into `cache`.
    pub(crate) fn decode_one_token(&self, ids: &Tensor, cache: &mut Cache) -> Tensor {
        let mut x = self.model.embed(ids);
        for (index, (layer, fused)) in self.model.layers.iter().zip(&self.layers).enumerate() {
            let normal = layer.input_layernorm.forward(&x);
            let projected = fused.bias.addmm(&fused.qkv, &normal.tr()).tr().contiguous();
            x = x.addmm(&cache.attend(index, projected), &fused.output);
            let normal = layer.post_attention_layernorm.forward(&x);
            let [mut gate, up] = [&layer.mlp.gate, &layer.mlp.up].map(|linear| linear.weight.mm(&normal.tr()));
            // The weight times the rows: the other way round MKL takes up to three times as long for few of them.
            x += layer.mlp.down.weight.mm(&gate.silu_().multiply_(&up)).tr();
        }
        cache.advance();
        self.model.norm.forward(&x)
    }
}
