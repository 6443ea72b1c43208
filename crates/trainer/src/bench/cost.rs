//! What the work needs at least: floating-point operations and bytes read, by the model's dimensions.
//!
//! Counted is what cannot be left out: each prompt with its video once per group, half of a causal attention, twice the
//! forward pass for a backward pass, no recomputation. So a computation that repeats the prompt does not look busier for it.

use foveate_policy::ModelConfig;

use super::{Mode, shape::Shape};
use crate::plan::{text_parameters, vision_parameters};

/// Dimensions and sizes as the counts take them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost<'a> {
    /// The model.
    pub(super) model: &'a ModelConfig,
    /// The step's work on it.
    pub(super) shape: &'a Shape,
}

impl Cost<'_> {
    /// Floating-point operations of one round.
    pub(super) fn flops(&self, mode: Mode) -> f64 {
        let (prompt, tokens) = (self.shape.prompt_tokens() as f64, self.shape.completion_tokens as f64);
        let all = (self.shape.group_size as f64) * tokens;
        let per_token = 2.0 * self.decoder_weights();
        let attention = (4 * self.model.text.num_hidden_layers * self.model.text.hidden_size) as f64;
        let seen = prompt * prompt / 2.0 + all * (prompt + tokens / 2.0);
        let text = per_token * (prompt + all) + attention * seen + 2.0 * self.head_weights() * all;
        let group = match mode {
            Mode::Rollout | Mode::RolloutAttn => self.vision_flops() + text,
            Mode::Score | Mode::ScoreAttn => text,
            Mode::Update => 3.0 * (self.vision_flops() + text),
        };
        group * self.shape.groups as f64
    }

    /// Bytes that a decode step reads at least, mean over the steps: the decoder's weights once, the keys and values of
    /// each prompt once, and those of every completion so far.
    pub(super) fn bytes_per_decode_step(&self, bytes_per_number: usize) -> f64 {
        let t = &self.model.text;
        let key_value = (2 * t.num_hidden_layers * t.num_key_value_heads * t.head_dim()) as f64;
        let (groups, size) = (self.shape.groups as f64, self.shape.group_size as f64);
        // The first token comes from the prefill: step s of R - 1 sees s tokens of its own.
        let own = self.shape.completion_tokens as f64 / 2.0;
        let cached = groups * (self.shape.prompt_tokens() as f64 + size * own) * key_value;
        (self.decoder_weights() + self.head_weights() + cached) * bytes_per_number as f64
    }

    fn head_weights(&self) -> f64 {
        (self.model.text.vocab_size * self.model.text.hidden_size) as f64
    }

    fn decoder_weights(&self) -> f64 {
        let embeddings = if self.model.text.tie_word_embeddings { 1.0 } else { 2.0 };
        text_parameters(self.model) - embeddings * self.head_weights()
    }

    fn vision_flops(&self) -> f64 {
        let v = &self.model.vision;
        let patches = self.shape.patches() as f64;
        let merged = (v.hidden_size * v.merge_area()) as f64;
        // The merger sees four patches at a time.
        let merger = merged * merged + merged * v.out_hidden_size as f64;
        let weights = vision_parameters(self.model) - merger + merger / v.merge_area() as f64;
        let frame = self.shape.patches_per_frame() as f64;
        let side = (v.window_size / v.patch_size) as f64;
        let full = v.fullatt_block_indexes.len() as f64;
        let seen = full * frame + (v.depth as f64 - full) * frame.min(side * side);
        patches * (2.0 * weights + 4.0 * v.hidden_size as f64 * seen)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::run::write_json;

    fn shape() -> Shape {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/bench/cpu-small.json");
        crate::run::read_json(&file).unwrap()
    }

    fn model(shape: &Shape) -> ModelConfig {
        let folder = tempfile::tempdir().unwrap();
        write_json(&folder.path().join("config.json"), &shape.model_config()).unwrap();
        ModelConfig::from_dir(folder.path()).unwrap()
    }

    #[test]
    fn the_counts_are_those_made_by_hand() {
        let shape = shape();
        let cost = Cost { model: &model(&shape), shape: &shape };
        // 8 layers of q, o (256 x 256), k, v (256 x 128), three of 256 x 688; a head of 4096 x 256.
        let layers = 8.0 * (2.0 * 65_536.0 + 2.0 * 32_768.0 + 3.0 * 176_128.0);
        let head = 1_048_576.0;
        assert_eq!((cost.decoder_weights(), cost.head_weights()), (layers, head));
        // 578 tokens of the prompt and, on average, 32 of each of 8 completions; 2 heads of 64, keys and values.
        let cached = 8.0 * (578.0 + 8.0 * 32.0) * 2.0 * 128.0;
        assert_eq!(cost.bytes_per_decode_step(4), 4.0 * (layers + head + cached));
        // Pairs of a token and what it sees: 578 squared halved, and 512 tokens that see the prompt and half of 64.
        let text = 2.0 * layers * (578.0 + 512.0)
            + 8.0 * 4.0 * 256.0 * (578.0 * 578.0 / 2.0 + 512.0 * (578.0 + 32.0))
            + 2.0 * head * 512.0;
        assert_eq!(cost.flops(Mode::Score), text);
        // 2048 patches of 1176: 4 blocks of 128 x 128 and 128 x 256, one of them over the 256 patches of a frame, three
        // over windows of 64; then 512 merged patches.
        let blocks = 2048.0 * 2.0 * (1176.0 * 128.0 + 4.0 * (4.0 * 16_384.0 + 3.0 * 32_768.0));
        let seen = 2048.0 * 4.0 * 128.0 * (256.0 + 3.0 * 64.0);
        let merger = 512.0 * 2.0 * (512.0 * 512.0 + 512.0 * 256.0);
        assert_eq!(cost.flops(Mode::Rollout), text + blocks + seen + merger);
        assert_eq!(cost.flops(Mode::Update), 3.0 * cost.flops(Mode::RolloutAttn));
        let mut three = shape.clone();
        three.groups = 3;
        assert_eq!(Cost { shape: &three, ..cost }.flops(Mode::Score), 3.0 * text);
    }
}
