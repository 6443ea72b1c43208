//! `trainer analyze`: the tables and figures of a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use foveate_policy::{read_safetensors, write_safetensors};
use tch::{Device, Kind, Tensor};

use crate::attention::rows;
use crate::setup::{column, error, root, shared, succeed, text, train, undisturbed};

/// A run of four steps that kept the groups of every second one, with logits.
pub(crate) fn recorded() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let run = shared().config.with_file_name("recorded");
        let settings = ["run.save_rollouts=2", "run.rollout_contents=logits", "run.steps=4", "eval.at_ends=false"];
        succeed(&train("appo", &run, &settings).args());
        run
    })
}

fn numbers(path: &Path, column: usize) -> Vec<f64> {
    rows(path).iter().map(|row| row[column].parse().unwrap_or(f64::NAN)).collect()
}

#[test]
fn a_run_gets_its_tables_pictures_and_page() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("analysis");
    let said = succeed(&["analyze", text(recorded()), "--output", text(&output)]);
    assert!(said.contains("index.html"), "{said}");
    for name in ["reward", "reward_std", "completion_length", "event_attention", "divergence", "divergence_reached"] {
        let picture = image::open(output.join(format!("{name}.png"))).unwrap();
        assert!(picture.width() > 800 && picture.height() > 400, "{name}");
    }
    let curves = output.join("curves.csv");
    assert_eq!(numbers(&curves, 0), [1.0, 2.0, 3.0, 4.0]);
    for (found, metric) in numbers(&curves, 2).iter().zip(column(recorded(), "reward_std")) {
        assert!((found - metric).abs() < 1e-4, "{found} {metric}");
    }
    let page = std::fs::read_to_string(output.join("index.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("<h2>Divergence") && !page.contains("<script"), "{page}");
}

#[test]
fn questions_by_distance_add_up_and_agree_with_the_list_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let run = with_groups(folder.path(), &["group1", "edge-order-hurts", "edge-none-right"]);
    succeed(&["analyze", text(&run), "--k1", "3", "--k2", "2"]);
    let output = run.join("analysis");
    let (counts, shares) =
        (numbers(&output.join("frame_distance.csv"), 1), numbers(&output.join("frame_distance.csv"), 2));
    assert_eq!(counts.iter().sum::<f64>(), 2.0);
    assert!((shares.iter().sum::<f64>() - 100.0).abs() < 0.2, "{shares:?}");
    let list = rows(&output.join("frame_questions.csv"));
    for row in &list {
        let number = |column: usize| row[column].parse::<f64>().unwrap();
        assert_eq!(number(8), (number(6) - number(7)).abs(), "{row:?}");
        assert_eq!(number(4) + number(5), 6.0, "{row:?}");
    }
    let apart = list.iter().filter(|row| row[8] != "0").count() as f64;
    assert_eq!(counts[0], 2.0 - apart);
}

#[test]
fn divergences_are_those_of_the_other_implementation() {
    let folder = tempfile::tempdir().unwrap();
    let run = with_groups(folder.path(), &["group1"]);
    succeed(&["analyze", text(&run)]);
    let found = numbers(&run.join("analysis/divergence.csv"), 3);
    let case = root().join("tests/golden/algorithms/group1/tw-grpo-paper.safetensors");
    let expected = Vec::<f32>::try_from(&read_safetensors(&case).unwrap()["divergence"]).unwrap();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - f64::from(*expected)).abs() < 2e-5 * f64::from(expected.max(1.0)), "{found} {expected}");
    }
}

