//! Scaled dot-product attention over a packed group, with the frame attention it can report.
//!
//! A group is packed as P prompt rows followed by G x T completion rows. Prompt rows see the prompt causally; the rows
//! of completion g see the whole prompt and themselves causally. No mask is larger than `[T, P + T]`.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

/// How attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionMode {
    /// Fused kernels; frame attention from their log-sum-exp, without any S x S matrix.
    #[default]
    Fused,
    /// All weights formed explicitly: the oracle for the fused one.
    Eager,
}

/// Rows of a packed group: P prompt tokens, then G completions of T tokens each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) prompt: i64,
    pub(crate) completions: i64,
    pub(crate) length: i64,
}

/// Which rows' attention to which frames is wanted.
#[derive(Debug)]
pub(crate) struct FrameProbe {
    /// Packed rows, `[R]`.
    pub(crate) rows: Tensor,
    /// Packed rows of the video tokens, `[C]`.
    pub(crate) columns: Tensor,
    /// 1 where video token c belongs to frame f, `[C, F]` f32.
    pub(crate) frames: Tensor,
    /// Whether video token c comes after row r, `[R, C]` bool; `None` if every row stands behind the video.
    pub(crate) hidden: Option<Tensor>,
}

/// Rows x heads x video tokens held at a time while frame attention is summed up.
const PROBE_ELEMENTS: i64 = 1 << 24;

/// Attention of one layer over a packed group. `q`: `[N, H, E]`, `k`, `v`: `[N, K, E]`; out `[N, H * E]` and, with a
/// probe, the frame attention `[R, F]`, mean over heads.
pub(crate) fn attend(
    mode: AttentionMode,
    layout: &Layout,
    [q, k, v]: [&Tensor; 3],
    probe: Option<&FrameProbe>,
) -> (Tensor, Option<Tensor>) {
    let (heads, width) = (q.size()[1], q.size()[2]);
    let repeat = heads / k.size()[1];
    let mut parts = Vec::new();
    let mut taps = Vec::new();
    if layout.prompt > 0 {
        let [q, k, v] = [(q, 1), (k, repeat), (v, repeat)]
            .map(|(x, repeat)| batched(&x.narrow(0, 0, layout.prompt).unsqueeze(0), repeat));
        parts.push(Block { q, k, v, mask: Mask::Causal });
    }
    if layout.completions > 0 {
        let own = |x: &Tensor| {
            let rows = x.narrow(0, layout.prompt, layout.completions * layout.length);
            rows.view([layout.completions, layout.length, x.size()[1], width])
        };
        let behind = |x: &Tensor| {
            let prompt = x.narrow(0, 0, layout.prompt).unsqueeze(0);
            Tensor::cat(&[prompt.expand([layout.completions, -1, -1, -1], false), own(x)], 1)
        };
        let mask = Mask::Additive(prefix_mask(layout, q.kind(), q.device()));
        parts.push(Block {
            q: batched(&own(q), 1),
            k: batched(&behind(k), repeat),
            v: batched(&behind(v), repeat),
            mask,
        });
    }
    let mut outputs = Vec::new();
    for part in &parts {
        let (out, tap) = part.run(mode, probe);
        outputs.push(out.transpose(1, 2).reshape([-1, heads * width]));
        taps.extend(tap);
    }
    // Frame attention is a measurement: no graph is kept for it.
    let frames = probe.map(|probe| {
        no_grad(|| {
            let taps = Tensor::cat(&taps, 0);
            match mode {
                AttentionMode::Eager => taps.index_select(0, &probe.rows),
                AttentionMode::Fused => frame_mass(q, k, &taps, probe),
            }
        })
    });
    (Tensor::cat(&outputs, 0), frames)
}

/// `[B, S, heads, E]` -> `[B, heads * repeat, S, E]`.
fn batched(x: &Tensor, repeat: i64) -> Tensor {
    let x = if repeat > 1 { x.repeat_interleave_self_int(repeat, 2, None) } else { x.shallow_clone() };
    x.transpose(1, 2)
}

/// 0 where completion row t sees column c (the whole prompt, then itself up to t), -inf elsewhere: `[T, P + T]`.
fn prefix_mask(layout: &Layout, kind: Kind, device: Device) -> Tensor {
    let hidden = Tensor::full([layout.length, layout.prompt + layout.length], f64::NEG_INFINITY, (kind, device));
    hidden.triu(layout.prompt + 1)
}

enum Mask {
    Causal,
    Additive(Tensor),
}

struct Block {
    q: Tensor, // [B, H, Q, E]
    k: Tensor, // [B, H, S, E]
    v: Tensor, // [B, H, S, E]
    mask: Mask,
}

