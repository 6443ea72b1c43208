//! `trainer explain` on recorded groups, against what an implementation in another language made of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use foveate_policy::{read_safetensors, write_safetensors};
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::analyze::recorded;
use crate::attention::rows;
use crate::setup::{error, here, program, root, succeed, text};

/// Largest difference, absolute for values up to 1 and relative above.
const TOLERANCE: f64 = 2e-5;

/// Settings files of the cases of the recorded groups of a kind.
fn cases(kind: &str) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(root().join("tests/golden").join(kind)).unwrap();
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

/// What the program makes of a case, checked against what the other implementation made of it.
fn check(case: &Path, output: &Path) {
    let found = explain(case, output);
    for (name, expected) in &read_safetensors(&case.with_extension("safetensors")).unwrap() {
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

#[test]
fn every_recorded_group_gets_the_credit_that_the_other_implementation_gave() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, least) in [("algorithms", 150), ("picks", 4)] {
        let cases = cases(kind);
        assert!(cases.len() >= least, "only {} cases of {kind}", cases.len());
        cases.iter().for_each(|case| check(case, &folder.path().join("credit.safetensors")));
    }
}

#[test]
fn frame_picks_are_shown_with_their_probability_entropy_and_advantage() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("picks.safetensors");
    let rollouts = root().join("tests/golden/picks/seed1-6/rollouts.safetensors");
    let given = ["explain", "--algo", "refocus", "--rollouts", text(&rollouts), "--output", text(&output)];
    let shown = succeed(&given);
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["set", "pick", "frame", "probability", "entropy", "reward", "advantage"]);
    assert_eq!(lines.len(), 1 + 3 * 6, "{shown}");
    // The last of six frames is certain.
    assert_eq!((lines[6][1], &lines[6][3..5]), ("5", &["1.0000", "0.0000"][..]), "{shown}");

    let mut tensors = read_safetensors(&rollouts).unwrap();
    let picks = tensors["picks"].copy();
    picks.get(0).get(1).copy_(&picks.get(0).get(0));
    tensors.insert("picks".into(), picks);
    let bad = folder.path().join("bad.safetensors");
    write_safetensors(&bad, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
    let said = error(&["explain", "--algo", "refocus", "--rollouts", text(&bad), "--output", text(&output)], 2);
    assert!(said.contains("bad.safetensors") && said.contains("pick 1 of set 0"), "{said}");
    let tokens = root().join("tests/golden/algorithms/group1/rollouts.safetensors");
    let page = folder.path().join("page.html");
    let compare = ["explain", "--compare", "--algo", "refocus", "--rollouts", text(&tokens), "--output", text(&page)];
    assert!(error(&compare, 2).contains("explain it by itself"));
}

#[test]
fn a_group_without_crucial_frames_has_an_empty_list_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let case = root().join("tests/golden/algorithms/edge-none-right/appo-paper-soft.json");
    let found = explain(&case, &folder.path().join("credit.safetensors"));
    let frames = &found["crucial_frames"];
    assert_eq!((frames.kind(), frames.size()), (Kind::Int64, vec![0]));
}

/// What `explain` makes of the group with these settings, written `NAME [KEY=VALUE]..`.
fn explained(rollouts: &Path, words: &str) -> anyhow::Result<BTreeMap<String, Tensor>> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("credit.safetensors");
    let mut words = words.split_whitespace();
    let mut args = vec!["explain".to_owned(), "--algo".to_owned(), words.next().unwrap_or_default().to_owned()];
    args.extend(["--rollouts", text(rollouts), "--output", text(&output)].map(str::to_owned));
    args.extend(words.flat_map(|word| ["--set".to_owned(), format!("algo.{word}")]));
    here(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(read_safetensors(&output)?)
}

