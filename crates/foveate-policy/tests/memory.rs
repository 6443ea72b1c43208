//! Memory of observing distributions: bounded by a chunk, however many tokens and however large the vocabulary.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails; the lint spares only its #[test] functions")]

use foveate_algo::{Counterfactual, Distance, Divergence, TokenDistributions};
use foveate_policy::{GroupDistributions, LoadOptions, Trainable, Vlm};
use ndarray::Array2;
use serde_json::json;
use tch::{Device, Kind, Tensor};

const VOCABULARY: i64 = 20_000;
const COMPLETIONS: i64 = 8;

/// A model of which only the head is used.
fn model() -> Vlm {
    let config = json!({
        "model_type": "qwen2_5_vl", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCABULARY, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": { "type": "mrope", "mrope_section": [1, 1, 2] },
        "initializer_range": 0.3, "tie_word_embeddings": false, "image_token_id": 10, "video_token_id": 11,
        "vision_start_token_id": 12, "vision_end_token_id": 13,
        "vision_config": {
            "depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": 16,
            "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2, "window_size": 16,
            "fullatt_block_indexes": [0], "tokens_per_second": 2, "in_chans": 3,
        },
    });
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), &config.to_string());
    let options = LoadOptions { trainable: Trainable::Nothing, ..LoadOptions::default() };
    Vlm::random(folder.path(), &options, 1).unwrap()
}

fn write_config(folder: &std::path::Path, config: &str) {
    use std::io::Write;
    std::fs::File::create(folder.join("config.json")).unwrap().write_all(config.as_bytes()).unwrap();
}

/// MiB by which the process's peak grows while something is done.
fn growth(work: impl FnOnce()) -> f64 {
    let status = |field: &str| {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    };
    std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/clear_refs")
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"5")) // the peak starts anew
        .unwrap();
    let before = status("VmRSS");
    work();
    status("VmHWM") - before
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn observing_distributions_takes_a_chunk_of_memory_whatever_the_length() {
    let head = model().head(1.0);
    let mut peaks = Vec::new();
    for tokens in [64, 512] {
        let hidden = Tensor::randn([COMPLETIONS, tokens, 16], (Kind::Float, Device::Cpu));
        let mask = Tensor::ones([COMPLETIONS, tokens], (Kind::Bool, Device::Cpu));
        let group = GroupDistributions::new(&hidden, &mask, &head).with(Counterfactual::Masked, &(&hidden * 0.9));
        let positions = Array2::from_shape_fn((COMPLETIONS as usize, tokens as usize), |(_, t)| t);
        peaks.push([
            growth(|| assert!(group.divergence(positions.view(), Divergence::Kl).unwrap().len() == tokens as usize)),
            growth(|| {
                assert!(group.divergence(positions.view(), Divergence::LogK3).unwrap().iter().all(|d| *d >= 0.0))
            }),
            growth(|| assert!(group.distance(Counterfactual::Masked, Distance::Js).unwrap().iter().all(|d| *d >= 0.0))),
        ]);
    }
    let whole = (COMPLETIONS * 512 * VOCABULARY * 8) as f64 / f64::from(1 << 20);
    for (short, long) in peaks[0].iter().zip(&peaks[1]) {
        assert!(*long < 1.5 * short + 64.0, "{peaks:?} MiB for 64 and 512 tokens");
        assert!(*long < 0.75 * whole, "{peaks:?} MiB, all distributions of 512 tokens take {whole:.0}");
    }
}