#[test]
fn key_tokens_are_those_of_the_other_implementation() {
    let folder = tempfile::tempdir().unwrap();
    let run = with_groups(folder.path(), &["group1"]);
    succeed(&["analyze", text(&run)]);
    let case = root().join("tests/golden/algorithms/group1/video-ktr-paper.safetensors");
    let expected = read_safetensors(&case).unwrap()["token_weights"].gt(0.0).sum(Kind::Int64).int64_value(&[]);
    let sets: BTreeMap<String, f64> = rows(&run.join("analysis/key_sets.csv"))
        .into_iter()
        .map(|row| (row[0].clone(), row[1].parse().unwrap()))
        .collect();
    assert_eq!(sets["any"], expected as f64, "{sets:?}");
    let tokens: f64 = sets.iter().filter(|(name, _)| *name != "any").map(|(_, count)| count).sum();
    assert_eq!(numbers(&run.join("analysis/key_words.csv"), 1).iter().sum::<f64>(), tokens);
    assert_eq!(numbers(&run.join("analysis/key_positions.csv"), 1).iter().sum::<f64>(), tokens);
    assert!(run.join("analysis/key_words.png").is_file());
}

#[test]
fn what_a_run_did_not_record_is_named_with_the_way_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let said = succeed(&["analyze", text(undisturbed()), "--output", text(folder.path())]);
    assert!(said.contains("run.save_rollouts=N") && said.contains("run.rollout_contents=logits"), "{said}");
    assert!(folder.path().join("reward_std.png").is_file() && !folder.path().join("frame_distance.csv").exists());
    let said = succeed(&["analyze", text(recorded()), "--output", text(folder.path()), "--step", "2"]);
    assert!(said.contains("masked_logprobs"), "{said}");
    let line = error(&["analyze", text(recorded()), "--step", "3"], 2);
    assert!(line.contains("recorded: 2, 4"), "{line}");
    let line = error(&["analyze", "/nonexistent/run"], 2);
    assert!(line.contains("/nonexistent/run"), "{line}");
    let line = error(&["analyze", text(&shared().scenes)], 2);
    assert!(line.contains("no run in it"), "{line}");
}

#[test]
fn the_gradient_of_all_tokens_is_the_one_that_training_measured() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let settings = ["run.save_rollouts=1", "run.steps=1", "eval.at_ends=false", "algo.beta=0"];
    let sizes = ["rollout.prompts_per_step=1", "rollout.completions=8"];
    succeed(&train("grpo", &run, &[&settings[..], &sizes].concat()).args());
    let norm = column(&run, "grad_norm")[0];
    assert!(norm > 0.0, "the group has nothing to learn from");
    // As a run of Video-KTR would have recorded it, had every third token depended on the video.
    let file = run.join("rollouts/step-1/group-0.safetensors");
    let mut group = read_safetensors(&file).unwrap();
    let length = group["old_logprobs"].size()[1];
    let fall = Tensor::arange(length, (Kind::Float, Device::Cpu)).remainder(3.0);
    for name in ["masked_logprobs", "shuffled_logprobs"] {
        group.insert(name.into(), &group["old_logprobs"] - &fall);
    }
    write_safetensors(&file, group.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();

    succeed(&["analyze", text(&run), "--gradients", "3", "--model", text(&shared().model)]);
    let table = rows(&run.join("analysis/gradients.csv"));
    assert_eq!(table.len(), 1);
    let row: Vec<f64> = table[0].iter().map(|field| field.parse().unwrap()).collect();
    assert!((row[4] - norm).abs() < 1e-3 * norm, "{row:?} {norm}");
    assert!(row[3] > 0.0 && row[3] < row[2], "{row:?}");
    // The parts add up: their components along the whole make its length.
    assert!((row[5] * row[7] + row[6] * row[8] - row[4]).abs() < 2e-3 * row[4], "{row:?}");
}

/// A run of one step whose recorded groups are those that another implementation has worked on.
fn with_groups(folder: &Path, groups: &[&str]) -> PathBuf {
    let run = folder.join("run");
    let step = run.join("rollouts/step-1");
    std::fs::create_dir_all(&step).unwrap();
    for (index, group) in groups.iter().enumerate() {
        let file = root().join(format!("tests/golden/algorithms/{group}/rollouts.safetensors"));
        std::fs::copy(file, step.join(format!("group-{index}.safetensors"))).unwrap();
    }
    for file in ["config.toml", "metrics.jsonl"] {
        std::fs::copy(undisturbed().join(file), run.join(file)).unwrap();
    }
    run
}
