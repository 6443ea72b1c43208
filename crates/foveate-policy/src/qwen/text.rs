//! The text decoder and its packed forward pass over a group.

use foveate_algo::Layers;
use tch::Tensor;

use super::{
    Linear, Mlp, RmsNorm,
    attention::{AttentionMode, FrameProbe, Layout, attend},
    rope::Rope,
};
use crate::{
    config::TextConfig,
    weights::{Init, Weights},
};

#[derive(Debug)]
pub(super) struct Attention {
    pub(super) q_proj: Linear,
    pub(super) k_proj: Linear,
    pub(super) v_proj: Linear,
    pub(super) o_proj: Linear,
    pub(super) heads: i64,
    pub(super) kv_heads: i64,
}

impl Attention {
    fn new(weights: &Weights, config: &TextConfig) -> Self {
        let (hidden, width) = (config.hidden_size, config.head_dim());
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        Self {
            q_proj: Linear::new(&(weights / "q_proj"), hidden, heads * width),
            k_proj: Linear::new(&(weights / "k_proj"), hidden, kv_heads * width),
            v_proj: Linear::new(&(weights / "v_proj"), hidden, kv_heads * width),
            o_proj: Linear::without_bias(&(weights / "o_proj"), heads * width, hidden),
            heads,
            kv_heads,
        }
    }

    /// Rotated queries `[N, H, E]` and keys, and values, `[N, K, E]`.
    fn project(&self, x: &Tensor, rope: &Rope) -> [Tensor; 3] {
        let rows = x.size()[0];
        let split = |layer: &Linear, heads: i64| layer.forward(x).view([rows, heads, -1]);
        [
            rope.rotate(&split(&self.q_proj, self.heads)),
            rope.rotate(&split(&self.k_proj, self.kv_heads)),
            split(&self.v_proj, self.kv_heads),
        ]
    }
}

#[derive(Debug)]
pub(super) struct Layer {
    pub(super) input_layernorm: RmsNorm,
    pub(super) self_attn: Attention,
    pub(super) post_attention_layernorm: RmsNorm,
    pub(super) mlp: Mlp,
}

impl Layer {
    fn new(weights: &Weights, config: &TextConfig) -> Self {
        let (hidden, eps) = (config.hidden_size, config.rms_norm_eps);
        Self {
            input_layernorm: RmsNorm::new(&(weights / "input_layernorm"), hidden, eps),
            self_attn: Attention::new(&(weights / "self_attn"), config),
            post_attention_layernorm: RmsNorm::new(&(weights / "post_attention_layernorm"), hidden, eps),
            mlp: Mlp::new(&(weights / "mlp"), Linear::without_bias, hidden, config.intermediate_size),
        }
    }

    /// The layer around `attend`, which turns projections into the attention's output `[N, H * E]`.
    fn forward(&self, x: &Tensor, rope: &Rope, attend: impl FnOnce([Tensor; 3]) -> Tensor) -> Tensor {
        let projected = self.self_attn.project(&self.input_layernorm.forward(x), rope);
        let x = x + self.self_attn.o_proj.forward(&attend(projected));
        &x + self.mlp.forward(&self.post_attention_layernorm.forward(&x))
    }
}

/// What a packed forward pass reports beside its hidden states.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    /// Frame attention of the last `frame_layers` layers, each `[R, F]`.
    pub(crate) frame_attention: Vec<Tensor>,
    /// Rotated keys and values of every layer, each `[N, K, E]`.
    pub(crate) keys_values: Vec<[Tensor; 2]>,
}

/// What to report.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) frames: Option<&'a FrameProbe>,
    pub(crate) frame_layers: usize,
    pub(crate) keys_values: bool,
}

/// The decoder of Qwen2.5 with mRoPE.
#[derive(Debug)]
pub(crate) struct TextModel {
    embed_tokens: Tensor,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: RmsNorm,
    lm_head: Option<Tensor>,
    mode: AttentionMode,
}

impl TextModel {
    pub(crate) fn new(weights: &Weights, config: &TextConfig, mode: AttentionMode) -> Self {
        let shape = [config.vocab_size, config.hidden_size];
        let model = weights / "model";
        let embed_tokens = (&model / "embed_tokens").get("weight", &shape, Init::Normal);
        let layers = (0..config.num_hidden_layers).map(|i| Layer::new(&(&model / "layers" / i), config)).collect();
        let norm = RmsNorm::new(&(&model / "norm"), config.hidden_size, config.rms_norm_eps);
        let lm_head = (!config.tie_word_embeddings).then(|| (weights / "lm_head").get("weight", &shape, Init::Normal));
        Self { embed_tokens, layers, norm, lm_head, mode }
    }

    /// How many of the last layers `layers` names.
    pub(crate) fn count(&self, layers: Layers) -> usize {
        match layers {
            Layers::All => self.layers.len(),
            Layers::Last(count) => count.min(self.layers.len()),
        }
    }

    /// Token embeddings: ids `[..]` -> `[.., D]`.
    pub(crate) fn embed(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.embed_tokens, ids, -1, false, false)
    }

    /// Weight of the head, `[V, D]`.
    pub(crate) fn head(&self) -> &Tensor {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    /// Hidden states after the last norm, `[N, D]`, of a packed group whose embeddings are `x` `[N, D]`.
    pub(crate) fn forward(&self, x: Tensor, rope: &Rope, layout: &Layout, wanted: &Wanted<'_>) -> (Tensor, Taps) {
        let mut x = x;
        let mut taps = Taps::default();
        for (index, layer) in self.layers.iter().enumerate() {
            let probe = wanted.frames.filter(|_| index + wanted.frame_layers >= self.layers.len());
            x = layer.forward(&x, rope, |[q, k, v]| {
                let (out, frames) = attend(self.mode, layout, [&q, &k, &v], probe);
                taps.frame_attention.extend(frames);
                if wanted.keys_values {
                    taps.keys_values.push([k, v]);
                }
                out
            });
        }
        (self.norm.forward(&x), taps)
    }
}
