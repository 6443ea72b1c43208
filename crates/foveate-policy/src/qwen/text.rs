//! The text decoder: packed forward pass of a group, and the one-token step of generation.

use foveate_algo::Layers;
use tch::{Kind, Tensor, no_grad};

use super::{
    Linear, Mlp, RmsNorm,
    attention::{AttentionMode, attend},
    frames::FrameProbe,
    pack::Pack,
    rope::Rope,
};
use crate::{
    config::TextConfig,
    weights::{Init, Weights},
};

#[derive(Debug)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    heads: i64,
    kv_heads: i64,
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
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
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
    /// Frame attention of the last `frame_layers` layers: of every probed group `[R, F]`.
    pub(crate) frame_attention: Vec<Vec<Tensor>>,
    /// Rotated keys and values of every layer, each `[N, K, E]`.
    pub(crate) keys_values: Vec<[Tensor; 2]>,
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

    /// Weight of the head, `[V, D]`.
    pub(crate) fn head(&self) -> &Tensor {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    /// Hidden states after the last norm of the rows that predict something, `[R, D]`, of a pack whose embeddings are
    /// `x` `[N, D]`. No gradients.
    pub(crate) fn forward(&self, x: Tensor, rope: &Rope, pack: &Pack, wanted: &Wanted) -> (Tensor, Taps) {
        no_grad(|| {
            let mut x = x;
            let mut taps = Taps::default();
            for (index, layer) in self.layers.iter().enumerate() {
                let probes = if index + wanted.frame_layers >= self.layers.len() { &wanted.frames[..] } else { &[] };
                let [q, k, v] = layer.before(&x, rope);
                let attended = attend(self.mode, pack, [&q, &k, &v], probes);
                if !probes.is_empty() {
                    taps.frame_attention.push(attended.frames);
                }
                if wanted.keys_values {
                    taps.keys_values.push([k, v]);
                }
                let rows = self.rows_after(index, pack);
                x = layer.after(&rows(&x), &rows(&attended.out).flatten(1, 2));
            }
            (self.norm.forward(&x), taps)
        })
    }

    /// The rows that a layer's second half is computed for: in the last layer those alone that predict something.
    pub(super) fn rows_after(&self, layer: usize, pack: &Pack) -> impl Fn(&Tensor) -> Tensor {
        let predicting = (layer + 1 == self.layers.len()).then(|| pack.predicting.shallow_clone());
        move |x| predicting.as_ref().map_or_else(|| x.shallow_clone(), |rows| x.index_select(0, rows))
    }

    /// One generated token per row: embeddings `x` `[B, D]` -> hidden `[B, D]`, its keys and values going into `cache`.
    pub(crate) fn decode_one_token(&self, x: Tensor, rope: &Rope, cache: &mut Cache) -> Tensor {
        let mut x = x;
        for (layer, store) in self.layers.iter().zip(&cache.layers) {
            let qkv = layer.before(&x, rope);
            x = layer.after(&x, &store.attend(qkv, cache.used, cache.prompt_bias.as_ref()));
        }
        cache.used += 1;
        self.norm.forward(&x)
    }
}

/// Keys and values during generation: those of each group's prompt once, and a place for every row's own tokens.
/// B = groups * G rows; prompts of one batch are padded to the longest.
#[derive(Debug)]
pub(crate) struct Cache {
    layers: Vec<LayerCache>,
    prompt_bias: Option<Tensor>, // [groups, 1, 1, 1, P], 0 or -inf
    used: i64,
}

#[derive(Debug)]
struct LayerCache {
    prompt_keys: Tensor,   // [groups, K, E, P]
    prompt_values: Tensor, // [groups, K, P, E]
    keys: Tensor,          // [B, K, T, E]
    values: Tensor,        // [B, K, T, E]
}

