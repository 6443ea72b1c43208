//! `trainer data tiny-vlm`: the embedded model's files that are not weights: its dimensions and a word-level tokenizer of
//! the scenes' vocabulary, in the layout of the released checkpoints.

use std::path::Path;

use anyhow::Result;
use foveate_video::scenes::vocabulary;
use serde_json::{Map, Value, json};

use crate::run::write_json;

/// Special tokens, in the order of their ids.
const SPECIAL: [&str; 8] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<unk>",
];

/// Words of the chat template.
const ROLES: [&str; 3] = ["system", "user", "assistant"];

/// Room for words in the embedding: a round number above the vocabulary's size.
const VOCABULARY: usize = 160;

const CHAT_TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n\
    {% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
    {% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>\
    {% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
    {% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Writes the files.
///
/// # Errors
/// A file cannot be written.
pub fn write(dir: &Path) -> Result<()> {
    fs_err::create_dir_all(dir)?;
    write_json(&dir.join("config.json"), &config())?;
    write_json(&dir.join("preprocessor_config.json"), &preprocessor())?;
    write_json(&dir.join("tokenizer.json"), &tokenizer())?;
    write_json(&dir.join("tokenizer_config.json"), &tokenizer_config())?;
    write_json(&dir.join("generation_config.json"), &json!({ "eos_token_id": [2, 0], "pad_token_id": 0 }))
}

/// About one million parameters, a fifth of them in the vision tower.
fn config() -> Value {
    json!({
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "torch_dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "max_window_layers": 4,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": { "type": "mrope", "mrope_section": [4, 6, 6] },
        "initializer_range": 0.05,
        "tie_word_embeddings": true,
        "use_cache": true,
        "use_sliding_window": false,
        "sliding_window": 2048,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "vision_start_token_id": 3,
        "vision_end_token_id": 4,
        "image_token_id": 5,
        "video_token_id": 6,
        "vision_config": {
            "model_type": "qwen2_5_vl",
            "depth": 2,
            "hidden_act": "silu",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": 128,
            "in_chans": 3,
            "patch_size": 8,
            "spatial_patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 64,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
    })
}

fn preprocessor() -> Value {
    json!({
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "patch_size": 8,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "min_pixels": 1024,
        "max_pixels": 16384,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    })
}

/// Every word with its id: special tokens, roles, the scenes' words, then spare places.
fn words() -> Vec<String> {
    let mut words: Vec<String> = SPECIAL.iter().chain(&ROLES).map(|word| (*word).to_owned()).collect();
    words.extend(vocabulary());
    let spare = words.len()..VOCABULARY;
    words.extend(spare.map(|id| format!("<spare-{id}>")));
    words
}

fn tokenizer() -> Value {
    let special = SPECIAL.iter().enumerate().map(|(id, word)| {
        json!({
            "id": id,
            "content": word,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": true,
        })
    });
    let vocabulary: Map<String, Value> = words().into_iter().enumerate().map(|(id, word)| (word, id.into())).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special.collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": null,
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    })
}

fn tokenizer_config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 2048,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "additional_special_tokens": ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
        "chat_template": CHAT_TEMPLATE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use foveate_policy::TextProcessor;
    use foveate_video::scenes::{KindWeights, SceneSpec, Split};

    #[test]
    fn every_word_of_the_scenes_is_one_known_token() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let text = TextProcessor::load(dir.path()).unwrap();
        let unknown = text.encode("<unk>").unwrap();
        let spec = SceneSpec { seed: 5, count: 200, split: Split::Sft, kinds: KindWeights::default() };
        for index in 0..spec.count {
            let scene = spec.scene(index);
            let said = format!("{} {} {}", scene.question, scene.options.join(" "), scene.target);
            let ids = text.encode(&said).unwrap();
            assert_eq!(ids.len(), said.split_whitespace().count(), "{said}");
            assert!(!ids.contains(&unknown[0]), "{said}");
            assert_eq!(text.decode(&ids).unwrap(), said);
        }
    }

    #[test]
    fn the_vocabulary_fits_the_embedding() {
        assert_eq!(words().len(), VOCABULARY);
    }
}