/// The recorded group with these changes, and the folder that it lies in.
fn changed(change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> (tempfile::TempDir, PathBuf) {
    let recorded = root().join("tests/golden/algorithms/seed1-mixed/rollouts.safetensors");
    let mut tensors: BTreeMap<_, _> = read_safetensors(&recorded).unwrap().into_iter().collect();
    change(&mut tensors);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("group.safetensors");
    write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
    (folder, path)
}

fn assert_same_loss(rollouts: &Path, one: &str, other: &str) {
    let (a, b) = (explained(rollouts, one).unwrap(), explained(rollouts, other).unwrap());
    assert!(a["grad_logprobs"].abs().max().double_value(&[]) > 1e-3, "{one} has no gradient");
    for name in ["advantages", "loss", "grad_logprobs"] {
        let worst = difference(&a[name], &b[name]);
        assert!(worst < 1e-6, "{name} of {one} and of {other} differ by {worst:e}");
    }
}

#[test]
fn algorithms_have_the_same_loss_where_they_come_to_the_same() {
    let (_folder, plain) = changed(|_| {});
    assert_same_loss(
        &plain,
        "appo k3=99 order=text divergence=log-k3 clip_high=0.2",
        "tw-grpo divergence=log-k3 weight_inside_min=false",
    );
    assert_same_loss(&plain, "video-ktr ratio=1 beta=0.04", "grpo beta=0.04");
    assert_same_loss(&plain, "video-ktr variant=released ratio=1", "grpo beta=0.04");
    assert_same_loss(&plain, "dapo clip_high=0.2", "grpo beta=0 reduction=token-mean");
    assert_same_loss(&plain, "tw-grpo positions=none", "dapo clip_high=0.2");
    // One update per rollout: the ratio is 1, of a token and of a sequence alike.
    let (_folder, first) = changed(|group| {
        let old = group["old_logprobs"].shallow_clone();
        group.insert("logprobs".into(), old);
    });
    assert_same_loss(&first, "gspo", "grpo beta=0");
}

#[test]
fn flat_divergences_make_tw_grpo_the_dapo_of_the_same_clip_inside_the_min_and_outside() {
    let (_folder, flat) = changed(|group| {
        let size = group["logits"].size();
        let first = group["logits"].narrow(1, 0, 1).expand(&size, false).contiguous();
        group.insert("logits".into(), first);
        group.insert("completion_mask".into(), group["completion_mask"].ones_like());
    });
    assert_same_loss(&flat, "tw-grpo", "dapo clip_high=0.2");
    assert_same_loss(&flat, "tw-grpo variant=released", "dapo");
}

#[test]
fn t_grpo_whose_order_does_not_help_is_grpo() {
    let (_folder, rollouts) = changed(|group| {
        group.insert("shuffled_accuracy".into(), Tensor::from_slice(&[1.0_f32, 1.0, 1.0]));
    });
    assert_same_loss(&rollouts, "t-grpo", "grpo beta=0.04");
    assert_same_loss(&rollouts, "t-grpo variant=released", "grpo beta=0.04");
    // An image has no order, and needs no shuffled completions.
    let (_folder, image) = changed(|group| {
        group.remove("shuffled_accuracy");
        group.insert("has_video".into(), Tensor::from_slice(&[0_i64]));
    });
    assert_same_loss(&image, "t-grpo", "grpo beta=0.04");
}

#[test]
fn a_shift_of_all_rewards_changes_nothing() {
    let (_one, plain) = changed(|_| {});
    let (_other, shifted) = changed(|group| {
        let rewards = &group["rewards"] + 2.0;
        group.insert("rewards".into(), rewards);
    });
    for name in ["grpo", "dr-grpo", "gspo", "dapo", "t-grpo", "tw-grpo", "appo", "video-ktr"] {
        let (a, b) = (explained(&plain, name).unwrap(), explained(&shifted, name).unwrap());
        let worst = difference(&a["grad_logprobs"], &b["grad_logprobs"]);
        assert!(worst < 1e-5, "{name}: {worst:e}");
    }
}

#[test]
fn padding_nan_rewards_and_groups_without_spread_leave_everything_finite() {
    let (_one, odd) = changed(|group| {
        let padding = group["completion_mask"].eq(0);
        for name in ["logprobs", "old_logprobs", "ref_logprobs", "masked_logprobs", "shuffled_logprobs"] {
            let spoilt = group[name].masked_fill(&padding, f64::NAN);
            group.insert(name.into(), spoilt);
        }
        let _ = group["rewards"].get(0).fill_(f64::NAN);
        let _ = group["accuracy"].get(0).fill_(f64::NAN);
    });
    let (_two, one) = changed(|group| {
        for (name, tensor) in group.iter_mut() {
            *tensor = tensor.narrow(0, 0, i64::from(name != "shuffled_accuracy"));
        }
    });
    let (_three, equal) = changed(|group| {
        let _ = group["rewards"].shallow_clone().fill_(0.1);
        let _ = group["accuracy"].shallow_clone().fill_(0.0);
    });
    for rollouts in [&odd, &one, &equal] {
        for name in ["grpo", "dr-grpo", "gspo", "dapo", "t-grpo", "tw-grpo", "appo", "video-ktr"] {
            let found = explained(rollouts, name).unwrap_or_else(|error| unreachable!("{name}: {error:#}"));
            for (what, tensor) in found.iter().filter(|(what, _)| *what != "shaped_rewards") {
                assert!(bool::try_from(tensor.isfinite().all()).unwrap(), "{what} of {name}: {tensor:?}");
            }
            assert_eq!(found["advantages"].double_value(&[0]), 0.0, "{name}");
        }
    }
}

#[test]
fn a_tensor_that_an_algorithm_needs_is_named_when_it_is_missing_and_others_are_not_missed() {
    for (words, tensor) in [
        ("grpo", "completion_mask"),
        ("dapo", "old_logprobs"),
        ("t-grpo", "shuffled_accuracy"),
        ("t-grpo", "ref_logprobs"),
        ("tw-grpo", "logits"),
        ("appo", "frame_attention"),
        ("video-ktr", "masked_logprobs"),
        ("video-ktr", "shuffled_logprobs"),
        ("video-ktr", "logits"),
        ("video-ktr distance=js", "masked_logits"),
        ("video-ktr distance=js", "shuffled_logits"),
    ] {
        let (_folder, rollouts) = changed(|group| drop(group.remove(tensor)));
        let error = format!("{:#}", explained(&rollouts, words).unwrap_err());
        assert!(error.contains(&format!("tensor {tensor} is missing")), "{words}: {error}");
    }
    let (_folder, bare) = changed(|group| {
        group.retain(|name, _| {
            ["rewards", "accuracy", "completion_mask", "logprobs", "old_logprobs"].contains(&name.as_str())
        });
    });
    for words in ["dapo", "gspo", "dr-grpo", "grpo beta=0"] {
        explained(&bare, words).unwrap();
    }
}

#[test]
fn a_comparison_holds_the_weights_that_each_algorithm_gives_alone() {
    let folder = tempfile::tempdir().unwrap();
    let rollouts = root().join("tests/golden/algorithms/group1/rollouts.safetensors");
    let page = folder.path().join("compared.html");
    let set = ["--set", "appo.k3=6", "--set", "appo.k1=4"];
    here(&[&["explain", "--compare", "--rollouts", text(&rollouts), "--output", text(&page)][..], &set].concat())
        .unwrap();
    let table = rows(&folder.path().join("compared.csv"));
    let header = csv::Reader::from_path(folder.path().join("compared.csv")).unwrap().headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|known| known == name).unwrap();
    let credit = folder.path().join("credit.safetensors");
    for algo in ["grpo", "dapo", "tw-grpo", "appo", "video-ktr", "t-grpo"] {
        let own = if algo == "appo" { &["--set", "algo.k3=6", "--set", "algo.k1=4"][..] } else { &[] };
        let alone = ["explain", "--algo", algo, "--rollouts", text(&rollouts), "--output", text(&credit)];
        here(&[&alone[..], own].concat()).unwrap();
        let alone = read_safetensors(&credit).unwrap();
        for row in &table {
            let at = [row[0].parse().unwrap(), row[2].parse().unwrap()];
            let (weight, advantage) =
                (alone["token_weights"].double_value(&at), alone["advantages"].double_value(&at[..1]));
            let found = |name: &str| row[column(name)].parse::<f64>().unwrap();
            assert!((found(algo) - weight).abs() < 1e-4, "{algo} {at:?}");
            assert!((found(&format!("{algo}_x_advantage")) - weight * advantage).abs() < 1e-4, "{algo} {at:?}");
        }
    }
    let page = std::fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<h2>Completion").count(), 6);
    assert!(page.contains("gspo") && !page.contains("<script"));
}

