//! `trainer score` against values that transformers gave for tiny models.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use foveate_policy::read_safetensors;
use tch::{Kind, Tensor};

use crate::setup::{here, root, text};

fn models() -> Vec<PathBuf> {
    let folders = std::fs::read_dir(root().join("tests/golden/model")).unwrap().map(|entry| entry.unwrap().path());
    folders.filter(|path| path.join("expected.safetensors").is_file()).collect()
}

fn score(model: &Path, attention: &str, layers: &str) -> BTreeMap<String, Tensor> {
    let folder = tempfile::tempdir().unwrap();
    let (inputs, output) = (model.join("inputs.safetensors"), folder.path().join("scores.safetensors"));
    let paths = ["--model", text(model), "--inputs", text(&inputs), "--output", text(&output)];
    let options = ["--attention", attention, "--layers", layers, "--greedy", "24", "--device", "cpu"];
    here(&[&["score"][..], &paths, &options].concat()).unwrap();
    read_safetensors(&output).unwrap()
}

fn largest_difference(found: &Tensor, expected: &Tensor) -> f64 {
    (found - expected).abs().max().double_value(&[])
}

/// Checks a model's scores, by one way of capturing attention.
fn check(model: &Path, attention: &str) {
    let expected = read_safetensors(&model.join("expected.safetensors")).unwrap();
    let inputs = read_safetensors(&model.join("inputs.safetensors")).unwrap();
    let found = score(model, attention, "all");
    let place = |name: &str| format!("{name} of {} ({attention})", model.display());
    for (name, expected) in &expected {
        assert_eq!(found[name].size(), expected.size(), "{}", place(name));
        assert_eq!(found[name].kind(), expected.kind(), "{}", place(name));
    }
    for name in ["position_ids", "greedy_row0"] {
        assert!(found[name] == expected[name], "{}: {:?}", place(name), found[name]);
    }
    for (name, tolerance) in [("logprobs", 1e-4), ("entropy", 1e-4), ("frame_attention_layers", 2e-5)] {
        let worst = largest_difference(&found[name], &expected[name]);
        assert!(worst <= tolerance, "{}: differs by {worst:e}", place(name));
    }
    let outside = inputs["completion_mask"].eq(0).to_kind(Kind::Float); // [B, S]
    for name in ["logprobs", "entropy", "frame_attention", "frame_attention_layers"] {
        let outside = if name.starts_with("frame") { outside.unsqueeze(-1) } else { outside.shallow_clone() };
        assert_eq!((&found[name] * outside).abs().max().double_value(&[]), 0.0, "{}", place(name));
    }
    let mean = found["frame_attention_layers"].mean_dim(0, false, Kind::Float);
    assert!(largest_difference(&found["frame_attention"], &mean) < 1e-6, "{}", place("mean over layers"));
}

#[test]
fn eager_scores_are_those_of_transformers() {
    assert_eq!(models().len(), 4);
    models().iter().for_each(|model| check(model, "eager"));
}

#[test]
fn fused_scores_are_those_of_transformers() {
    models().iter().for_each(|model| check(model, "fused"));
}

#[test]
fn mamba_2_is_scored_as_by_transformers() {
    let folders = std::fs::read_dir(root().join("tests/golden/mamba")).unwrap().map(|entry| entry.unwrap().path());
    let models: Vec<_> = folders.filter(|path| path.is_dir()).collect();
    assert_eq!(models.len(), 4);
    for model in models {
        let expected = read_safetensors(&model.join("expected.safetensors")).unwrap();
        let found = score(&model, "fused", "all");
        for (name, expected) in &expected {
            let worst = largest_difference(&found[name], expected);
            assert!(worst <= 2e-5, "{name} of {}: differs by {worst:e}", model.display());
        }
        assert_eq!(found["greedy_row0"].size(), [24]);
        assert!(!found.contains_key("position_ids"));
    }
}

#[test]
fn frame_attention_is_the_mean_of_the_layers_asked_for() {
    for model in models() {
        // What the goldens hold is the mean over the last three layers, or all if there are fewer.
        let expected = read_safetensors(&model.join("expected.safetensors")).unwrap();
        let found = score(&model, "fused", "last:3");
        let worst = largest_difference(&found["frame_attention"], &expected["frame_attention"]);
        assert!(worst <= 2e-5, "{}: differs by {worst:e}", model.display());
    }
}