impl Cache {
    /// `prompts`: keys and values of each group's prompt by layer, as [`Taps::keys_values`] gives them; room for
    /// `length` tokens of each of `completions` rows per group.
    pub(crate) fn new(prompts: &[Vec<[Tensor; 2]>], completions: i64, length: i64) -> Self {
        let widths: Vec<i64> = prompts.iter().map(|layers| layers[0][0].size()[0]).collect();
        let longest = widths.iter().copied().max().unwrap_or(0);
        let layers = (0..prompts[0].len()).map(|layer| {
            let stacked = |which: usize| {
                let padded = prompts.iter().map(|layers| {
                    let x = &layers[layer][which];
                    x.constant_pad_nd([0, 0, 0, 0, 0, longest - x.size()[0]]) // [P, K, E]
                });
                Tensor::stack(&padded.collect::<Vec<_>>(), 0)
            };
            let (keys, values) = (stacked(0), stacked(1));
            let [groups, _, kv_heads, width] = [keys.size()[0], 0, keys.size()[2], keys.size()[3]];
            let own = [groups * completions, kv_heads, length, width];
            LayerCache {
                prompt_keys: keys.permute([0, 2, 3, 1]).contiguous(),
                prompt_values: values.transpose(1, 2).contiguous(),
                keys: Tensor::zeros(own, (keys.kind(), keys.device())),
                values: Tensor::zeros(own, (keys.kind(), keys.device())),
            }
        });
        let layers: Vec<_> = layers.collect();
        let uneven = widths.iter().any(|width| *width != longest);
        let prompt_bias = uneven.then(|| {
            let device = layers[0].keys.device();
            let bias = Tensor::zeros([widths.len() as i64, 1, 1, 1, longest], (Kind::Float, device));
            for (group, width) in widths.iter().enumerate() {
                let _ = bias.get(group as i64).narrow(-1, *width, longest - width).fill_(f64::NEG_INFINITY);
            }
            bias
        });
        Self { layers, prompt_bias, used: 0 }
    }
}

impl LayerCache {
    /// Attention of one new token per row over its prompt and its own tokens: `[B, H * E]`. The softmax runs over both
    /// parts together, so the prompt's keys are read once per group and copied for nobody.
    fn attend(&self, [q, k, v]: [Tensor; 3], used: i64, prompt_bias: Option<&Tensor>) -> Tensor {
        let (rows, heads, width) = (q.size()[0], q.size()[1], q.size()[2]);
        let (groups, kv_heads, prompt) = (self.prompt_keys.size()[0], self.keys.size()[1], self.prompt_keys.size()[3]);
        let (completions, repeat) = (rows / groups, heads / kv_heads);
        self.keys.narrow(2, used, 1).copy_(&k.unsqueeze(2));
        self.values.narrow(2, used, 1).copy_(&v.unsqueeze(2));
        let keys = self.keys.narrow(2, 0, used + 1);
        let values = self.values.narrow(2, 0, used + 1);

        let q = q * (width as f64).powf(-0.5);
        let by_group = q.view([groups, completions, kv_heads, repeat, width]).transpose(1, 2); // [groups, K, G, H/K, E]
        let to_prompt = by_group.reshape([groups, kv_heads, -1, width]).matmul(&self.prompt_keys);
        let to_prompt = to_prompt.view([groups, kv_heads, completions, repeat, prompt]).to_kind(Kind::Float);
        let to_prompt = match prompt_bias {
            Some(bias) => to_prompt + bias,
            None => to_prompt,
        };
        let own = q.view([rows, kv_heads, repeat, width]).matmul(&keys.transpose(-2, -1));
        let own = own.view([groups, completions, kv_heads, repeat, used + 1]).transpose(1, 2).to_kind(Kind::Float);
        let weights = Tensor::cat(&[to_prompt, own], -1).softmax(-1, Kind::Float).to_kind(v.kind());

        let on_prompt = weights.narrow(-1, 0, prompt).reshape([groups, kv_heads, -1, prompt]);
        let out = on_prompt.matmul(&self.prompt_values);
        let out = out.view([groups, kv_heads, completions, repeat, width]).transpose(1, 2);
        let on_own = weights.narrow(-1, prompt, used + 1).transpose(1, 2).reshape([rows, kv_heads, repeat, -1]);
        let own = on_own.matmul(&values).view([groups, completions, kv_heads, repeat, width]);
        (out + own).reshape([rows, heads * width])
    }
}
