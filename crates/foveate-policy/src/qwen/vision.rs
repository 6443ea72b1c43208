//! The vision tower: windowed attention in most blocks, attention over a whole frame in `fullatt_block_indexes`, and
//! the merger that turns merge x merge patches into one token.
//!
//! Patches are reordered once so that every frame lies together and, inside it, windows of one size lie together.
//! Attention over windows is then a batch per size and attention over frames a batch of frames: no mask at all.

use tch::{Device, Kind, Tensor};

use super::{Linear, Mlp, RmsNorm, rope::Rope};
use crate::{
    config::VisionConfig,
    weights::{Init, Weights},
};

// A constant of the architecture that config.json leaves out.
const NORM_EPS: f64 = 1e-6;

#[derive(Debug)]
struct Block {
    norm1: RmsNorm,
    norm2: RmsNorm,
    qkv: Linear,
    proj: Linear,
    mlp: Mlp,
    heads: i64,
    whole_frame: bool,
}

impl Block {
    fn new(weights: &Weights, config: &VisionConfig, index: i64) -> Self {
        let hidden = config.hidden_size;
        let attn = weights / "attn";
        Self {
            norm1: RmsNorm::new(&(weights / "norm1"), hidden, NORM_EPS),
            norm2: RmsNorm::new(&(weights / "norm2"), hidden, NORM_EPS),
            qkv: Linear::new(&(&attn / "qkv"), hidden, 3 * hidden),
            proj: Linear::new(&(&attn / "proj"), hidden, hidden),
            mlp: Mlp::new(&(weights / "mlp"), Linear::new, hidden, config.intermediate_size),
            heads: config.num_heads,
            whole_frame: config.fullatt_block_indexes.contains(&index),
        }
    }

    fn forward(&self, x: &Tensor /* [N, D] */, rope: &Rope, order: &WindowOrder) -> Tensor {
        let (patches, hidden) = x.size2().unwrap_or_default();
        let qkv = self.qkv.forward(&self.norm1.forward(x)).view([patches, 3, self.heads, hidden / self.heads]);
        let (q, k, v) = (rope.rotate(&qkv.select(1, 0)), rope.rotate(&qkv.select(1, 1)), qkv.select(1, 2));
        let frame = WindowSize { windows: 1, patches: patches / order.frames };
        let sizes = if self.whole_frame { std::slice::from_ref(&frame) } else { &order.sizes };
        let mut start = 0;
        let mut outputs = Vec::new();
        for size in sizes {
            let span = size.windows * size.patches;
            let take = |x: &Tensor| {
                let frames = x.view([order.frames, -1, self.heads, hidden / self.heads]);
                let windows = frames.narrow(1, start, span);
                windows.reshape([-1, size.patches, self.heads, hidden / self.heads]).transpose(1, 2)
            };
            let out = Tensor::scaled_dot_product_attention::<&Tensor>(
                &take(&q),
                &take(&k),
                &take(&v),
                None,
                0.0,
                false,
                None,
                false,
            );
            outputs.push(out.transpose(1, 2).reshape([order.frames, span, hidden]));
            start += span;
        }
        let x = x + self.proj.forward(&Tensor::cat(&outputs, 1).view([patches, hidden]));
        &x + self.mlp.forward(&self.norm2.forward(&x))
    }
}

/// The vision tower with its merger.
#[derive(Debug)]
pub(crate) struct VisionTower {
    config: VisionConfig,
    patch_embed: Tensor, // [D, channels, temporal, patch, patch]
    blocks: Vec<Block>,
    ln_q: RmsNorm,
    merge_in: Linear,
    merge_out: Linear,
}

impl VisionTower {
    pub(crate) fn new(weights: &Weights, config: &VisionConfig) -> Self {
        let visual = weights / "visual";
        let (patch, merged) = (config.patch_size, config.hidden_size * config.merge_area());
        let kernel = [config.hidden_size, config.in_channels, config.temporal_patch_size, patch, patch];
        let patch_embed = (&visual / "patch_embed" / "proj").get("weight", &kernel, Init::Normal);
        let merger = &visual / "merger";
        Self {
            config: config.clone(),
            patch_embed,
            blocks: (0..config.depth).map(|i| Block::new(&(&visual / "blocks" / i), config, i)).collect(),
            ln_q: RmsNorm::new(&(&merger / "ln_q"), config.hidden_size, NORM_EPS),
            merge_in: Linear::new(&(&merger / "mlp" / 0), merged, merged),
            merge_out: Linear::new(&(&merger / "mlp" / 2), merged, config.out_hidden_size),
        }
    }

