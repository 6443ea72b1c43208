//! One generated token per row: the decoder's forward pass in few operations, each of which costs more to start than to
//! do in a small model.

use tch::Tensor;

use super::{
    Linear, RmsNorm,
    cache::{Cache, paired},
    text::TextModel,
    wide_kind,
};
use crate::room::Room;

/// The text decoder as generation uses it. Weights must not change while it lives.
///
/// Queries, keys and values are projected by one product, with weights copied together in the order that
/// [`Cache::attend`] rotates: 6% of a 7B model's memory for as long as a rollout lasts. The gate and the projection
/// beside it stay apart: together they would take half of a model's memory again to save one operation.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    model: &'a TextModel,
    layers: Vec<Fused>,
    rooms: Rooms,
}

#[derive(Debug)]
struct Fused {
    qkv: Tensor,    // [(H + 2K) * E, D]
    bias: Tensor,   // [(H + 2K) * E]
    output: Tensor, // [H * E, D], a view
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(model: &'a TextModel) -> Self {
        let fused = model.layers.iter().map(|layer| {
            let attention = &layer.self_attn;
            let (q, k) = ((&attention.q_proj, attention.heads), (&attention.k_proj, attention.kv_heads));
            let fused = |part: fn(&Linear) -> Tensor| {
                let [q, k] = [q, k].map(|(linear, heads)| {
                    let x = part(linear); // [heads * E, D], or [heads * E]
                    paired(&x.unflatten(0, [heads, -1].as_slice()), 1).view_as(&x)
                });
                Tensor::cat(&[q, k, part(&attention.v_proj)], 0)
            };
            let bias = |linear: &Linear| match &linear.bias {
                Some(bias) => bias.shallow_clone(),
                None => Tensor::zeros([linear.weight.size()[0]], (linear.weight.kind(), linear.weight.device())),
            };
            Fused {
                qkv: fused(|linear| linear.weight.shallow_clone()),
                bias: fused(bias),
                output: attention.o_proj.weight.tr(),
            }
        });
        Self { model, layers: fused.collect(), rooms: Rooms::new(&model.norm) }
    }

    /// One generated token per row: ids `[B]` -> hidden `[B, D]`, good until the next call; its keys and values go into
    /// `cache`.
    pub(crate) fn decode_one_token(&mut self, ids: &Tensor, cache: &mut Cache) -> Tensor {
        let Self { model, layers, rooms } = self;
        let (rows, hidden) = (ids.size()[0], model.norm.weight.size()[0]);
        let mut x = rooms.x.shaped(&[rows, hidden]);
        model.embed_within(ids, &x);
        for (index, (layer, fused)) in model.layers.iter().zip(layers).enumerate() {
            let normal = rooms.norm.forward(&layer.input_layernorm, &x);
            let projected = product(&fused.qkv, Some(&fused.bias), &normal, &mut rooms.projected);
            let _ = x.addmm_(&cache.attend(index, &projected), &fused.output);
            let normal = rooms.norm.forward(&layer.post_attention_layernorm, &x);
            let times = |linear: &Linear, rows: &Tensor, room: &mut Room| product(&linear.weight, None, rows, room);
            let mut inner = times(&layer.mlp.gate, &normal, &mut rooms.gate);
            let _ = inner.silu_().multiply_(&times(&layer.mlp.up, &normal, &mut rooms.up));
            x += times(&layer.mlp.down, &inner, &mut rooms.down);
        }
        cache.advance();
        rooms.norm.forward(&model.norm, &x)
    }
}

/// Rows `[B, X]` times a weight `[Y, X]`, and a bias `[Y]`: `[B, Y]`. On a CPU a row's numbers do not lie side by side:
/// the weight times the rows is formed there, since the other way round MKL takes up to three times as long for few of them.
/// On CUDA they do: a number of rows that is no multiple of 8 would keep cuBLAS from its fast kernels for bf16.
fn product(weight: &Tensor, bias: Option<&Tensor>, rows: &Tensor, room: &mut Room) -> Tensor {
    let (count, width) = (rows.size()[0], weight.size()[0]);
    if rows.device().is_cuda() {
        let (product, weight) = (room.shaped(&[count, width]), weight.tr());
        return match bias {
            Some(bias) => bias.addmm_out(&product, rows, &weight),
            None => rows.mm_out(&product, &weight),
        };
    }
    let (product, rows) = (room.shaped(&[width, count]), rows.tr());
    let product = match bias {
        Some(bias) => bias.unsqueeze(1).addmm_out(&product, weight, &rows),
        None => weight.mm_out(&product, &rows),
    };
    product.tr()
}

/// What a token's pass is formed in, layer after layer.
#[derive(Debug)]
struct Rooms {
    x: Room,         // [B, D]
    projected: Room, // [B, (H + 2K) * E]
    gate: Room,      // [B, I]
    up: Room,        // [B, I]
    down: Room,      // [B, D]
    norm: NormRooms,
}

impl Rooms {
    fn new(norm: &RmsNorm) -> Self {
        let room = || Room::new(norm.weight.kind(), norm.weight.device());
        Self { x: room(), projected: room(), gate: room(), up: room(), down: room(), norm: NormRooms::new(norm) }
    }
}

/// [`RmsNorm::forward`] in room that is made once, and in fewer operations.
#[derive(Debug)]
struct NormRooms {
    mean: Tensor, // [D, 1], 1 / D: the product with it is a mean
    eps: Tensor,  // [1, 1]
    wide: Room,   // [B, D], as are the next ones
    squares: Room,
    normal: Room,
    typed: Room,
    scale: Room, // [B, 1]
}

impl NormRooms {
    /// For all norms of the same width and epsilon as this one.
    fn new(norm: &RmsNorm) -> Self {
        let (width, kind, device) = (norm.weight.size()[0], norm.weight.kind(), norm.weight.device());
        let wide = wide_kind(kind);
        let room = || Room::new(wide, device);
        Self {
            mean: Tensor::full([width, 1], 1.0 / width as f64, (wide, device)),
            eps: Tensor::full([1, 1], norm.eps, (wide, device)),
            wide: room(),
            squares: room(),
            normal: room(),
            typed: Room::new(kind, device),
            scale: room(),
        }
    }

    fn forward(&mut self, norm: &RmsNorm, x: &Tensor) -> Tensor {
        let shape = x.size();
        let x = self.wide.holding(x);
        let squares = x.multiply_out(&self.squares.shaped(&shape), &x);
        let scale = self.eps.addmm_out(&self.scale.shaped(&[shape[0], 1]), &squares, &self.mean).rsqrt_();
        let normal = x.multiply_out(&self.normal.shaped(&shape), &scale);
        self.typed.holding(&normal).multiply_(&norm.weight)
    }
}
