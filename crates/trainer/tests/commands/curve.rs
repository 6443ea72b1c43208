//! The demo's first steps, held fast: whoever changes how it learns has to say so in `tests/golden/curve`.

use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value};

use crate::setup::{lines, root};

/// Greatest difference of the loss, which may be near zero, and of other numbers relative to the recorded one.
const LOSS: f64 = 1e-6;
const RELATIVE: f64 = 1e-5;

/// Asserts that two curves have the same steps with the same numbers.
fn assert_same_curve(found: &[Map<String, Value>], expected: &[Map<String, Value>]) {
    assert_eq!((found.len(), expected.len()), (8, 8));
    for (found, expected) in found.iter().zip(expected) {
        for name in ["step", "loss", "grad_norm", "reward", "completions/mean_length"] {
            let [found, expected] = [found, expected].map(|line| line[name].as_f64().unwrap());
            let bound = if name == "loss" { LOSS } else { RELATIVE * expected.abs() };
            assert!((found - expected).abs() <= bound, "{name}: {found}, not {expected}");
        }
    }
}

#[test]
fn the_demo_curve_is_the_recorded_one() {
    let (folder, golden) = (tempfile::tempdir().unwrap(), root().join("tests/golden/curve"));
    let mut make = Command::new(golden.join("make.sh"));
    let output = make.arg(folder.path()).env("TRAINER", env!("CARGO_BIN_EXE_trainer")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in ["grpo.jsonl", "appo.jsonl"] {
        let read = |folder: &Path| lines(&folder.join(file));
        let expected = read(&golden);
        assert!(expected.iter().all(|line| line["grad_norm"].as_f64() > Some(0.0)), "{file}: nothing is learnt");
        assert_same_curve(&read(folder.path()), &expected);
    }
}
