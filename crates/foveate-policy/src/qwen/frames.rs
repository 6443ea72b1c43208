//! Frame attention: how much of a row's attention falls on the video tokens of each frame.

use tch::{Kind, Tensor};

/// Which rows' attention to which frames is wanted, within a group.
#[derive(Debug)]
pub(crate) struct FrameProbe {
    /// Rows of the group, `[R]`.
    pub(crate) rows: Tensor,
    /// Rows of the video tokens, `[C]`.
    pub(crate) columns: Tensor,
    /// 1 where video token c belongs to frame f, `[C, F]` f32.
    pub(crate) frames: Tensor,
    /// Whether video token c comes after row r, `[R, C]` bool; `None` if every row stands behind the video.
    pub(crate) hidden: Option<Tensor>,
}

/// Rows x heads x video tokens held at a time while frame attention is summed up.
const PROBE_ELEMENTS: i64 = 1 << 20;

/// Frame attention `[R, F]` of the probed rows, mean over heads, from q `[N, H, E]`, k `[N, K, E]` and the log-sum-exp
/// `lse` `[N, H]`: the weight of row r on column c is exp(q_r . k_c / sqrt(E) - lse_r), so only the video's columns are
/// ever formed, a bounded number of rows at a time. In f32: a score rounded to bf16 would be off by more than its
/// log-sum-exp is.
pub(super) fn frame_mass(q: &Tensor, k: &Tensor, lse: &Tensor, probe: &FrameProbe) -> Tensor {
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
        let weights =
            norms.baddbmm(&queries, &keys, -1.0, scale).exp_().view([kv_heads, count, heads / kv_heads, columns]);
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
