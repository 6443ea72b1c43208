//! `trainer attention`: the pictures and the page of a recorded group and of a question that is asked.

use std::collections::BTreeMap;
use std::path::Path;

use foveate_policy::read_safetensors;
use tch::Kind;

use crate::analyze::recorded;
use crate::setup::{error, lines, program, root, shared, succeed, text};

/// Columns of `attention.csv`.
const COMPLETION: usize = 0;
const TOKEN: usize = 3;
const FRAME: usize = 4;
const EVENT: usize = 6;
const ATTENTION: usize = 7;

/// The rows of a CSV file, its header left out.
pub(crate) fn rows(path: &Path) -> Vec<Vec<String>> {
    let mut reader = csv::Reader::from_path(path).unwrap();
    reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect()
}

fn page(output: &Path) -> String {
    let page = std::fs::read_to_string(output.join("attention.html")).unwrap();
    let fetches = ["<script", "src=", "<link", "url(http", "@import"];
    assert!(!fetches.iter().any(|fetch| page.contains(fetch)), "a page must stand alone");
    page
}

#[test]
fn a_recorded_group_is_shown_with_the_numbers_that_were_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let file = recorded().join("rollouts/step-2/group-1.safetensors");
    succeed(&["attention", "--rollout", text(&file), "--output", text(folder.path())]);

    let group = read_safetensors(&file).unwrap();
    let (attention, mask) = (&group["frame_attention"], &group["completion_mask"]);
    let expected = (attention * mask.unsqueeze(-1).to_kind(Kind::Float)).sum(Kind::Double).double_value(&[]);
    let table = rows(&folder.path().join("attention.csv"));
    let found: f64 = table.iter().map(|row| row[ATTENTION].parse::<f64>().unwrap()).sum();
    assert!((found - expected).abs() < 1e-3, "{found} {expected}");
    let frames = attention.size()[2] as usize;
    assert_eq!(table.len() as i64, mask.sum(Kind::Int64).int64_value(&[]) * frames as i64);

    let page = page(folder.path());
    let completions = lines(&recorded().join("completions/step-2.jsonl"));
    let own: Vec<_> = completions.iter().filter(|line| line["group"] == 1).collect();
    assert_eq!(page.matches("<h3>Completion").count(), own.len());
    assert!(page.contains(own[0]["question"].as_str().unwrap()), "the question is on the page");
    assert_eq!(page.matches(".thumb-").count(), frames, "each frame's picture is held once");
    assert!(page.contains("&lt;think&gt;") && page.contains("title=\""));
    for completion in 0..own.len() {
        let picture = image::open(folder.path().join(format!("completion-{completion}.png"))).unwrap();
        assert!(picture.width() > 600 && picture.height() > 400);
    }
}

#[test]
fn the_events_frames_are_those_of_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let file = recorded().join("rollouts/step-2/group-0.safetensors");
    succeed(&["attention", "--rollout", text(&file), "--output", text(folder.path())]);
    let id = lines(&recorded().join("completions/step-2.jsonl"))[0]["id"].clone();
    let record = lines(&shared().scenes.join("train.jsonl")).into_iter().find(|record| record["id"] == id).unwrap();
    // A scene's grid takes a quarter of a second, and events fill grids.
    let grid = |end: &serde_json::Value| (end.as_f64().unwrap() * 4.0).round() as usize;
    let spans = record["spans"].as_array().unwrap().iter();
    let expected: Vec<usize> = spans.flat_map(|span| grid(&span[0])..grid(&span[1])).collect();
    let marked: BTreeMap<usize, String> = rows(&folder.path().join("attention.csv"))
        .into_iter()
        .map(|row| (row[FRAME].parse().unwrap(), row[EVENT].clone()))
        .collect();
    let found: Vec<usize> = marked.into_iter().filter(|(_, event)| event == "1").map(|(frame, _)| frame).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_group_away_from_its_run_is_shown_without_question_and_frames() {
    let folder = tempfile::tempdir().unwrap();
    let moved = folder.path().join("group.safetensors");
    std::fs::copy(recorded().join("rollouts/step-2/group-0.safetensors"), &moved).unwrap();
    let output = folder.path().join("look");
    let args = ["attention", "--rollout", text(&moved), "--output", text(&output), "--completion", "2"];
    assert!(error(&args, 2).contains("--model"));
    let shown = program(&[&args[..], &["--model", text(&shared().model)]].concat()).output().unwrap();
    let said = String::from_utf8(shown.stderr).unwrap();
    assert!(shown.status.success() && said.contains("lies in no run"), "{said}");
    assert_eq!(page(&output).matches("<h3>Completion").count(), 1);
    assert!(output.join("completion-2.png").is_file() && !output.join("completion-0.png").exists());
}

