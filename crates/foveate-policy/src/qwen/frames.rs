//! Frame attention: how much of a row's attention falls on the video tokens of each frame.

use std::f64::consts::LOG2_E;

use tch::{Device, Tensor};

use super::{wide_baddbmm, wide_kind};
use crate::head::chunks;

/// Which rows' attention to which frames is wanted, within a group.
#[derive(Debug)]
pub(crate) struct FrameProbe {
    /// Rows of the group, `[R]`.
    pub(crate) rows: Tensor,
    /// The first of them.
    pub(crate) first: i64,
    /// Rows of the video tokens, `[C]`.
    pub(crate) columns: Tensor,
    /// 1 where video token c belongs to frame f, `[C, F]` f32.
    pub(crate) frames: Tensor,
    /// Video tokens of each frame, where all have as many and stand one after the other.
    pub(crate) length: Option<i64>,
    /// Consecutive columns of one frame, in order.
    pub(crate) runs: Vec<Run>,
    /// Whether some row stands before a video token, which it cannot see.
    pub(crate) before: bool,
}

/// Consecutive rows of one frame's video tokens.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: i64,
    /// The row after the last one.
    pub(crate) end: i64,
    pub(crate) frame: i64,
}

impl Run {
    /// Of the rows of all video tokens, in order, and the frame of each.
    pub(crate) fn all(rows: &[i64], frame_of: &[i64]) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for (row, frame) in rows.iter().zip(frame_of) {
            match runs.last_mut() {
                Some(run) if run.frame == *frame && run.end == *row => run.end += 1,
                _ => runs.push(Self { first: *row, end: row + 1, frame: *frame }),
            }
        }
        runs
    }
}

impl FrameProbe {
    /// Video tokens of each frame from the frame of each token, if they are as many of all `frames` and in their order.
    pub(crate) fn length(frame_of: &[i64], frames: i64) -> Option<i64> {
        let length = frame_of.len() as i64 / frames.max(1);
        let regular = frame_of.iter().zip(0..).all(|(frame, token): (_, i64)| *frame == token / length.max(1));
        (regular && length * frames == frame_of.len() as i64).then_some(length)
    }
}

/// From so many tokens a frame on, adding them up is cheaper than a product with the matrix of which belongs to which.
const LONG: i64 = 16;

/// Rows x heads x columns whose weights are held at a time where they are formed: enough to keep the cores, or a GPU, busy.
pub(super) fn held_elements(device: Device) -> i64 {
    if device == Device::Cpu { 1 << 22 } else { 1 << 26 }
}

/// Frame attention `[R, F]` of the probed rows, mean over heads, from q `[N, H, E]`, k `[N, K, E]` and the log-sum-exp
/// `lse` `[N, H]`: the weight of row r on column c is exp(q_r . k_c / sqrt(E) - lse_r), so only the video's columns are
/// ever formed, for as many rows at a time as give `held` weights. In f32: a score rounded to bf16 would be off by more
/// than its log-sum-exp is.
pub(super) fn frame_mass([q, k, lse]: [&Tensor; 3], probe: &FrameProbe, held: i64) -> Tensor {
    let (heads, width) = (q.size()[1], q.size()[2]);
    let (kv_heads, columns) = (k.size()[1], probe.columns.size()[0]);
    // Weights are formed as powers of two, which libtorch does twice as fast as powers of e on a CPU.
    let scale = (width as f64).powf(-0.5) * LOG2_E;
    let keys = k.index_select(0, &probe.columns).permute([1, 2, 0]); // [K, E, C]
    let kind = wide_kind(k.kind());
    let by_frame = probe.frames.to_kind(kind).tr().unsqueeze(0).expand([kv_heads, -1, -1], false); // [K, F, C]
    let rows = probe.rows.size()[0];
    let chunk = (held / (heads * columns).max(1)).max(1);
    let mut frames = Vec::new();
    for (start, count) in chunks(rows, chunk) {
        let picked = probe.rows.narrow(0, start, count);
        let by_head = |x: &Tensor| x.view([count, kv_heads, heads / kv_heads, -1]).transpose(0, 1).flatten(1, 2);
        let queries = by_head(&q.index_select(0, &picked));
        let lse = by_head(&(lse.index_select(0, &picked) * -LOG2_E));
        let weights = wide_baddbmm(&lse, &queries, &keys, scale).exp2_(); // [K, R * H/K, C]
        if probe.before {
            // Filled, not multiplied: what a row cannot see is not in its log-sum-exp and may be infinite here.
            let hidden = probe.columns.unsqueeze(0).gt_tensor(&picked.unsqueeze(1)).unsqueeze(1);
            let _ = weights.view([kv_heads, count, -1, columns]).masked_fill_(&hidden, 0.0);
        }
        frames.push(match probe.length {
            Some(length @ LONG..) => {
                let tokens = weights.view([kv_heads, count, heads / kv_heads, -1, length]);
                let mass = tokens.sum_dim_intlist(-1, false, kind); // [K, R, H/K, F]
                mass.mean_dim([0, 2].as_slice(), false, kind)
            }
            _ => {
                let mass = by_frame.bmm(&weights.transpose(1, 2)).unflatten(2, [count, -1]); // [K, F, R, H/K]
                mass.mean_dim([0, 3].as_slice(), false, kind).tr()
            }
        });
    }
    Tensor::cat(&frames, 0)
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn a_run_ends_where_the_frame_or_the_row_jumps() {
        let run = |first, end, frame| Run { first, end, frame };
        let runs = Run::all(&[2, 3, 4, 5, 9, 10], &[0, 0, 1, 1, 1, 0]);
        assert_eq!(runs, [run(2, 4, 0), run(4, 6, 1), run(9, 10, 1), run(10, 11, 0)]);
    }

    #[test]
    fn frames_of_equal_length_are_told() {
        assert_eq!(FrameProbe::length(&[0, 0, 1, 1, 2, 2], 3), Some(2));
        assert_eq!(FrameProbe::length(&[0, 0, 1, 2, 2, 2], 3), None);
        assert_eq!(FrameProbe::length(&[0, 0, 1, 1, 2], 3), None);
        assert_eq!(FrameProbe::length(&[1, 1, 0, 0], 2), None);
    }

    #[test]
    fn frames_of_equal_length_are_added_up_as_any_are() {
        let floats = (Kind::Float, Device::Cpu);
        let (rows, frames, heads) = (70, 3, 4);
        let q = Tensor::randn([rows, heads, 8], floats);
        let k = Tensor::randn([frames * LONG, 2, 8], floats);
        // More than there is here, as if other tokens were seen too.
        let lse = Tensor::full([rows, heads], 5.0, floats);
        let columns = Tensor::arange(frames * LONG, (Kind::Int64, Device::Cpu));
        let frame_of = columns.divide_scalar_mode(LONG, "floor");
        let mass = |length, before| {
            let probe = FrameProbe {
                rows: Tensor::arange(rows, (Kind::Int64, Device::Cpu)),
                first: 0,
                columns: columns.shallow_clone(),
                frames: frame_of.one_hot(frames).to_kind(Kind::Float),
                length,
                runs: Vec::new(),
                before,
            };
            frame_mass([&q, &k, &lse], &probe, held_elements(Device::Cpu))
        };
        for before in [false, true] {
            let (added, multiplied) = (mass(Some(LONG), before), mass(None, before));
            assert_eq!(added.size(), [rows, frames]);
            assert!((added - multiplied).abs().max().double_value(&[]) < 1e-6);
        }
    }
}
