//! Qwen2.5-VL, after the released checkpoints (Bai et al. 2025, arXiv 2502.13923). Shapes in comments:
//! N packed tokens, P prompt tokens, G completions, T tokens of the longest completion, D hidden, H heads, K key-value
//! heads, E head dim, F frames (temporal grids), V vocabulary.

pub(crate) mod attention;
mod backbone;
mod backward;
pub(crate) mod cache;
pub(crate) mod decode;
pub(crate) mod frames;
mod framewise;
pub(crate) mod pack;
pub(crate) mod rope;
pub(crate) mod tape;
pub(crate) mod text;
pub(crate) mod vision;

use tch::{Device, Kind, Tensor};

use crate::weights::{Init, Weights};

pub use attention::AttentionMode;
pub(crate) use backbone::TextBackbone;
pub use tape::Recompute;
pub(crate) use tape::push;

/// A linear layer: weight `[out, in]` and, for some, a bias `[out]`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn new(weights: &Weights, input: i64, output: i64) -> Self {
        let bias = Some(weights.get("bias", &[output], Init::Zeros));
        Self { bias, ..Self::without_bias(weights, input, output) }
    }

    pub(crate) fn without_bias(weights: &Weights, input: i64, output: i64) -> Self {
        let weight = weights.get("weight", &[output, input], Init::Normal);
        Self { weight, bias: None }
    }

    /// The layer of these tensors.
    pub(crate) fn of(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// Root-mean-square norm, computed in f32 whatever the weights' type.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    pub(crate) fn new(weights: &Weights, width: i64, eps: f64) -> Self {
        let weight = weights.get("weight", &[width], Init::Ones);
        Self { weight, eps }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let kind = x.kind();
        let x = wide(x);
        let mean_square = x.square().mean_dim(-1, true, x.kind());
        let normal = &x * (mean_square + self.eps).rsqrt();
        &self.weight * normal.to_kind(kind)
    }
}

/// The number type that sums over this one are formed in: f32, or f64 for itself.
pub(crate) fn wide_kind(kind: Kind) -> Kind {
    if kind == Kind::Double { kind } else { Kind::Float }
}

/// The same numbers in that type.
pub(crate) fn wide(x: &Tensor) -> Tensor {
    x.to_kind(wide_kind(x.kind()))
}

/// `a b` `[B, M, N]` in that type, of `[B, M, K]` and `[B, K, N]`. CUDA multiplies bf16 as it is, with sums in f32.
pub(crate) fn wide_bmm(a: &Tensor, b: &Tensor) -> Tensor {
    if has_wide_products(a.device(), a.kind()) { a.bmm_dtype(b, Kind::Float) } else { wide(a).bmm(&wide(b)) }
}

/// `bias + scale a b`, the same way; the bias is spread over `[B, M, N]`.
pub(crate) fn wide_baddbmm(bias: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Tensor {
    if has_wide_products(a.device(), a.kind()) {
        let bias = bias.expand([a.size()[0], a.size()[1], b.size()[2]], false);
        return bias.baddbmm_dtype(a, b, Kind::Float, 1.0, scale);
    }
    bias.baddbmm(&wide(a), &wide(b), 1.0, scale)
}

/// Whether products of such factors can have f32 results without wider copies of them.
fn has_wide_products(device: Device, kind: Kind) -> bool {
    device.is_cuda() && kind == Kind::BFloat16
}

/// Rows of `x` `[N, D]`, some of them several times. Gradients of such a row are summed in a fixed order on CUDA too, unlike
/// those of `index_select`.
pub(crate) fn picked(x: &Tensor, rows: &Tensor) -> Tensor {
    Tensor::embedding(x, rows, -1, false, false)
}

/// Gated MLP: `down(silu(gate(x)) * up(x))`.
#[derive(Debug)]
pub(crate) struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Mlp {
    pub(crate) fn new(weights: &Weights, make: fn(&Weights, i64, i64) -> Linear, hidden: i64, inner: i64) -> Self {
        Self {
            gate: make(&(weights / "gate_proj"), hidden, inner),
            up: make(&(weights / "up_proj"), hidden, inner),
            down: make(&(weights / "down_proj"), inner, hidden),
        }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        self.down.forward(&(self.gate.forward(x).silu() * self.up.forward(x)))
    }
}