impl Block {
    /// The output `[B, H, Q, E]` and, for a probe, what it needs of these rows: their frame attention `[B * Q, F]`
    /// (eager) or their log-sum-exp `[B * Q, H]` (fused).
    fn run(&self, mode: AttentionMode, probe: Option<&FrameProbe>) -> (Tensor, Option<Tensor>) {
        match (mode, probe) {
            (AttentionMode::Eager, probe) => {
                let weights = self.weights();
                let out = weights.to_kind(self.v.kind()).matmul(&self.v);
                let frames = probe.map(|probe| {
                    no_grad(|| {
                        let mass = weights.mean_dim(1, false, Kind::Float).index_select(-1, &probe.columns);
                        mass.matmul(&probe.frames).flatten(0, 1)
                    })
                });
                (out, frames)
            }
            (AttentionMode::Fused, None) => (self.fused().0, None),
            (AttentionMode::Fused, Some(_)) => {
                let (out, lse) = self.fused();
                (out, Some(lse.transpose(1, 2).flatten(0, 1)))
            }
        }
    }

    /// Softmax weights `[B, H, Q, S]`, scores and all in f32 as in the fused kernels.
    fn weights(&self) -> Tensor {
        let scale = (self.q.size()[3] as f64).powf(-0.5);
        let [q, k] = [&self.q, &self.k].map(|x| x.to_kind(Kind::Float));
        let scores = q.matmul(&k.transpose(-2, -1)) * scale;
        let scores = match &self.mask {
            Mask::Causal => {
                let hidden = Tensor::full([scores.size()[2]; 2], f64::NEG_INFINITY, (scores.kind(), scores.device()));
                scores + hidden.triu(1)
            }
            Mask::Additive(mask) => scores + mask,
        };
        scores.softmax(-1, Kind::Float)
    }

    /// Output and log-sum-exp `[B, H, Q]` of libtorch's fused kernels.
    fn fused(&self) -> (Tensor, Tensor) {
        let (causal, mask) = match &self.mask {
            Mask::Causal => (true, None),
            Mask::Additive(mask) => (false, Some(mask)),
        };
        if self.q.device().is_cuda() {
            // The memory-efficient kernel wants a bias of full shape whose rows are aligned to 8 elements.
            let bias = mask.map(|mask| aligned_bias(mask, &self.q));
            let (out, lse, _, _) = Tensor::internal_scaled_dot_product_efficient_attention(
                &self.q,
                &self.k,
                &self.v,
                bias,
                true,
                0.0,
                causal,
                None::<f64>,
            );
            // Its log-sum-exp is padded to a multiple of 32 rows.
            return (out, lse.narrow(2, 0, self.q.size()[2]));
        }
        Tensor::internal_scaled_dot_product_flash_attention_for_cpu(
            &self.q,
            &self.k,
            &self.v,
            0.0,
            causal,
            mask,
            None::<f64>,
        )
    }
}

fn aligned_bias(mask: &Tensor, q: &Tensor) -> Tensor {
    let columns = mask.size()[1];
    let pad = (8 - columns % 8) % 8;
    let aligned = mask.constant_pad_nd([0, pad]);
    let [batch, heads, rows, _] = [q.size()[0], q.size()[1], q.size()[2], 0];
    aligned.expand([batch, heads, rows, columns + pad], false).narrow(3, 0, columns)
}

