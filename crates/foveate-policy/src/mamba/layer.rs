//! A layer of Mamba-2: norm, mixer, residual.
//!
//! Shapes in comments: B rows, S positions, D hidden, I mixer width, H heads, P head dim, G groups, N state size, C
//! channels of the convolution (I + 2 G N), W its width.

use tch::{Device, Kind, Tensor};

use super::{
    config::MambaConfig,
    scan::{Inputs, scan, step},
};
use crate::{
    backbone::State,
    qwen::{Linear, RmsNorm, wide, wide_kind},
    weights::{Init, Weights},
};

/// A layer. Its input and output are f32 (f64 in an f64 model) whatever the weights' type, as `residual_in_fp32` of all
/// released checkpoints has it.
#[derive(Debug)]
pub(super) struct Layer {
    norm: RmsNorm,
    in_proj: Linear,
    conv_weight: Tensor, // [C, 1, W]
    conv_bias: Option<Tensor>,
    a_log: Tensor,   // [H]
    d: Tensor,       // [H]
    dt_bias: Tensor, // [H]
    gated_norm: RmsNorm,
    out_proj: Linear,
    config: MambaConfig,
}

impl Layer {
    pub(super) fn new(weights: &Weights, config: &MambaConfig) -> Self {
        let mixer = weights / "mixer";
        let (hidden, inner, channels) = (config.hidden_size, config.inner(), config.channels());
        let linear = if config.use_bias { Linear::new } else { Linear::without_bias };
        let conv = &mixer / "conv1d";
        Self {
            norm: RmsNorm::new(&(weights / "norm"), hidden, config.layer_norm_epsilon),
            in_proj: linear(&(&mixer / "in_proj"), hidden, inner + channels + config.num_heads),
            conv_weight: conv.get("weight", &[channels, 1, config.conv_kernel], Init::Made(uniform)),
            conv_bias: config.use_conv_bias.then(|| conv.get("bias", &[channels], Init::Zeros)),
            a_log: mixer.get("A_log", &[config.num_heads], Init::Made(decays)),
            d: mixer.get("D", &[config.num_heads], Init::Ones),
            dt_bias: mixer.get("dt_bias", &[config.num_heads], Init::Made(time_steps)),
            gated_norm: RmsNorm::new(&(&mixer / "norm"), inner, config.layer_norm_epsilon),
            out_proj: out_proj(&(&mixer / "out_proj"), config),
            config: config.clone(),
        }
    }

    /// What was seen of nothing, of `rows` rows: the last inputs of the convolution, `[B, W - 1, C]`, and the state-space state,
    /// `[B, H, P, N]` f32.
    pub(super) fn empty(&self, rows: i64) -> State {
        let c = &self.config;
        let options = (self.conv_weight.kind(), self.conv_weight.device());
        [
            Tensor::zeros([rows, c.conv_kernel - 1, c.channels()], options),
            Tensor::zeros([rows, c.num_heads, c.head_dim, c.state_size], (wide_kind(options.0), options.1)),
        ]
    }

    /// The layer's output `[B, S, D]` for its input behind what `before` has seen, and the state after it.
    pub(super) fn forward(&self, x: &Tensor, before: &State) -> (Tensor, State) {
        let (c, [conv, ssm]) = (&self.config, before);
        let (rows, length, _) = x.size3().unwrap_or_default();
        let (inner, heads, groups, size) = (c.inner(), c.num_heads, c.n_groups, c.state_size);
        let projected = self.in_proj.forward(&self.norm.forward(&x.to_kind(self.conv_weight.kind())));
        let [gate, mixed, dt] = split(&projected, [inner, c.channels(), heads]);

        let seen = Tensor::cat(&[conv, &mixed], 1); // [B, W - 1 + S, C]
        // A copy: a view would keep all of what was seen.
        let conv = seen.narrow(1, length, c.conv_kernel - 1).copy();
        let mixed = seen.transpose(1, 2).conv1d(&self.conv_weight, self.conv_bias.as_ref(), 1, 0, 1, c.channels());
        let mixed = wide(&mixed.transpose(1, 2).silu());

        let [u, b, read] = split(&mixed, [inner, groups * size, groups * size]);
        let u = u.reshape([rows, length, heads, c.head_dim]);
        let (least, most) = c.time_step_limit();
        let dt = wide(&(dt + &self.dt_bias)).softplus().clamp(least, most); // [B, S, H]
        let inputs = Inputs {
            x: &u * dt.unsqueeze(-1),
            a: -wide(&self.a_log).exp() * dt,
            b: b.reshape([rows, length, groups, size]),
            c: read.reshape([rows, length, groups, size]),
        };
        let (y, ssm) = if length == 1 { step(&inputs, ssm) } else { scan(&inputs, ssm, c.chunk_size) };
        let y = (y + u * wide(&self.d).unsqueeze(-1)).reshape([rows, length, inner]);
        let y = self.gated_norm.forward(&(y * wide(&gate).silu())).to_kind(gate.kind());
        (x + self.out_proj.forward(&y), [conv, ssm])
    }
}

fn out_proj(weights: &Weights, config: &MambaConfig) -> Linear {
    let shape = [config.hidden_size, config.inner()];
    let bias = config.use_bias.then(|| weights.get("bias", &shape[..1], Init::Zeros));
    Linear::of(weights.get("weight", &shape, Init::Made(uniform)), bias)
}

/// Uniform within the reciprocal root of the last axis, as libtorch's layers and convolutions of one channel begin.
fn uniform(shape: &[i64]) -> Tensor {
    let bound = 1.0 / (shape.last().copied().unwrap_or(1) as f64).sqrt();
    Tensor::empty(shape, (Kind::Float, Device::Cpu)).uniform_(-bound, bound)
}

/// Heads forget at rates 1, 2, 3 ...
fn decays(shape: &[i64]) -> Tensor {
    (Tensor::arange(shape[0], (Kind::Float, Device::Cpu)) + 1.0).log()
}

/// What softplus makes time steps of, their logarithms uniform between those of 0.001 and 0.1.
fn time_steps(shape: &[i64]) -> Tensor {
    let (least, most) = (0.001_f64.ln(), 0.1_f64.ln());
    let dt = (Tensor::rand(shape, (Kind::Float, Device::Cpu)) * (most - least) + least).exp().clamp_min(1e-4);
    &dt + (-(-&dt).expm1()).log()
}

/// Consecutive parts of the last axis.
fn split<const N: usize>(x: &Tensor, widths: [i64; N]) -> [Tensor; N] {
    let mut start = 0;
    widths.map(|width| {
        start += width;
        x.narrow(-1, start - width, width)
    })
}
