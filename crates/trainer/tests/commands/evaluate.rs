//! Evaluations: of a data set in its own format, with less of the videos, gone on with, and compared.

use std::path::Path;

use serde_json::{Value, json};
use trainer::run::write_atomically;

use crate::setup::{error, here, lines, metrics, shared, stop_at, succeed, text, train};

/// The scenes of a file as Video-R1 would write them.
fn as_video_r1(from: &Path, to: &Path) {
    let records: Vec<Value> = lines(from)
        .iter()
        .map(|scene| {
            json!({
                "problem_id": scene["id"], "problem": scene["question"], "data_type": "video",
                "problem_type": "multiple choice", "options": scene["options"], "path": scene["video"],
                "solution": format!("<answer>{}</answer>", scene["answer"].as_str().unwrap()),
                "data_source": scene["kind"],
            })
        })
        .collect();
    write_atomically(to, &serde_json::to_vec_pretty(&records).unwrap()).unwrap();
}

fn evaluated(output: &Path, more: &[&str]) -> String {
    let shared = shared();
    let base = ["eval", "--model", text(&shared.model), "--config", text(&shared.config), "--output", text(output)];
    succeed(&[&base, more].concat())
}

#[test]
fn a_file_in_the_format_of_video_r1_is_evaluated_and_trained_on_with_and_without_a_cache() {
    let shared = shared();
    let folder = tempfile::tempdir().unwrap();
    let [test, train_file] = ["test", "train"].map(|name| {
        let path = folder.path().join(format!("{name}.json"));
        as_video_r1(&shared.scenes.join(format!("{name}.jsonl")), &path);
        path
    });
    let root = format!("data.media_root={}", shared.scenes.display());
    let [own, decoded, cached] = ["own", "decoded", "cached"].map(|name| folder.path().join(format!("{name}.jsonl")));
    evaluated(&own, &[]);
    let asked = ["--data", text(&test), "--benchmark", "video-r1", "--set", &root];
    evaluated(&decoded, &asked);
    let answers = |path: &Path| {
        let answer = |item: &serde_json::Map<String, Value>| {
            (item["completion"].clone(), item["accuracy"].clone(), item["shapes"].clone())
        };
        lines(path).iter().map(answer).collect::<Vec<_>>()
    };
    assert_eq!(answers(&own), answers(&decoded));
    assert_eq!(lines(&decoded)[0]["shapes"], json!([[16, 32, 32]]));

    let cache = folder.path().join("cache");
    let prepare = ["data", "prepare", "--model", text(&shared.model), "--config", text(&shared.config), "--set", &root];
    let prepare = [&prepare[..], &["--format", "video-r1", "--cache", text(&cache)]].concat();
    for file in [&test, &train_file] {
        succeed(&[&prepare[..], &["--input", text(file)]].concat());
    }
    let from_cache = format!("data.cache={}", cache.display());
    evaluated(&cached, &[&asked[..], &["--set", &from_cache]].concat());
    assert_eq!(std::fs::read(&decoded).unwrap(), std::fs::read(&cached).unwrap());

    let [with, without] = ["with", "without"].map(|name| folder.path().join(name));
    let data = format!("data.train={}", train_file.display());
    let set =
        [data.as_str(), &root, "data.format=video-r1", "data.test_format=foveate", "run.steps=2", "eval.at_ends=false"];
    succeed(&train("grpo", &without, &set).args());
    succeed(&train("grpo", &with, &[&set[..], &[&from_cache]].concat()).args());
    assert_eq!(metrics(&with), metrics(&without));
}

#[test]
fn an_answer_is_right_or_wrong_whatever_it_earns() {
    let folder = tempfile::tempdir().unwrap();
    let answers = |name: &str, reward: &[&str]| {
        let output = folder.path().join(name);
        evaluated(&output, reward);
        lines(&output).iter().map(|item| (item["accuracy"].clone(), item["reward"].clone())).collect::<Vec<_>>()
    };
    let usual = answers("usual.jsonl", &[]);
    let soft = ["--set", "reward.soft-choice.weight=1.0", "--set", "reward.accuracy.rule=appo"];
    let other = answers("other.jsonl", &soft);
    let first = |items: &[(Value, Value)]| items.iter().map(|item| item.0.clone()).collect::<Vec<_>>();
    assert_eq!(first(&usual), first(&other));
    assert_ne!(usual, other, "the rewards do differ");
}

