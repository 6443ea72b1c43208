//! Training runs: what they write, and what settings do to them.

use std::path::Path;

use foveate_policy::read_safetensors;

use crate::setup::{
    STEPS, assert_same_run, column, here, lines, metrics, program, root, shared, succeed, text, train, undisturbed,
};

#[test]
fn a_run_leaves_its_configuration_metrics_completions_checkpoints_evaluations_and_log() {
    let run = undisturbed();
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("name = \"appo\"") && config.contains("k3 = 6"), "{config}");
    let steps: Vec<f64> = column(run, "step");
    assert_eq!(steps, (1..=STEPS).map(|step| step as f64).collect::<Vec<_>>());
    for name in ["reward", "accuracy", "loss", "grad_norm", "appo/token_weight_mean", "attention/event_auc"] {
        assert!(column(run, name).iter().all(|value| value.is_finite()), "{name}");
    }
    assert!(column(run, "grad_norm").iter().any(|norm| *norm > 0.0), "no step had anything to learn from");
    for step in 1..=STEPS {
        assert_eq!(lines(&run.join(format!("completions/step-{step}.jsonl"))).len(), 2 * 4);
    }
    for step in [2, 4, 6] {
        for file in ["policy/model.safetensors", "policy/tokenizer.json", "optimizer.safetensors", "state.json"] {
            assert!(run.join(format!("checkpoints/step-{step}/{file}")).is_file(), "{step}: {file}");
        }
    }
    let weights = run.join(format!("checkpoints/step-{STEPS}/policy/model.safetensors"));
    let mode = |file: &Path| std::fs::metadata(file).unwrap().permissions();
    assert_eq!(mode(&weights), mode(&run.join("config.toml")), "a checkpoint is as readable as other files");
    for end in ["before", "after"] {
        assert_eq!(lines(&run.join(format!("eval/{end}.jsonl"))).len(), 6);
    }
    let log = std::fs::read_to_string(run.join("run.log")).unwrap();
    assert!(log.contains("accuracy before") && log.contains("accuracy after"), "{log}");
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let folder = tempfile::tempdir().unwrap();
    let (same, other) = (folder.path().join("same"), folder.path().join("other"));
    succeed(&train("appo", &same, &[]).args());
    assert_same_run(&same, undisturbed());
    succeed(&train("appo", &other, &["run.seed=1", "run.steps=1", "eval.at_ends=false"]).args());
    assert_ne!(metrics(&other)[0], metrics(undisturbed())[0]);
}

#[test]
fn eval_gives_a_checkpoint_the_accuracy_that_the_run_gave_it() {
    let (run, folder) = (undisturbed(), tempfile::tempdir().unwrap());
    let policy = run.join(format!("checkpoints/step-{STEPS}/policy"));
    let (config, output) = (run.join("config.toml"), folder.path().join("items.jsonl"));
    let args = ["eval", "--model", text(&policy), "--config", text(&config), "--output", text(&output)];
    let said = succeed(&args);
    assert!(said.contains("frames") && said.contains("all"), "{said}");
    assert_eq!(lines(&output), lines(&run.join("eval/after.jsonl")));
}

#[test]
fn the_kl_term_is_measured_against_the_policy_that_training_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    succeed(&train("grpo", &run, &["algo.beta=0.5", "run.steps=3", "eval.at_ends=false", "optim.lr=1e-2"]).args());
    let kl = column(&run, "kl");
    assert!(kl[0].abs() < 1e-9, "{kl:?}");
    assert!(kl[2] > 1e-6, "{kl:?}");
    assert!(column(undisturbed(), "kl").iter().all(|kl| kl.is_nan()), "no reference, no kl");
}

#[test]
fn how_a_step_is_cut_into_passes_changes_neither_its_loss_nor_its_gradient() {
    let folder = tempfile::tempdir().unwrap();
    let trained = |name: &str, tokens: &str, recompute: &str| {
        let run = folder.path().join(name);
        let settings = [tokens, recompute, "run.steps=2", "eval.at_ends=false"];
        succeed(&train("grpo", &run, &settings).args());
        ["loss", "grad_norm", "kl"].map(|metric| column(&run, metric))
    };
    let whole = trained("whole", "optim.pass_tokens=0", "optim.recompute=nothing");
    assert!(whole.iter().flatten().any(|value| value.abs() > 1e-3), "{whole:?}");
    // The largest holds a group, the smallest not even two completions.
    for (name, tokens) in [("group", 300), ("some", 130), ("one", 1)] {
        let cut = trained(name, &format!("optim.pass_tokens={tokens}"), "optim.recompute=layers");
        for (found, expected) in cut.iter().zip(&whole) {
            // AdamW turns the rounding of a gradient near 0 into a step, so that the second is of other weights.
            for ((found, expected), rounding) in found.iter().zip(expected).zip([1e-5, 1e-4]) {
                assert!((found - expected).abs() <= rounding * expected.abs() + 1e-6, "{tokens}: {found} {expected}");
            }
        }
    }
}

