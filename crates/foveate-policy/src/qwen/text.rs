//! The text decoder and its packed pass without gradients.

use foveate_algo::Layers;
use tch::{Tensor, no_grad};

use super::{
    Linear, Mlp, RmsNorm,
    attention::{AttentionMode, attend},
    frames::FrameProbe,
    pack::Pack,
    picked,
    rope::Rope,
};
use crate::{
    PolicyError,
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

    /// Rotated queries `[N, H, E]` and keys, and values, `[N, K, E]`, of the layer's input `[N, D]`.
    pub(super) fn before(&self, x: &Tensor, rope: &Rope) -> [Tensor; 3] {
        self.self_attn.project(&self.input_layernorm.forward(x), rope)
    }

    /// The layer's output `[N, D]` from its input and what attention gave for it, `[N, H * E]`.
    pub(super) fn after(&self, x: &Tensor, attended: &Tensor) -> Tensor {
        let x = x + self.self_attn.o_proj.forward(attended);
        &x + self.mlp.forward(&self.post_attention_layernorm.forward(&x))
    }
}

/// What a packed pass reports beside its hidden states.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    /// Frame attention of the last `frame_layers` layers, of each group's probed rows: `[R, F]`.
    pub(crate) frame_attention: Vec<Vec<Option<Tensor>>>,
    /// Rotated keys and values of every layer, each `[N, K, E]`.
    pub(crate) keys_values: Vec<[Tensor; 2]>,
}

impl Taps {
    /// Frame attention of one group, `[L, R, F]`; `None` if it was not probed.
    pub(crate) fn frames_of(&self, group: usize) -> Option<Tensor> {
        let layers: Vec<_> = self.frame_attention.iter().filter_map(|groups| groups[group].as_ref()).collect();
        (!layers.is_empty()).then(|| Tensor::stack(&layers, 0))
    }
}

/// What to report.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// A probe for each group, or none at all.
    pub(crate) frames: Vec<Option<FrameProbe>>,
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
    pub(super) mode: AttentionMode,
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

    /// The same, ids `[B]`, written into `[B, D]`.
    pub(super) fn embed_within(&self, ids: &Tensor, embedded: &Tensor) {
        let _ = self.embed_tokens.index_select_out(embedded, 0, ids);
    }

    /// Weight of the head, `[V, D]`.
    pub(crate) fn head(&self) -> &Tensor {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    /// Hidden states after the last norm of the rows that predict something, `[R, D]`, of a pack whose embeddings are
    /// `x` `[N, D]`. No gradients.
    ///
    /// # Errors
    /// [`PolicyError::Torch`] if the computation fails.
    pub(crate) fn forward(
        &self,
        x: Tensor,
        rope: &Rope,
        pack: &Pack,
        wanted: &Wanted,
    ) -> Result<(Tensor, Taps), PolicyError> {
        no_grad(|| {
            let mut x = x;
            let mut taps = Taps::default();
            for (index, layer) in self.layers.iter().enumerate() {
                let probes = if index + wanted.frame_layers >= self.layers.len() { &wanted.frames[..] } else { &[] };
                let [q, k, v] = layer.before(&x, rope);
                let attended = attend(self.mode, pack, [&q, &k, &v], probes)?;
                if !probes.is_empty() {
                    taps.frame_attention.push(attended.frames);
                }
                if wanted.keys_values {
                    taps.keys_values.push([k, v]);
                }
                let rows = self.rows_after(index, pack);
                x = layer.after(&rows(&x), &rows(&attended.out.flatten(1, 2)));
            }
            Ok((self.norm.forward(&x), taps))
        })
    }

    /// The rows of `[N, D]` that a layer's second half is computed for: in the last layer those alone that predict something.
    pub(super) fn rows_after(&self, layer: usize, pack: &Pack) -> impl Fn(&Tensor) -> Tensor {
        let predicting = (layer + 1 == self.layers.len()).then(|| pack.predicting.shallow_clone());
        move |x| predicting.as_ref().map_or_else(|| x.shallow_clone(), |rows| picked(x, rows))
    }
}
