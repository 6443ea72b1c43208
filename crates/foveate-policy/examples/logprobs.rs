//! One group from prompt to log-probs: a made-up video, completions drawn for it, their log-probs, and the attention
//! of every token to every frame.
//!
//! `cargo run -p foveate-policy --example logprobs` uses a tiny random model, so the tokens mean nothing;
//! `cargo run -p foveate-policy --example logprobs -- DIR` loads the Qwen2.5-VL of a Hugging Face directory.

use std::{env, error::Error, fs::File, io::Write, path::Path, sync::Arc};

use foveate_algo::Layers;
use foveate_policy::{
    Completions, Draw, GroupSeed, LoadOptions, Media, ModelConfig, Observe, Prompt, SamplingParams, Segment, Trainable,
    Vlm, runtime,
};
use foveate_video::{Grid, Patches};
use ndarray::Array2;
use tch::{Kind, Tensor};

/// Every dimension that a model of this family states, small.
const TINY: &str = r#"{
    "model_type": "qwen2_5_vl", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 60, "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": { "type": "mrope", "mrope_section": [1, 1, 2] },
    "initializer_range": 0.2, "tie_word_embeddings": true, "image_token_id": 3, "video_token_id": 4,
    "vision_start_token_id": 5, "vision_end_token_id": 6,
    "vision_config": {
        "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32,
        "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2, "window_size": 16,
        "fullatt_block_indexes": [1], "tokens_per_second": 2, "in_chans": 3
    }
}"#;

fn main() -> Result<(), Box<dyn Error>> {
    runtime::init()?;
    let options = LoadOptions { trainable: Trainable::Nothing, ..LoadOptions::default() };
    let model = match env::args().nth(1) {
        Some(dir) => Vlm::load(Path::new(&dir), &options)?,
        None => {
            let dir = tempfile::tempdir()?;
            File::create(dir.path().join("config.json"))?.write_all(TINY.as_bytes())?;
            Vlm::random(dir.path(), &options, 1)?
        }
    };

    // Sampling: the prompt, vision tower included, is computed once and shared by its three completions.
    let prompt = model.encode(&prompt(model.config()))?;
    println!("prompt: {} tokens, {} of them of {} frames", prompt.tokens(), prompt.video_tokens(), prompt.frames());
    let params = SamplingParams {
        max_new_tokens: 5,
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        repetition_penalty: 1.0,
        max_rows: 0,
        observe: Observe::default(),
    };
    let seed = GroupSeed { seed: 42, step: 0, group: 0 };
    let group = Draw { prompt: &prompt, completions: 3, seed };
    let rollout = model.rollout(&[group], &params, &[2])?.remove(0);

    // Teacher forcing: the same completions in one pass, packed behind the prompt.
    let completions = Completions::new(&rollout.ids, model.device());
    let segment = Segment { prompt: &prompt, completions: &completions };
    let forward = model.forward(&[segment], Some(Layers::Last(3)))?.remove(0);
    let head = model.head(params.temperature);
    for (index, ids) in (0..).zip(&rollout.ids) {
        let hidden = forward.hidden.get(index).narrow(0, 0, ids.len() as i64);
        let scores = head.score(&hidden, &Tensor::from_slice(ids).to_device(model.device()));
        println!("\ncompletion {index}: tokens {ids:?}");
        println!("  log-probs: sampler's      {:.4?}", rollout.logprobs[index as usize]);
        println!("             teacher-forced {:.4?}", Vec::<f32>::try_from(scores.logprobs)?);
        println!("  entropy in nats           {:.4?}", Vec::<f32>::try_from(scores.entropy)?);
        if let Some(layers) = &forward.frame_attention {
            // [L, G, T, F] -> this completion's [T, F], mean over the layers.
            let frames = layers.mean_dim([0].as_slice(), false, Kind::Float).get(index);
            for (token, frames) in Vec::<Vec<f32>>::try_from(frames)?.iter().take(ids.len()).enumerate() {
                println!("  attention of token {token} to each frame {frames:.4?}");
            }
        }
    }
    Ok(())
}

/// Four frames of a wave, one second apart, then three words: what `TextProcessor` and `ImageProcessor` make of a real
/// question and video.
fn prompt(config: &ModelConfig) -> Prompt {
    let merge = config.vision.spatial_merge_size as usize;
    let grid = Grid { t: 4, h: 2 * merge, w: 2 * merge };
    let shape = (grid.t * grid.h * grid.w, config.vision.patch_dim() as usize);
    let pixels = Array2::from_shape_fn(shape, |(patch, value)| (patch as f32 * 0.37 + value as f32 * 0.11).sin());
    let patches = Patches::new(pixels, grid, 1.0);
    let mut ids = vec![config.vision_start_token_id];
    ids.extend([config.video_token_id; 4 * 2 * 2]);
    ids.extend([config.vision_end_token_id, 20, 21, 22]);
    Prompt { ids, media: vec![Media::Video(Arc::new(patches))] }
}