#[test]
fn a_runs_group_is_explained_with_the_runs_settings() {
    let folder = tempfile::tempdir().unwrap();
    let (step, group) = (folder.path().join("rollouts/step-2"), "rollouts/step-2/group-0.safetensors");
    std::fs::create_dir_all(&step).unwrap();
    std::fs::copy(recorded().join(group), folder.path().join(group)).unwrap();
    let mut config: toml::Table = std::fs::read_to_string(recorded().join("config.toml")).unwrap().parse().unwrap();
    config["algo"].as_table_mut().unwrap().insert("entropy_coef".into(), 0.5.into());
    trainer::run::write_atomically(&folder.path().join("config.toml"), config.to_string().as_bytes()).unwrap();
    let output = folder.path().join("credit.safetensors");
    let loss = |rollouts: &Path, more: &[&str]| {
        let base = ["explain", "--rollouts", text(rollouts), "--output", text(&output)];
        here(&[&base[..], more].concat()).unwrap();
        read_safetensors(&output).unwrap().remove("loss").unwrap()
    };
    let of_run = loss(&folder.path().join(group), &["--algo", "appo"]);
    let stated = loss(&recorded().join(group), &["--algo", "appo", "--set", "algo.entropy_coef=0.5"]);
    assert_eq!(of_run, stated);
    assert_ne!(of_run, loss(&recorded().join(group), &["--algo", "appo"]));
    let other = |rollouts: &Path| loss(rollouts, &["--algo", "tw-grpo"]);
    assert_eq!(other(&folder.path().join(group)), other(&recorded().join(group)), "of which the run says nothing");
}

