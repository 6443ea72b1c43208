//! What is measured: a model's dimensions and one step's work on it, read from a shape file, with made-up contents.

use std::sync::Arc;

use anyhow::Result;
use foveate_policy::{Media, Prompt};
use foveate_video::{Grid, Patches};
use ndarray::Array2;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::BenchArgs;
use crate::error::{existing, user_error};

const IMAGE: i64 = 10;
const VIDEO: i64 = 11;
const VISION_START: i64 = 12;
const VISION_END: i64 = 13;
/// Ids from here on are plain words.
const FIRST_WORD: i64 = 20;
/// Longest sequence of the model.
const LONGEST: usize = 32_768;
const PATCH: usize = 14;
const MERGE: usize = 2;
const TEMPORAL_PATCH: usize = 2;

/// A shape file: dimensions by their names in `config.json`, and the work of one step.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shape {
    text: TextShape,
    vision: VisionShape,
    /// Size of the video in patches: temporal grids (frames), height, width.
    grid_thw: [usize; 3],
    prompt_text_tokens: usize,
    /// Completions of a prompt, G.
    pub(super) group_size: usize,
    /// Tokens of every completion, R.
    pub(super) completion_tokens: usize,
    /// Prompts of the step; a shape file leaves it out.
    #[serde(skip, default = "one")]
    pub(super) groups: usize,
}