/// Frame attention `[R, F]` of the probed rows from the log-sum-exp `lse` `[N, H]`: the weight of row r on column c is
/// exp(q_r . k_c / sqrt(E) - lse_r), so only the video's columns are ever formed, a bounded number of rows at a time.
/// In f32: a score rounded to bf16 would be off by more than its log-sum-exp is.
fn frame_mass(q: &Tensor, k: &Tensor, lse: &Tensor, probe: &FrameProbe) -> Tensor {
    let (heads, width) = (q.size()[1], q.size()[2]);
    let kv_heads = k.size()[1];
    let scale = (width as f64).powf(-0.5);
    let columns = probe.columns.size()[0];
    let keys = k.index_select(0, &probe.columns).to_kind(Kind::Float).permute([1, 2, 0]); // [K, E, C]
    let rows = probe.rows.size()[0];
    let chunk = (PROBE_ELEMENTS / (heads * columns).max(1)).max(1);
    let mut frames = Vec::new();
    let mut start = 0;
    while start < rows {
        let count = chunk.min(rows - start);
        let picked = probe.rows.narrow(0, start, count);
        let spread =
            |x: Tensor, last: i64| x.view([count, kv_heads, -1, last]).transpose(0, 1).reshape([kv_heads, -1, last]);
        let queries = spread(q.index_select(0, &picked).to_kind(Kind::Float), width); // [K, R * H/K, E]
        let norms = spread(lse.index_select(0, &picked), 1); // [K, R * H/K, 1]
        let weights = (queries.matmul(&keys) * scale - norms).exp();
        let weights = weights.view([kv_heads, count, heads / kv_heads, columns]);
        let mut mass = weights.sum_dim_intlist([0, 2].as_slice(), false, Kind::Float); // [R, C]
        if let Some(hidden) = &probe.hidden {
            // Filled, not multiplied: what a row cannot see is not in its log-sum-exp and may be infinite here.
            mass = mass.masked_fill(&hidden.narrow(0, start, count), 0.0);
        }
        frames.push(mass.matmul(&probe.frames) / heads as f64);
        start += count;
    }
    Tensor::cat(&frames, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn randn(shape: [i64; 3]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    /// Rows 0 to 5 probe video tokens 1, 2 (frame 0) and 4 (frame 1).
    fn probe(hidden: bool) -> FrameProbe {
        let rows = Tensor::arange(6, (Kind::Int64, Device::Cpu));
        let columns = Tensor::from_slice(&[1_i64, 2, 4]);
        let hidden = hidden.then(|| columns.unsqueeze(0).gt_tensor(&rows.unsqueeze(1)));
        let frames = Tensor::from_slice(&[1.0_f32, 0.0, 1.0, 0.0, 0.0, 1.0]).view([3, 2]);
        FrameProbe { rows, columns, frames, hidden }
    }

    #[test]
    fn what_a_row_cannot_see_has_no_mass_even_where_its_weight_would_overflow() {
        let (q, k) =
            (Tensor::ones([6, 2, 4], (Kind::Float, Device::Cpu)), Tensor::ones([6, 1, 4], (Kind::Float, Device::Cpu)));
        let lse = Tensor::full([6, 2], -200.0, (Kind::Float, Device::Cpu)); // weights of exp(202)
        let mass = frame_mass(&q, &k, &lse, &probe(true));
        assert_eq!(Vec::<f32>::try_from(mass.get(0)).unwrap(), [0.0, 0.0]);
        assert_eq!(mass.get(5).isfinite().any().int64_value(&[]), 0, "the weights that it does see overflow");
    }

    #[test]
    fn both_modes_agree_on_packed_groups_of_any_layout() {
        tch::manual_seed(8);
        for (prompt, completions, length) in [(6, 0, 0), (6, 3, 1), (7, 2, 5), (13, 1, 9)] {
            let layout = Layout { prompt, completions, length };
            let rows = prompt + completions * length;
            let (q, k, v) = (randn([rows, 4, 8]), randn([rows, 2, 8]), randn([rows, 2, 8]));
            let probe = probe(true);
            let [eager, fused] = [AttentionMode::Eager, AttentionMode::Fused]
                .map(|mode| attend(mode, &layout, [&q, &k, &v], Some(&probe)));
            let difference = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
            assert!(difference(&eager.0, &fused.0) < 1e-5);
            assert!(difference(&eager.1.unwrap(), &fused.1.unwrap()) < 1e-6);
        }
    }

    #[test]
    fn frame_attention_of_bf16_is_that_of_the_same_numbers_in_f32() {
        tch::manual_seed(9);
        let layout = Layout { prompt: 6, completions: 0, length: 0 };
        // Scores of some tens, where bf16 is spaced by 1/8.
        let [q, k, v] =
            [randn([6, 4, 8]) * 6.0, randn([6, 2, 8]) * 6.0, randn([6, 2, 8])].map(|x| x.to_kind(Kind::BFloat16));
        let [wide_q, wide_k, wide_v] = [&q, &k, &v].map(|x| x.to_kind(Kind::Float));
        let (_, expected) = attend(AttentionMode::Eager, &layout, [&wide_q, &wide_k, &wide_v], Some(&probe(true)));
        for mode in [AttentionMode::Eager, AttentionMode::Fused] {
            let (_, found) = attend(mode, &layout, [&q, &k, &v], Some(&probe(true)));
            let difference = (found.unwrap() - expected.as_ref().unwrap()).abs().max().double_value(&[]);
            assert!(difference < 1e-4, "{mode:?}: {difference}");
        }
    }

    #[test]
    fn frame_attention_keeps_no_graph() {
        let layout = Layout { prompt: 6, completions: 0, length: 0 };
        let (q, k, v) = (randn([6, 2, 8]).set_requires_grad(true), randn([6, 1, 8]), randn([6, 1, 8]));
        for mode in [AttentionMode::Eager, AttentionMode::Fused] {
            let (out, frames) = attend(mode, &layout, [&q, &k, &v], Some(&probe(true)));
            assert!(out.requires_grad() && !frames.unwrap().requires_grad());
        }
    }
}