#[test]
fn a_comparison_of_a_runs_group_shows_its_words_and_names_what_is_lacking() {
    let folder = tempfile::tempdir().unwrap();
    let rollouts = recorded().join("rollouts/step-2/group-0.safetensors");
    let output = folder.path().join("compared.html");
    let base = ["explain", "--compare", "--rollouts", text(&rollouts), "--output", text(&output)];
    let said = program(&base).output().unwrap();
    let (table, warned) = (String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap());
    assert!(said.status.success() && table.contains("<think>") && table.contains("appo_x_advantage"), "{table}");
    assert!(warned.contains("video-ktr: left out") && warned.contains("masked_logprobs"), "{warned}");
    let page = std::fs::read_to_string(&output).unwrap();
    assert!(page.contains("<code>masked_logprobs</code>") && page.contains("&lt;think&gt;"));

    let line = error(&[&base[..], &["--set", "algo.k3=6"]].concat(), 2);
    assert!(line.contains("NAME.key=value"), "{line}");
    let line = error(&[&base[..], &["--algo", "appo,grop"]].concat(), 2);
    assert!(line.contains("did you mean \"grpo\"?"), "{line}");
    let line =
        error(&["explain", "--algo", "appo,grpo", "--rollouts", text(&rollouts), "--output", "/nonexistent/x"], 2);
    assert!(line.contains("--compare"), "{line}");
}
