//! Which crate may use which: the crates are layers, and what ties the project to one library stays in one of them.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails; the lint spares only its #[test] functions")]

use std::{collections::BTreeMap, path::Path, process::Command};

/// The layers, lowest first: each may use only those before it.
const LAYERS: &[&str] =
    &["foveate-video", "foveate-reward", "foveate-data", "foveate-algo", "foveate-policy", "trainer"];

/// Libraries that the design keeps to some layers, and those layers.
const KEPT_TO: &[(&str, &[&str])] = &[
    ("ffmpeg-next", &["foveate-video"]),
    ("tch", &["foveate-policy", "trainer"]),
    ("tokenizers", &["foveate-policy"]),
    ("minijinja", &["foveate-data", "foveate-policy"]),
    ("clap", &["trainer"]),
    ("anyhow", &["trainer"]),
];

/// Packages of tests, which stand beside the layers.
const TESTS: &[&str] = &["foveate-tests", "foveate-cuda-stand-in"];

/// Each package of the workspace with the names of all it depends on, for tests and build scripts as well.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let uses = package["dependencies"].as_array().unwrap();
            (text(&package["name"]), uses.iter().map(|used| text(&used["name"])).collect())
        })
        .collect()
}

/// Every dependency that breaks a rule, in words.
fn violations(packages: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let layer_of = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let mut found = Vec::new();
    for (package, uses) in packages.iter().filter(|(name, _)| !TESTS.contains(&name.as_str())) {
        let Some(layer) = layer_of(package) else {
            found.push(format!("{package} has no layer"));
            continue;
        };
        for used in uses {
            if layer_of(used).is_some_and(|below| below >= layer) {
                found.push(format!("{package} uses {used}, which is not below it"));
            }
            if let Some((_, allowed)) = KEPT_TO.iter().find(|(name, _)| name == used)
                && !allowed.contains(&package.as_str())
            {
                found.push(format!("{package} uses {used}, which is kept to {}", allowed.join(" and ")));
            }
        }
    }
    found
}

#[test]
fn every_crate_uses_only_lower_layers_and_what_it_may() {
    let packages = dependencies();
    for layer in LAYERS {
        assert!(packages.contains_key(*layer), "no package {layer} in the workspace");
    }
    assert_eq!(violations(&packages), Vec::<String>::new());
}

#[test]
fn upward_and_misplaced_dependencies_are_found() {
    let package = |name: &str, uses: &[&str]| (name.to_owned(), uses.iter().map(ToString::to_string).collect());
    let packages = BTreeMap::from([
        package("foveate-algo", &["foveate-policy", "tch", "ndarray"]),
        package("foveate-stray", &[]),
        package("trainer", &["foveate-algo", "tch"]),
    ]);
    assert_eq!(
        violations(&packages),
        [
            "foveate-algo uses foveate-policy, which is not below it",
            "foveate-algo uses tch, which is kept to foveate-policy and trainer",
            "foveate-stray has no layer",
        ]
    );
}