#[test]
fn a_second_update_on_a_rollout_clips_what_a_single_one_cannot() {
    let folder = tempfile::tempdir().unwrap();
    for minibatches in ["optim.minibatches=1", "optim.minibatches=2"] {
        let run = folder.path().join(minibatches);
        let settings =
            [minibatches, "optim.updates_per_rollout=2", "optim.lr=2e-2", "run.steps=3", "eval.at_ends=false"];
        succeed(&train("appo", &run, &settings).args());
        let clipped = column(&run, "clip_ratio/region_mean");
        assert!(clipped.iter().all(|share| (0.0..=1.0).contains(share)), "{clipped:?}");
        assert!(clipped.iter().any(|share| *share > 0.0), "{clipped:?}");
    }
    assert_eq!(column(undisturbed(), "clip_ratio/region_mean"), [0.0; STEPS as usize]);
}

#[test]
fn explain_finds_the_advantages_of_the_run_in_its_recorded_groups() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let settings = ["run.save_rollouts=2", "run.rollout_contents=logits", "run.steps=2", "eval.at_ends=false"];
    succeed(&train("appo", &run, &settings).args());
    assert!(!run.join("rollouts/step-1").exists());
    let completions = lines(&run.join("completions/step-2.jsonl"));
    let advantages: Vec<f32> = completions.iter().map(|line| line["advantage"].as_f64().unwrap() as f32).collect();
    let (config, output) = (run.join("config.toml"), folder.path().join("credit.safetensors"));
    for (group, expected) in advantages.chunks(4).enumerate() {
        let recorded = run.join(format!("rollouts/step-2/group-{group}.safetensors"));
        let paths = ["--rollouts", text(&recorded), "--output", text(&output), "--config", text(&config)];
        here(&[&["explain", "--algo", "appo"][..], &paths].concat()).unwrap();
        let found = Vec::<f32>::try_from(&read_safetensors(&output).unwrap()["advantages"]).unwrap();
        assert_eq!(found, expected);
    }
}

#[test]
fn a_k3_that_takes_every_token_is_warned_of_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    succeed(&train("appo", &run, &["algo.k3=64", "run.steps=2", "eval.at_ends=false"]).args());
    assert_eq!(column(&run, "appo/frac_covered_by_k3"), [1.0, 1.0]);
    let log = std::fs::read_to_string(run.join("run.log")).unwrap();
    assert_eq!(log.matches("--set algo.k3=N").count(), 1, "{log}");
    let log = std::fs::read_to_string(undisturbed().join("run.log")).unwrap();
    let covered = column(undisturbed(), "appo/frac_covered_by_k3").iter().any(|share| *share > 0.0);
    assert_eq!(log.contains("--set algo.k3=N"), covered, "{log}");
}

#[test]
fn a_dry_run_says_what_would_be_done_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dry_run = |args: &[&str], home: &Path| {
        let mut command = program(args);
        let output = command.arg("--dry-run").current_dir(home).env("FOVEATE_HOME", home).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let said = dry_run(&["--algo", "appo", "--config", text(&shared().config)], &empty);
    for part in ["[rollout]", "name = \"appo\"", "# data", "20 records", "# plan", "# memory", "AdamW"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0);

    // The embedded default, whose scenes are not there yet.
    let home = folder.path().join("home");
    std::fs::create_dir_all(home.join("data")).unwrap();
    std::os::unix::fs::symlink(root().join("data/tiny-vlm"), home.join("data/tiny-vlm")).unwrap();
    let said = dry_run(&["--algo", "grpo"], &home);
    assert!(said.contains("no model and no data given") && said.contains("will be rendered"), "{said}");
    assert!(!home.join("data/scenes").exists() && !home.join("runs").exists());
}
