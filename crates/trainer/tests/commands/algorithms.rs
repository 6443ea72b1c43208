//! What training does for each algorithm: every name trains, and what it saw is recorded whole.

use std::path::Path;

use foveate_policy::read_safetensors;
use tch::{Kind, Tensor};

use crate::setup::{column, here, lines, metrics, shared, succeed, text, train};

/// Every algorithm, with those settings of its own that ask for other observations.
pub(crate) const RUNS: [(&str, &[&str]); 12] = [
    ("grpo", &["algo.entropy_coef=0.01"]),
    ("dr-grpo", &[]),
    ("gspo", &[]),
    ("dapo", &["algo.overlong_max=32", "algo.overlong_cache=16"]),
    ("t-grpo", &[]),
    ("t-grpo", &["algo.variant=released"]),
    ("tw-grpo", &[]),
    ("tw-grpo", &["algo.variant=released"]),
    ("video-ktr", &["algo.beta=0.1"]),
    ("video-ktr", &["algo.variant=released", "algo.masked_frames=half", "algo.reorder=segments"]),
    ("video-ktr", &["algo.distance=js", "algo.masked_frames=another-video", "algo.reorder=reversed"]),
    ("appo", &["algo.variant=released"]),
];

#[test]
fn every_algorithm_trains_and_records_all_that_explain_needs() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (name, own)) in RUNS.into_iter().enumerate() {
        let run = folder.path().join(number.to_string());
        let settings = ["run.save_rollouts=2", "run.rollout_contents=logits", "run.steps=2", "eval.at_ends=false"];
        succeed(&train(name, &run, &[&settings[..], own].concat()).args());
        assert!(column(&run, "grad_norm").iter().all(|norm| norm.is_finite()), "{name} {own:?}");
        let kept: Vec<_> = lines(&run.join("completions/step-2.jsonl"));
        let kept: Vec<_> = kept.iter().filter_map(|line| line["advantage"].as_f64()).map(|a| a as f32).collect();
        let mut key = Vec::new();
        for (group, expected) in kept.chunks(4).enumerate() {
            let found = explained(&run, name, group);
            let weights = &found["token_weights"];
            let recorded = run.join(format!("rollouts/step-2/group-{group}.safetensors"));
            let tokens = read_safetensors(&recorded).unwrap()["completion_mask"].sum(Kind::Double).double_value(&[]);
            key.push(weights.gt(0.0).sum(Kind::Double).double_value(&[]) / tokens);
            assert_eq!(Vec::<f32>::try_from(&found["advantages"]).unwrap(), expected, "{name} {own:?}");
        }
        if name == "video-ktr" {
            let (share, trained) = (key.iter().sum::<f64>() / key.len() as f64, column(&run, "video-ktr/frac_key")[1]);
            assert!((share - trained).abs() < 1e-6, "{own:?}: explain selects {share}, training {trained}");
        }
    }
}

#[test]
fn a_group_of_one_has_no_contrast_and_nothing_to_learn() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let settings = ["rollout.completions=1", "algo.beta=0", "run.steps=1", "eval.at_ends=false"];
    succeed(&train("t-grpo", &run, &settings).args());
    assert_eq!((column(&run, "grad_norm"), column(&run, "loss")), (vec![0.0], vec![0.0]));
}

/// What `trainer explain` makes of a group that step 2 recorded, by the run's own settings.
fn explained(run: &Path, name: &str, group: usize) -> std::collections::BTreeMap<String, Tensor> {
    let recorded = run.join(format!("rollouts/step-2/group-{group}.safetensors"));
    let (config, output) = (run.join("config.toml"), run.join("explained.safetensors"));
    let paths = ["--rollouts", text(&recorded), "--output", text(&output), "--config", text(&config)];
    here(&[&["explain", "--algo", name][..], &paths].concat()).unwrap();
    read_safetensors(&output).unwrap()
}

#[test]
fn groups_that_are_not_kept_are_replaced_and_all_of_them_are_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    succeed(&train("dapo", &run, &["run.steps=4", "eval.at_ends=false"]).args());
    let [kept, dropped, refills] =
        ["groups_kept", "groups_dropped", "refills"].map(|name| column(&run, &format!("sampling/{name}")));
    assert!(dropped.iter().sum::<f64>() > 0.0, "nothing was dropped: {dropped:?}");
    for (index, step) in (1..=4).enumerate() {
        assert!(kept[index] == 2.0 || refills[index] == 10.0);
        let lines = lines(&run.join(format!("completions/step-{step}.jsonl")));
        assert_eq!(lines.len() as f64, 4.0 * (kept[index] + dropped[index]));
        for group in lines.chunks(4) {
            let accuracy: Vec<_> = group.iter().map(|line| line["accuracy"].as_f64().unwrap()).collect();
            let same = accuracy.iter().all(|value| *value == accuracy[0]);
            assert_eq!(group[0]["advantage"].is_null(), same, "{accuracy:?}");
        }
    }
}

#[test]
fn a_step_that_runs_out_of_refills_goes_on_and_one_without_a_group_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    // A single token answers nothing: no completion is ever right.
    let settings = ["rollout.max_new_tokens=1", "algo.max_refills=2", "run.steps=2", "eval.at_ends=false"];
    succeed(&train("dapo", &run, &settings).args());
    assert_eq!(column(&run, "sampling/refills"), [2.0, 2.0]);
    assert_eq!(column(&run, "sampling/groups_kept"), [0.0, 0.0]);
    assert_eq!(column(&run, "sampling/groups_dropped"), [6.0, 6.0]);
    assert_eq!(column(&run, "accuracy"), [0.0, 0.0]);
    let after = read_safetensors(&run.join("checkpoints/step-2/policy/model.safetensors")).unwrap();
    let before = read_safetensors(&shared().model.join("model.safetensors")).unwrap();
    assert!(before.iter().all(|(name, tensor)| after[name] == *tensor));
}

#[test]
fn a_second_minibatch_meets_a_policy_that_has_moved() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let settings = ["optim.minibatches=2", "optim.lr=2e-2", "run.steps=3", "eval.at_ends=false"];
    succeed(&train("tw-grpo", &run, &settings).args());
    let clipped = column(&run, "clip_ratio/region_mean");
    assert!(clipped.iter().any(|share| *share > 0.0), "{clipped:?}");
    // The gap to the sampler is taken where both are the same policy.
    assert!(column(&run, "sampling/logp_difference_mean").iter().all(|gap| gap.abs() < 1e-4));
}

#[test]
fn runs_with_contrasts_views_and_refills_are_repeated_and_resumed_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["t-grpo", "video-ktr", "dapo"] {
        let [whole, resumed] = ["whole", "resumed"].map(|run| folder.path().join(format!("{name}-{run}")));
        let settings =
            |steps| [steps, "optim.schedule=constant", "run.save_every=2", "run.keep=0", "eval.at_ends=false"];
        succeed(&train(name, &whole, &settings("run.steps=4")).args());
        succeed(&train(name, &resumed, &settings("run.steps=2")).args());
        succeed(&["--resume", text(&resumed), "--set", "run.steps=4"]);
        assert_eq!(metrics(&resumed), metrics(&whole), "{name}");
        for file in
            ["completions/step-4.jsonl", "checkpoints/step-4/policy/model.safetensors", "checkpoints/step-4/state.json"]
        {
            let [found, expected] = [&resumed, &whole].map(|run| std::fs::read(run.join(file)).unwrap());
            assert!(found == expected, "{name}: {file} differs");
        }
    }
}
