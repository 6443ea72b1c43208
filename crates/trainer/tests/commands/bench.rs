//! `trainer bench` on a tiny shape, and what it says of shapes that cannot be measured.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use trainer::run::write_json;

use crate::setup::{error, root, succeed, text};

pub(crate) fn tiny() -> Value {
    json!({
        "text": {
            "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1,
        },
        "vision": {
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "fullatt_block_indexes": [1],
        },
        "grid_thw": [2, 4, 4], "prompt_text_tokens": 6, "group_size": 3, "completion_tokens": 4,
    })
}

pub(crate) fn file(shape: &Value) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shape.json");
    write_json(&path, shape).unwrap();
    (folder, path)
}

fn bench(shape: &Path, args: &[&str]) -> Value {
    let base = ["bench", "--shape", text(shape), "--threads", "1", "--repeat", "2"];
    serde_json::from_str(&succeed(&[&base, args].concat())).unwrap()
}

/// The line of a shape or an argument that is refused.
fn refused(shape: &Value, args: &[&str]) -> String {
    let (_folder, path) = file(shape);
    error(&[&["bench", "--shape", text(&path)], args].concat(), 2)
}

/// The tiny shape with something else at this place.
fn with(place: &str, value: Value) -> Value {
    let mut shape = tiny();
    *shape.pointer_mut(place).unwrap() = value;
    shape
}

pub(crate) fn number(report: &Value, place: &str) -> f64 {
    report.pointer(place).and_then(Value::as_f64).unwrap_or_else(|| unreachable!("no number at {place}: {report}"))
}

#[test]
fn all_modes_report_what_the_peer_reports_and_more() {
    let (_folder, path) = file(&tiny());
    let report = bench(&path, &["--mode", "all", "--peak-tflops", "1"]);
    let sizes =
        ["prompt_tokens", "video_tokens", "groups", "group_size", "completion_tokens"].map(|name| &report[name]);
    assert_eq!(sizes, [16, 8, 1, 3, 4].map(Value::from).each_ref());
    assert_eq!(
        (&report["device"], &report["dtype"], &report["threads"]),
        (&"cpu".into(), &"float32".into(), &1.into())
    );
    assert!(number(&report, "/params") > 0.0);
    let modes = [
        ("rollout", "completion_tokens_per_s", 12.0),
        ("rollout-attn", "completion_tokens_per_s", 12.0),
        ("update", "samples_per_s", 3.0),
        ("score", "samples_per_s", 3.0),
        ("score-attn", "samples_per_s", 3.0),
    ];
    assert_eq!(report["results"].as_object().unwrap().len(), modes.len());
    for (mode, rate, work) in modes {
        let get = |name: &str| number(&report, &format!("/results/{mode}/{name}"));
        assert!((get(rate) * get("seconds") / work - 1.0).abs() < 1e-9, "{mode}: {report}");
        assert!(get("peak_mib") > 10.0 && get("mfu") > 0.0, "{mode}: {report}");
        assert!(!report["results"][mode]["phases"].as_object().unwrap().is_empty(), "{mode}: {report}");
    }
    assert!(number(&report, "/results/rollout/decode_gb_per_s") > 0.0);
    assert!(number(&report, "/results/update/phases/optimizer") > 0.0);
    assert_eq!(report["results"]["score-attn"]["over"]["mode"], "score");
    assert!(number(&report, "/results/score-attn/over/ratio") > 0.0);
    assert!(report.pointer("/results/score/over").is_none(), "{report}");
}

#[test]
fn the_command_line_puts_other_sizes_in_place_of_the_shapes() {
    let (_folder, path) = file(&tiny());
    let sizes = ["--prompt-tokens", "30", "--completion-tokens", "5", "--frames", "3", "--groups", "2"];
    let report = bench(&path, &[&["--mode", "update"][..], &sizes].concat());
    let found = ["prompt_tokens", "video_tokens", "groups", "completion_tokens"].map(|name| &report[name]);
    assert_eq!(found, [30, 12, 2, 5].map(Value::from).each_ref());
    let samples = number(&report, "/results/update/samples_per_s") * number(&report, "/results/update/seconds");
    assert!((samples - 6.0).abs() < 1e-9, "{report}");
    assert!(report.pointer("/results/update/mfu").is_none(), "nobody said what a CPU can do: {report}");
}

#[test]
fn the_shapes_of_the_checkout_are_those_of_released_models() {
    for (name, prompt) in [("cpu-small", 578), ("3b", 1186), ("7b", 1186)] {
        let shape: Value = trainer::run::read_json(&root().join(format!("configs/bench/{name}.json"))).unwrap();
        let grid: Vec<u64> = serde_json::from_value(shape["grid_thw"].clone()).unwrap();
        assert_eq!(grid.iter().product::<u64>() / 4 + 2 + shape["prompt_text_tokens"].as_u64().unwrap(), prompt);
        // Refused for its length, and for nothing before it.
        let path = root().join(format!("configs/bench/{name}.json"));
        let line = error(&["bench", "--shape", text(&path), "--prompt-tokens", "40000"], 2);
        assert!(line.contains("at most 32768"), "{line}");
    }
}

#[test]
fn an_unknown_mode_is_answered_with_the_nearest_one() {
    let line = refused(&tiny(), &["--mode", "rolout"]);
    assert_eq!(line, "--mode: unknown mode \"rolout\"; did you mean \"rollout\"?");
    assert!(
        refused(&tiny(), &["--mode", "zebra"])
            .ends_with("expected rollout, rollout-attn, rollouts, update, score or all")
    );
}

#[test]
fn a_shape_that_cannot_be_measured_is_told_with_its_file_and_field() {
    assert!(error(&["bench", "--shape", "/nonexistent.json"], 2).contains("/nonexistent.json does not exist"));
    let wrong = [
        (json!([1]), "shape.json: "),
        (with("/text/hidden_size", "many".into()), "shape.json: text.hidden_size: "),
        (with("/text/hidden_size", 33.into()), "shape.json: hidden_size must be a multiple of num_attention_heads"),
        (with("/text/num_attention_heads", 0.into()), "num_attention_heads: expected a number from 1"),
        (with("/text/vocab_size", 5.into()), "text.vocab_size: expected more than 20, found 5"),
        (with("/grid_thw", json!([2, 3, 4])), "grid_thw: expected even height and width, found 3 x 4"),
        (with("/grid_thw", json!([0, 4, 4])), "grid_thw: expected 1 to 32768, found 0"),
        (with("/group_size", 0.into()), "group_size: expected 1 to 32768, found 0"),
        (with("/vision", json!({ "dept": 1 })), "shape.json: vision.dept: unknown field `dept`"),
    ];
    for (shape, expected) in wrong {
        let line = refused(&shape, &[]);
        assert!(line.contains(expected), "{expected}: {line}");
    }
    let line = refused(&tiny(), &["--prompt-tokens", "10"]);
    assert_eq!(line, "--prompt-tokens: expected at least 11, the video and a word, found 10");
    assert!(refused(&tiny(), &["--device", "tpu"]).contains("tpu"));
    assert!(refused(&tiny(), &["--groups", "0"]).contains("--groups"));
}
