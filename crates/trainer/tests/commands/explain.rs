//! `trainer explain` on recorded groups, against what an implementation in another language made of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use foveate_policy::read_safetensors;
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::setup::{here, root, text};

/// Largest difference, absolute for values up to 1 and relative above.
const TOLERANCE: f64 = 2e-5;

/// Settings files of the recorded groups' cases.
fn cases() -> Vec<PathBuf> {
    let folders = std::fs::read_dir(root().join("tests/golden/algorithms")).unwrap();
    let folders = folders.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}

/// `--algo` and each `--set` of a case.
fn arguments(case: &Path) -> Vec<String> {
    let value: Value = serde_json::from_slice(&std::fs::read(case).unwrap()).unwrap();
    let mut args = vec!["--algo".to_owned(), value["algo"].as_str().unwrap().to_owned()];
    for (key, value) in value["settings"].as_object().unwrap() {
        args.extend(["--set".to_owned(), format!("algo.{key}={value}")]);
    }
    args
}

fn explain(case: &Path, output: &Path) -> BTreeMap<String, Tensor> {
    let rollouts = case.with_file_name("rollouts.safetensors");
    let arguments = arguments(case);
    let mut args = vec!["explain", "--rollouts", text(&rollouts), "--output", text(output)];
    args.extend(arguments.iter().map(String::as_str));
    here(&args).unwrap_or_else(|error| unreachable!("{}: {error:#}", case.display()));
    read_safetensors(output).unwrap()
}

/// The largest difference of two tensors, relative above 1.
fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    if found.numel() == 0 {
        return 0.0;
    }
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let difference = (&found - &expected).abs() / expected.abs().clamp_min(1.0);
    difference.max().double_value(&[])
}

#[test]
fn every_recorded_group_gets_the_credit_that_the_other_implementation_gave() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases();
    assert!(cases.len() >= 56, "only {} cases", cases.len());
    for case in cases {
        let found = explain(&case, &folder.path().join("credit.safetensors"));
        let expected = read_safetensors(&case.with_extension("safetensors")).unwrap();
        assert!(expected.contains_key("grad_logprobs"), "{}", case.display());
        for (name, expected) in &expected {
            let place = format!("{} of {}", name, case.display());
            let found = found.get(name).unwrap_or_else(|| unreachable!("{place} is missing"));
            assert_eq!(found.size(), expected.size(), "{place}");
            assert_eq!(found.kind(), expected.kind(), "{place}");
            match expected.kind() {
                Kind::Int64 => assert!(found == expected, "{place}: {found:?}"),
                _ => {
                    let worst = difference(found, expected);
                    assert!(worst <= TOLERANCE, "{place}: differs by {worst:e}");
                }
            }
        }
    }
}

#[test]
fn a_group_without_crucial_frames_has_an_empty_list_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let case = root().join("tests/golden/algorithms/edge-none-right/appo-paper-soft.json");
    let found = explain(&case, &folder.path().join("credit.safetensors"));
    let frames = &found["crucial_frames"];
    assert_eq!((frames.kind(), frames.size()), (Kind::Int64, vec![0]));
}