    /// Features of pictures of one size that nothing connects, a bounded number at a time: the patches of each, grid (1, h, w)
    /// -> `[pictures, merged patches, D]`. The tower never looks from one temporal grid to another, so that pictures are as
    /// good as the grids of a video.
    pub(crate) fn each_frame(&self, frames: &[&[f32]], [h, w]: [i64; 2], device: Device) -> Tensor {
        const AT_ONCE: usize = 64;
        let features = frames.chunks(AT_ONCE).map(|frames| {
            let count = frames.len() as i64;
            let pixels = Tensor::from_slice(&frames.concat()).view([count * h * w, -1]).to_device(device);
            self.forward(&pixels, [count, h, w]).unflatten(0, [count, -1])
        });
        Tensor::cat(&features.collect::<Vec<_>>(), 0)
    }

    /// Features of one picture or video: patches `[N, patch dim]` in Qwen's order with their grid (t, h, w) ->
    /// `[N / merge^2, D]` in grid order.
    pub(crate) fn forward(&self, pixels: &Tensor, grid: [i64; 3]) -> Tensor {
        let device = pixels.device();
        let order = WindowOrder::new(&self.config, grid);
        let area = self.config.merge_area();
        let index = Tensor::from_slice(&order.tokens).to_device(device);
        let reorder = |x: Tensor| {
            let width = x.size()[1..].iter().product::<i64>();
            x.reshape([-1, area * width]).index_select(0, &index).view([-1, width])
        };
        let [rows, columns] =
            coordinates(&self.config, grid, device).map(|axis| reorder(axis.unsqueeze(-1)).squeeze_dim(-1));
        let rope = Rope::vision(self.config.hidden_size / self.config.num_heads, &rows, &columns);
        // Flattened here and not kept so: a view from before the parameter is trainable would pass it no gradient.
        let patch_embed = self.patch_embed.flatten(1, -1);
        let mut x = reorder(pixels.to_kind(patch_embed.kind()).linear::<&Tensor>(&patch_embed, None));
        for block in &self.blocks {
            x = block.forward(&x, &rope, &order);
        }
        let merged = self.ln_q.forward(&x).view([-1, area * self.config.hidden_size]);
        let features = self.merge_out.forward(&self.merge_in.forward(&merged).gelu("none"));
        features.index_select(0, &index.argsort(0, false))
    }
}

/// Row and column of every patch, `[N]` each, in Qwen's order: by merged cell, then inside the cell.
fn coordinates(config: &VisionConfig, [t, h, w]: [i64; 3], device: Device) -> [Tensor; 2] {
    let merge = config.spatial_merge_size;
    let options = (Kind::Int64, device);
    let rows = Tensor::arange(h, options).unsqueeze(1).expand([h, w], false);
    let columns = Tensor::arange(w, options).unsqueeze(0).expand([h, w], false);
    [rows, columns].map(|axis| {
        let cells = axis.reshape([h / merge, merge, w / merge, merge]).permute([0, 2, 1, 3]);
        cells.reshape([1, -1]).expand([t, -1], false).reshape([-1])
    })
}

#[derive(Debug, Clone, Copy)]
struct WindowSize {
    windows: i64,
    patches: i64,
}

/// The order of merged tokens in which windows of equal size are neighbours within each frame.
#[derive(Debug)]
struct WindowOrder {
    frames: i64,
    tokens: Vec<i64>,
    sizes: Vec<WindowSize>,
}

impl WindowOrder {
    fn new(config: &VisionConfig, [t, h, w]: [i64; 3]) -> Self {
        let merge = config.spatial_merge_size;
        let (rows, columns) = (h / merge, w / merge);
        let side = config.window_size / merge / config.patch_size;
        let mut windows: Vec<Vec<i64>> = Vec::new();
        for top in (0..rows).step_by(side as usize) {
            for left in (0..columns).step_by(side as usize) {
                let inside = |row: i64| (left..columns.min(left + side)).map(move |column| row * columns + column);
                windows.push((top..rows.min(top + side)).flat_map(inside).collect());
            }
        }
        windows.sort_by_key(Vec::len);
        let mut sizes: Vec<WindowSize> = Vec::new();
        for window in &windows {
            let patches = window.len() as i64 * config.merge_area();
            match sizes.last_mut() {
                Some(size) if size.patches == patches => size.windows += 1,
                _ => sizes.push(WindowSize { windows: 1, patches }),
            }
        }
        let frame: Vec<i64> = windows.into_iter().flatten().collect();
        let tokens = (0..t).flat_map(|f| frame.iter().map(move |token| f * rows * columns + token)).collect();
        Self { frames: t, tokens, sizes }
    }
}