fn one() -> usize {
    1
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct TextShape {
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_key_value_heads: i64,
    #[serde(default)]
    tie_word_embeddings: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct VisionShape {
    depth: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_heads: i64,
    fullatt_block_indexes: Vec<i64>,
}

impl Shape {
    /// The shape file with the sizes that the command line puts in place of its own.
    ///
    /// # Errors
    /// A user error: the file cannot be read, or says something that cannot be measured.
    pub(super) fn read(args: &BenchArgs) -> Result<Self> {
        existing("--shape", &args.shape)?;
        let name = args.shape.display();
        let text = fs_err::read_to_string(&args.shape).map_err(user_error)?;
        let json = &mut serde_json::Deserializer::from_str(&text);
        let mut shape: Self =
            serde_path_to_error::deserialize(json).map_err(|error| match error.path().to_string() {
                path if path == "." => user_error(format!("{name}: {}", error.inner())),
                path => user_error(format!("{name}: {path}: {}", error.inner())),
            })?;
        let (groups, frames) = (args.groups.unwrap_or(1), args.frames.unwrap_or(shape.grid_thw[0]));
        shape.groups = groups;
        shape.grid_thw[0] = frames;
        shape.completion_tokens = args.completion_tokens.unwrap_or(shape.completion_tokens);
        shape.check().map_err(|problem| user_error(format!("{name}: {problem}")))?;
        if let Some(tokens) = args.prompt_tokens {
            let least = shape.prompt_tokens() - shape.prompt_text_tokens + 1;
            if tokens < least {
                let problem = format!("expected at least {least}, the video and a word, found {tokens}");
                return Err(user_error(format!("--prompt-tokens: {problem}")));
            }
            shape.prompt_text_tokens = tokens + 1 - least;
        }
        let longest = shape.prompt_tokens() + shape.completion_tokens;
        if longest > LONGEST {
            let problem = format!("a prompt with its completion must have at most {LONGEST} tokens, found {longest}");
            return Err(user_error(format!("{name}: {problem}")));
        }
        Ok(shape)
    }

    fn check(&self) -> Result<(), String> {
        let [t, h, w] = self.grid_thw;
        if h % MERGE + w % MERGE != 0 {
            return Err(format!("grid_thw: expected even height and width, found {h} x {w}"));
        }
        if self.text.vocab_size <= FIRST_WORD {
            return Err(format!("text.vocab_size: expected more than {FIRST_WORD}, found {}", self.text.vocab_size));
        }
        let sizes = [
            ("grid_thw", t.min(h).min(w)),
            ("prompt_text_tokens", self.prompt_text_tokens),
            ("group_size", self.group_size),
            ("completion_tokens", self.completion_tokens),
            ("--groups", self.groups),
        ];
        match sizes.iter().find(|(_, size)| !(1..=LONGEST).contains(size)) {
            Some((what, size)) => Err(format!("{what}: expected 1 to {LONGEST}, found {size}")),
            None => Ok(()),
        }
    }

    /// Patches of the video.
    pub(super) fn patches(&self) -> usize {
        self.grid_thw.iter().product()
    }

    /// Patches of one frame.
    pub(super) fn patches_per_frame(&self) -> usize {
        self.grid_thw[1] * self.grid_thw[2]
    }

    /// Video tokens of the prompt.
    pub(super) fn video_tokens(&self) -> usize {
        self.patches() / (MERGE * MERGE)
    }

    /// Tokens of the prompt, P.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.video_tokens() + 2 + self.prompt_text_tokens
    }

    /// `config.json` of the model, with the constants of the released ones.
    pub(super) fn model_config(&self) -> Value {
        let (t, v) = (&self.text, &self.vision);
        let half = t.hidden_size / t.num_attention_heads.max(1) / 2;
        let spatial = 3 * half / 8;
        json!({
            "model_type": "qwen2_5_vl",
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "vision_start_token_id": VISION_START,
            "vision_end_token_id": VISION_END,
            "tie_word_embeddings": t.tie_word_embeddings,
            "text_config": {
                "hidden_size": t.hidden_size,
                "intermediate_size": t.intermediate_size,
                "num_hidden_layers": t.num_hidden_layers,
                "num_attention_heads": t.num_attention_heads,
                "num_key_value_heads": t.num_key_value_heads,
                "vocab_size": t.vocab_size,
                "max_position_embeddings": LONGEST,
                "rms_norm_eps": 1e-6,
                "rope_theta": 1e6,
                "rope_scaling": { "type": "mrope", "mrope_section": [half - 2 * spatial, spatial, spatial] },
                "initializer_range": 0.02,
            },
            "vision_config": {
                "depth": v.depth,
                "hidden_size": v.hidden_size,
                "intermediate_size": v.intermediate_size,
                "num_heads": v.num_heads,
                "out_hidden_size": t.hidden_size,
                "patch_size": PATCH,
                "temporal_patch_size": TEMPORAL_PATCH,
                "spatial_merge_size": MERGE,
                "window_size": 112,
                "fullatt_block_indexes": v.fullatt_block_indexes,
                "tokens_per_second": 2,
                "in_channels": 3,
            },
        })
    }

    /// The prompts of the step: a video and words each, no two alike.
    pub(super) fn prompts(&self) -> Vec<Prompt> {
        (0..self.groups as u64).map(|group| self.prompt(&mut ChaCha8Rng::seed_from_u64(group))).collect()
    }

    fn prompt(&self, random: &mut ChaCha8Rng) -> Prompt {
        let [t, h, w] = self.grid_thw;
        let mut ids = vec![VISION_START];
        ids.extend(std::iter::repeat_n(VIDEO, self.video_tokens()));
        ids.push(VISION_END);
        ids.extend(self.words(self.prompt_text_tokens, random));
        let patch = 3 * TEMPORAL_PATCH * PATCH * PATCH;
        let side = 3f32.sqrt(); // mean 0, variance 1, like normalised pixels
        let pixels = Array2::from_shape_simple_fn((self.patches(), patch), || random.random_range(-side..side));
        let grid = Grid { t, h, w };
        let patches = Patches::new(pixels, grid, 1.0);
        Prompt { ids, media: vec![Media::Video(Arc::new(patches))] }
    }

    /// Token ids of a group's completions.
    pub(super) fn completions(&self, group: u64) -> Vec<Vec<i64>> {
        let random = &mut ChaCha8Rng::seed_from_u64(u64::MAX - group);
        (0..self.group_size).map(|_| self.words(self.completion_tokens, random)).collect()
    }

    fn words(&self, count: usize, random: &mut ChaCha8Rng) -> Vec<i64> {
        (0..count).map(|_| random.random_range(FIRST_WORD..self.text.vocab_size)).collect()
    }
}
