//! Mistakes that a user can mend: one line, the nearest right name, exit code 2.

use std::collections::BTreeMap;
use std::path::Path;

use foveate_policy::{read_safetensors, write_safetensors};
use tch::{Kind, Tensor};
use trainer::run::write_atomically;

use crate::setup::{STEPS, error, root, run, shared, succeed, text, undisturbed};

/// Training with the shared settings and these arguments; none of these runs may leave a folder behind.
fn refused(args: &[&str]) -> String {
    let parent = tempfile::tempdir().unwrap();
    let output = parent.path().join("run");
    let base = ["--config", text(&shared().config), "--output", text(&output)];
    let line = error(&[&base, args].concat(), 2);
    assert!(!output.exists(), "a run that could not start left its folder");
    line
}

/// The line of a refused configuration file.
fn refused_file(settings: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    write_atomically(&path, settings.as_bytes()).unwrap();
    let line = error(&["--config", text(&path)], 2);
    assert!(line.starts_with(text(&path)), "{line}");
    line
}

/// A copy of a golden model without what `leave_out` names.
fn model(leave_out: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(root().join("tests/golden/model/tied")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != leave_out {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    folder
}

/// The line of `trainer score` with this model and these arguments.
fn score(model: &Path, args: &[&str]) -> String {
    let inputs = root().join("tests/golden/model/tied/inputs.safetensors");
    let paths = ["score", "--model", text(model), "--inputs", text(&inputs), "--output", "/nonexistent/out"];
    error(&[&paths, args].concat(), 2)
}

#[test]
fn a_mistyped_setting_is_answered_with_the_nearest_one() {
    let line = refused(&["--set", "optim.learning_rat=1"]);
    assert!(line.contains("unknown key \"optim.learning_rat\""), "{line}");
    let line = refused(&["--set", "rollout.temprature=1"]);
    assert!(line.ends_with("did you mean \"rollout.temperature\"?"), "{line}");
    let line = refused(&["--algo", "appo", "--set", "algo.alhpa=1"]);
    assert!(line.ends_with("unknown key \"algo.alhpa\"; did you mean \"algo.alpha\"?"), "{line}");
    let line = refused_file("[optim]\nwarmup_step = 3\n");
    assert!(line.ends_with("unknown key \"optim.warmup_step\"; did you mean \"optim.warmup_steps\"?"), "{line}");
    let line = refused(&["--set", "data.on_bad_example=skp"]);
    assert!(line.ends_with("data.on_bad_example cannot be \"skp\"; did you mean \"skip\"?"), "{line}");
}

#[test]
fn an_unknown_algorithm_is_answered_with_the_nearest_one() {
    assert_eq!(refused(&["--algo", "apo"]), "--algo: unknown algorithm \"apo\"; did you mean \"appo\"?");
    assert!(refused(&["--algo", "ppo2000"]).contains("unknown algorithm"));
}

#[test]
fn bad_toml_is_named_by_file_and_line() {
    let line = refused_file("[run]\nsteps = \n");
    assert!(line.contains("mine.toml:2: "), "{line}");
    let line = refused_file("[run]\nsteps = \"many\"\n");
    assert!(line.contains("run.steps") && line.contains("many"), "{line}");
    assert!(error(&["--config", "/nonexistent.toml"], 2).contains("/nonexistent.toml"));
}

#[test]
fn a_model_that_is_not_there_is_named() {
    let line = refused(&["--set", "model.path=/nonexistent/model"]);
    assert_eq!(line, "model.path: /nonexistent/model does not exist");
    let near = refused(&["--set", &format!("model.path={}", root().join("data/tiny-vml").display())]);
    assert!(near.ends_with("data/tiny-vlm?"), "the nearest name is given: {near}");
    let folder = model("model.safetensors");
    let line = score(folder.path(), &[]);
    assert!(line.contains("model.safetensors"), "{line}");
    assert_eq!(line.matches("No such file").count(), 1, "a cause is told once: {line}");
}

#[test]
fn all_tensors_that_do_not_fit_are_named_in_one_error() {
    let folder = model("");
    let path = folder.path().join("model.safetensors");
    let mut tensors: BTreeMap<String, Tensor> = read_safetensors(&path).unwrap();
    let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, tch::Device::Cpu));
    let name = "model.layers.0.mlp.up_proj.weight";
    let wrong = tensors.keys().find(|key| key.ends_with("layers.0.mlp.up_proj.weight")).cloned();
    let wrong = wrong.unwrap_or_else(|| unreachable!("no {name}"));
    tensors.insert(wrong.clone(), zeros(&[3, 5]));
    let missing = tensors.keys().find(|key| key.ends_with("layers.1.mlp.up_proj.weight")).cloned().unwrap();
    tensors.remove(&missing);
    tensors.insert("surplus.weight".to_owned(), zeros(&[1]));
    write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
    let line = score(folder.path(), &[]);
    for part in [wrong.as_str(), "[3, 5]", missing.as_str(), "surplus.weight"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[test]
fn a_model_without_its_tokenizer_or_preprocessing_is_told_which_file_is_missing() {
    for file in ["tokenizer.json", "preprocessor_config.json"] {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&shared().model).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != file && entry.path().is_file() {
                std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
            }
        }
        let line = refused(&["--set", &format!("model.path={}", folder.path().display())]);
        assert!(line.contains(file) && !line.contains("video"), "{line}");
    }
}

#[test]
fn a_run_that_is_taken_for_a_model_is_told_where_its_policy_is() {
    let run = undisturbed();
    let policy = run.join(format!("checkpoints/step-{STEPS}/policy"));
    for path in [run, policy.parent().unwrap()] {
        let line = error(&["eval", "--model", text(path), "--data", "/x", "--output", "/nonexistent/x"], 2);
        assert!(
            line.contains("holds no model") && line.contains(&format!("did you mean {}?", policy.display())),
            "{line}"
        );
    }
}

#[test]
fn data_that_is_not_there_is_named() {
    let line = refused(&["--set", "data.train=/nonexistent/train.jsonl"]);
    assert!(line.contains("/nonexistent/train.jsonl"), "{line}");
    let line = refused(&["--set", "data.test=/nonexistent/test.jsonl"]);
    assert!(line.contains("/nonexistent/test.jsonl"), "{line}");
    assert!(error(&["--set", "model.path=/m"], 2).contains("data.train"));
}

#[test]
fn a_device_that_does_not_exist_is_told() {
    let line = refused(&["--set", "model.device=tpu"]);
    assert!(line.contains("tpu"), "{line}");
    let line = score(&root().join("tests/golden/model/tied"), &["--device", "cuda:99"]);
    assert!(line.contains("cuda:99"), "{line}");
}

#[test]
fn a_run_that_does_not_exist_cannot_be_resumed() {
    assert!(error(&["--resume", "/nonexistent/run"], 2).contains("/nonexistent/run"));
}

#[test]
fn every_command_has_help_with_an_example() {
    let commands: &[&[&str]] = &[
        &[],
        &["score"],
        &["explain"],
        &["sft"],
        &["eval"],
        &["attention"],
        &["analyze"],
        &["bench"],
        &["compare"],
        &["data", "scenes"],
        &["data", "prepare"],
        &["data", "tiny-vlm"],
    ];
    for command in commands {
        let help = succeed(&[command, &["--help"][..]].concat());
        assert!(help.contains("Usage: trainer") && help.contains("Example"), "{command:?}: {help}");
    }
    assert!(succeed(&["data", "--help"]).contains("prepare"));
    assert!(!run(&["scor"]).status.success());
}
