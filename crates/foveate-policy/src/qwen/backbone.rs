//! The text decoder as a backbone: layers that go on from keys and values, differentiated by libtorch.
//!
//! Positions count up by one on all three axes: what it reads are frames of a few pooled tokens each, which have no place
//! on a grid any more.

use tch::{Kind, Tensor};

use super::{rope::Rope, text::TextModel};
use crate::{
    AttentionMode,
    backbone::{Backbone, State},
    config::TextConfig,
    weights::Weights,
};

/// The decoder without its head.
#[derive(Debug)]
pub(crate) struct TextBackbone {
    config: TextConfig,
    model: TextModel,
}

impl TextBackbone {
    /// The weights under `model.`.
    pub(crate) fn new(weights: &Weights, config: &TextConfig) -> Self {
        // Whatever head the model has is not read.
        let config = TextConfig { tie_word_embeddings: true, ..config.clone() };
        let model = TextModel::new(weights, &config, AttentionMode::Fused);
        Self { config, model }
    }
}

impl Backbone for TextBackbone {
    fn width(&self) -> i64 {
        self.config.hidden_size
    }

    fn vocabulary(&self) -> i64 {
        self.config.vocab_size
    }

    fn most_positions(&self) -> i64 {
        self.config.max_position_embeddings
    }

    fn depth(&self) -> usize {
        self.model.layers.len()
    }

    fn embed(&self, ids: &Tensor) -> Tensor {
        self.model.embed(ids)
    }

    fn empty(&self, rows: i64) -> Vec<State> {
        let embeddings = self.model.head();
        let none = || {
            let shape = [rows, 0, self.config.num_key_value_heads, self.config.head_dim()];
            Tensor::zeros(shape, (embeddings.kind(), embeddings.device()))
        };
        (0..self.depth()).map(|_| [none(), none()]).collect()
    }

    fn layer(&self, index: usize, x: &Tensor, before: &State) -> (Tensor, State) {
        let layer = &self.model.layers[index];
        let (rows, length, _) = x.size3().unwrap_or_default();
        let seen = before[0].size()[1];
        let positions = (Tensor::arange(length, (Kind::Int64, x.device())) + seen).repeat([rows]);
        let rope = Rope::text(&self.config, &positions.unsqueeze(0).expand([3, -1], false), x.kind());
        let flat = x.flatten(0, 1); // [B * S, D]
        let [q, k, v] = layer.before(&flat, &rope).map(|x| {
            let heads = x.size()[1];
            x.view([rows, length, heads, -1])
        });
        let [k, v] = [(k, &before[0]), (v, &before[1])].map(|(own, seen)| Tensor::cat(&[seen, &own], 1));
        // Without anything seen the kernel knows the mask by itself; a mask would be as large as the square of the length.
        let mask = (seen > 0 && length > 1)
            .then(|| Tensor::ones([length, seen + length], (Kind::Bool, x.device())).tril(seen));
        // Fused kernels take as many key and value heads as query heads only.
        let shared = q.size()[2] / k.size()[2];
        let [keys, values] = [&k, &v].map(|x| x.repeat_interleave_self_int(shared, 2, None).transpose(1, 2));
        let heads_first = q.transpose(1, 2);
        let out = Tensor::scaled_dot_product_attention(
            &heads_first,
            &keys,
            &values,
            mask.as_ref(),
            0.0,
            seen == 0,
            None,
            false,
        );
        let attended = out.transpose(1, 2).reshape([rows * length, -1]);
        (layer.after(&flat, &attended).view([rows, length, -1]), [k, v])
    }

    fn finish(&self, x: &Tensor) -> Tensor {
        self.model.norm.forward(x)
    }
}
