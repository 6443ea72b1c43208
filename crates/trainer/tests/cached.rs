//! Prepared frames are all that is needed of a video, with the decoder and without it.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails; the lint spares only its #[test] functions")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Evaluates the two scenes of `tests/golden/cache`, whose videos are not there, on the frames in `cache`.
fn evaluated(cache: &Path, output: &Path) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let mut trainer = Command::new(env!("CARGO_BIN_EXE_trainer"));
    trainer.arg("eval").arg("--model").arg(root.join("data/tiny-vlm"));
    trainer.arg("--config").arg(root.join("configs/demo/base.toml"));
    trainer.arg("--data").arg(root.join("tests/golden/cache/records.jsonl"));
    trainer.arg("--set").arg(format!("data.cache={}", cache.display())).arg("--output").arg(output);
    trainer.output().unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn prepared_frames_do_without_their_videos() {
    let folder = tempfile::tempdir().unwrap();
    let (golden, items) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/cache"), "items.jsonl");
    let output = evaluated(&golden.join("frames"), &folder.path().join(items));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = lines(&std::fs::read_to_string(folder.path().join(items)).unwrap());
    let expected = lines(&std::fs::read_to_string(golden.join("answers.jsonl")).unwrap());
    assert_eq!((found.len(), expected.len()), (2, 2));
    for (found, expected) in found.iter().zip(&expected) {
        for name in ["given", "media_tokens"] {
            assert_eq!(found[name], expected[name], "{name}");
        }
    }
}

#[test]
fn without_video_and_frames_the_example_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("frames")).unwrap();
    let output = evaluated(&folder.path().join("frames"), &folder.path().join("items.jsonl"));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("test-00000"), "{text}");
    let hint = text.contains("decode");
    assert_eq!(hint, !cfg!(feature = "decode"), "a build without the decoder says that it is one: {text}");
}