#[test]
fn frames_are_prepared_as_evaluation_sees_them() {
    let folder = tempfile::tempdir().unwrap();
    let scenes = folder.path().join("scenes");
    let shared = shared();
    std::fs::create_dir_all(scenes.join("videos")).unwrap();
    std::fs::copy(shared.scenes.join("test.jsonl"), scenes.join("test.jsonl")).unwrap();
    for record in lines(&shared.scenes.join("test.jsonl")) {
        let video = record["video"].as_str().unwrap();
        std::fs::copy(shared.scenes.join(video), scenes.join(video)).unwrap();
    }
    let cache = folder.path().join("cache");
    let test = scenes.join("test.jsonl");
    let larger = ["--set", "eval.pixels.min=4096", "--set", "eval.pixels.max=4096", "--set", "eval.frames.count=8"];
    let prepare = ["data", "prepare", "--model", text(&shared.model), "--config", text(&shared.config)];
    let prepare = [&prepare[..], &["--input", text(&test), "--cache", text(&cache)], &larger].concat();
    assert!(succeed(&[&prepare[..], &["--for", "evaluation"]].concat()).contains("6 videos decoded"));
    let asked = [&["--data", text(&test), "--ablate", "first-frame"][..], &larger].concat();
    let [decoded, cached] = ["decoded", "cached"].map(|name| folder.path().join(format!("{name}.jsonl")));
    evaluated(&decoded, &asked);
    // What the cache's disk refuses is no fault of an example.
    let blocked = folder.path().join("blocked");
    std::fs::create_dir_all(&blocked).unwrap();
    trainer::run::write_atomically(&blocked.join("names"), b"").unwrap();
    let elsewhere: Vec<&str> =
        prepare.iter().map(|arg| if *arg == text(&cache) { text(&blocked) } else { arg }).collect();
    let refused = error(&elsewhere, 2);
    assert!(refused.contains("0 videos prepared") && refused.contains(text(&blocked)), "{refused}");
    let full = [&prepare[..], &["--max-gib", "0.0001"]].concat();
    let full = error(&full, 2);
    assert!(full.contains("is full") && full.contains("the limit is 107374"), "{full}");
    std::fs::remove_dir_all(scenes.join("videos")).unwrap();
    let from_cache = format!("data.cache={}", cache.display());
    evaluated(&cached, &[&asked[..], &["--set", &from_cache]].concat());
    for end in ["jsonl", "first-frame.jsonl"] {
        let items = [&decoded, &cached].map(|path| std::fs::read(path.with_extension(end)).unwrap());
        assert_eq!(items[0], items[1], "{end}");
    }
    assert_eq!(lines(&cached)[0]["shapes"], json!([[8, 64, 64]]));
}

#[test]
fn taking_the_video_away_is_reported_pair_by_pair() {
    let folder = tempfile::tempdir().unwrap();
    for ablation in ["blind", "shuffle", "first-frame", "other-video"] {
        let output = folder.path().join("items.jsonl");
        let said = evaluated(&output, &["--ablate", ablation, "--set", "eval.limit=3"]);
        assert!(said.contains(&format!("before: {ablation}")) && said.contains("McNemar's exact test"), "{said}");
        let less = lines(&output.with_extension(format!("{ablation}.jsonl")));
        let whole = lines(&output);
        assert_eq!((less.len(), whole.len()), (3, 3));
        let blind = json!([]);
        assert_eq!(less[0]["shapes"] == blind, ablation == "blind");
        assert_eq!(less[0]["shapes"][0][0] == 1, ablation == "first-frame", "{}", less[0]["shapes"]);
        assert_eq!(whole[0]["shapes"], json!([[16, 32, 32]]));
        assert!(!folder.path().join("items.jsonl.partial").exists());
    }
}

#[test]
fn an_evaluation_goes_on_with_what_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, again] = ["whole.jsonl", "again.jsonl"].map(|name| folder.path().join(name));
    evaluated(&whole, &["--set", "eval.batch=2"]);
    // Stop after the first batch: SIGINT as soon as it is kept.
    let shared = shared();
    let partial = folder.path().join("again.jsonl.partial");
    let args = ["eval", "--model", text(&shared.model), "--config", text(&shared.config), "--output", text(&again)];
    let args = [&args[..], &["--set", "eval.batch=2"]].concat();
    stop_at(&args, &partial, 2);
    succeed(&args);
    assert_eq!(std::fs::read(&whole).unwrap(), std::fs::read(&again).unwrap());
    assert!(!partial.exists());

    let said = succeed(&["eval", "--compare", text(&whole), text(&again)]);
    assert!(said.contains("p = 1.00e0"), "{said}");
    let missing = error(&["eval", "--compare", text(&whole), "/no/such.jsonl"], 2);
    assert!(missing.contains("/no/such.jsonl"), "{missing}");
}

#[test]
fn one_model_may_answer_from_the_words_of_another() {
    let shared = shared();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("items.jsonl");
    let describe = ["--describe-with", text(&shared.model), "--describe-prompt", "question", "--describe-tokens", "8"];
    let said = evaluated(&output, &describe);
    let (words, items) = (lines(&folder.path().join("items.described.jsonl")), lines(&output));
    assert!(said.contains("items.described.jsonl"), "{said}");
    assert_eq!(words.len(), items.len());
    for (described, item) in words.iter().zip(&items) {
        assert_eq!(described["id"], item["id"]);
        assert!(described["accuracy"].is_null() && item["accuracy"].is_number());
        assert_eq!((&described["media_tokens"], &item["media_tokens"]), (&json!([32]), &json!([])));
        assert!(described["length"].as_u64().unwrap() <= 8 && item["prompt_tokens"].as_u64().unwrap() > 0);
    }
    let both = [&describe[..], &["--ablate", "blind"]].concat();
    let base = ["eval", "--model", text(&shared.model), "--output", text(&output)];
    let said = here(&[&base[..], &both].concat()).unwrap_err().to_string();
    assert!(said.contains("cannot be used with"), "{said}");
}