#[test]
fn a_question_that_is_asked_gets_the_answer_that_evaluation_gets() {
    let folder = tempfile::tempdir().unwrap();
    let (items, output) = (folder.path().join("items.jsonl"), folder.path().join("look"));
    let (model, config) = (text(&shared().model), text(&shared().config));
    let base = ["--model", model, "--config", config];
    succeed(&[&["eval", "--output", text(&items), "--set", "eval.limit=1"][..], &base].concat());
    let record = lines(&shared().scenes.join("test.jsonl")).remove(0);
    let video = shared().scenes.join(record["video"].as_str().unwrap());
    let question = record["question"].as_str().unwrap();
    let options: Vec<&str> = record["options"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()).collect();
    let mut args = vec!["attention", "--video", text(&video), "--question", question, "--output", text(&output)];
    args.extend(["--answer", record["answer"].as_str().unwrap(), "--event", "0.25-0.5", "--options"]);
    args.extend(options);
    args.extend(base);
    succeed(&args);
    let table = rows(&output.join("attention.csv"));
    let words: Vec<&str> = table.iter().filter(|row| row[FRAME] == "0").map(|row| row[TOKEN].as_str()).collect();
    let item = lines(&items).remove(0);
    assert_eq!(words[..words.len() - 1].join(" "), item["completion"].as_str().unwrap());
    let accuracy = format!("accuracy {:.2}", item["accuracy"].as_f64().unwrap());
    assert!(page(&output).contains(&accuracy), "{accuracy}");
    assert!(table.iter().all(|row| (row[EVENT] == "1") == (row[FRAME] == "1")));
    let of_first = table.iter().take(8).map(|row| row[ATTENTION].parse::<f64>().unwrap());
    let mass: f64 = of_first.sum();
    assert!(mass > 0.01 && mass < 1.0, "{mass}");
}

#[test]
fn several_completions_are_drawn_by_their_seed() {
    let folder = tempfile::tempdir().unwrap();
    let video = shared().scenes.join("videos/test-00000.mp4");
    let drawn = |name: &str, seed: &str| {
        let output = folder.path().join(name);
        let mut args = vec!["attention", "--model", text(&shared().model), "--config", text(&shared().config)];
        args.extend(["--video", text(&video), "--question", "what colour appears first ?", "--completions", "3"]);
        args.extend(["--seed", seed, "--output", text(&output)]);
        succeed(&args);
        let table = rows(&output.join("attention.csv"));
        assert_eq!(table.last().unwrap()[COMPLETION], "2");
        std::fs::read(output.join("attention.csv")).unwrap()
    };
    let first = drawn("a", "1");
    assert!(first == drawn("b", "1"));
    assert!(first != drawn("c", "2"));
}

#[test]
fn what_is_missing_or_mistyped_is_told() {
    let model = text(&shared().model);
    let ask = ["attention", "--model", model, "--question", "what ?", "--output", "/nonexistent/out"];
    let video = shared().scenes.join("videos/test-0000.mp4");
    let line = error(&[&ask[..], &["--video", text(&video)]].concat(), 2);
    assert!(line.contains("did you mean") && line.contains("test-0000"), "{line}");
    let usage = program(&ask).output().unwrap();
    assert_eq!(usage.status.code(), Some(2));
    assert!(String::from_utf8(usage.stderr).unwrap().contains("--video"));
    let file = recorded().join("rollouts/step-2/group-0.safetensors");
    let rollout = ["attention", "--rollout", text(&file), "--output", "/nonexistent/out"];
    let line = error(&[&rollout[..], &["--completion", "4"]].concat(), 2);
    assert!(line.contains("the group has 4"), "{line}");
    let other = root().join("tests/golden/model/tied/inputs.safetensors");
    let line = error(&["attention", "--model", model, "--rollout", text(&other), "--output", "/nonexistent/out"], 2);
    assert!(line.contains("tensor rewards is missing"), "{line}");
}
