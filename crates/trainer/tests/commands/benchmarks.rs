//! What some benchmarks ask for beside videos and questions: captions that another model judges, subtitles, folders of
//! pictures.

use std::path::{Path, PathBuf};

use foveate_video::{DecodeOptions, Sampling, decode};
use serde_json::{Value, json};
use trainer::run::write_atomically;

use crate::setup::{error, lines, run, shared, succeed, text};

fn written(path: PathBuf, value: &Value) -> PathBuf {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_atomically(&path, value.to_string().as_bytes()).unwrap();
    path
}

/// The command that evaluates `data`.
fn eval<'a>(data: &'a Path, output: &'a Path) -> Vec<&'a str> {
    let shared = shared();
    let model = ["eval", "--model", text(&shared.model), "--config", text(&shared.config)];
    [&model[..], &["--data", text(data), "--output", text(output)]].concat()
}

#[test]
fn captions_are_asked_for_in_the_data_sets_words_and_judged_by_another_model() {
    let folder = tempfile::tempdir().unwrap();
    let video = shared().scenes.join(lines(&shared().scenes.join("train.jsonl"))[0]["video"].as_str().unwrap());
    let videos = folder.path().join("videos");
    std::fs::create_dir_all(&videos).unwrap();
    std::fs::copy(video, videos.join("one.mp4")).unwrap();
    let long = "Write a caption of this video, in a short sentence, and nothing else beside it please";
    let captions = json!({"one": {"action": [
        {"question": "Caption?", "answer": "A. red"}, {"question": long, "answer": "A. red"}
    ]}});
    let captions = written(folder.path().join("captioning.json"), &captions);
    let questions = json!({"one": {"action": [{"question": "Which colour?\nA. red\nB. blue", "answer": "A. red"}]}});
    written(folder.path().join("multi-choice.json"), &questions);

    let output = folder.path().join("items.jsonl");
    let asked = [&eval(&captions, &output)[..], &["--benchmark", "tempcompass-captioning"]].concat();
    let refused = error(&asked, 2);
    assert!(refused.contains("--describe-with"), "{refused}");
    let described = ["--describe-with", text(&shared().model), "--describe-tokens", "4"];
    let said = succeed(&[&asked[..], &described].concat());
    assert!(said.contains("action"), "{said}");
    let (words, items) = (lines(&folder.path().join("items.described.jsonl")), lines(&output));
    let tokens = |item: &serde_json::Map<String, Value>| item["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(&words[1]) > tokens(&words[0]), "each is asked in its own words");
    assert_eq!((&items[0]["answer"], &items[0]["media_tokens"], items.len()), (&json!("A"), &json!([]), 2));
}

#[test]
fn a_time_is_asked_for_where_it_is_judged_and_not_of_a_description() {
    let folder = tempfile::tempdir().unwrap();
    let record = lines(&shared().scenes.join("test.jsonl")).remove(0);
    std::fs::copy(shared().scenes.join(record["video"].as_str().unwrap()), folder.path().join("V1.mp4")).unwrap();
    let video = json!({"duration": 4.0, "timestamps": [[0.5, 1.5]], "sentences": ["a circle flashes"]});
    let data = written(folder.path().join("charades.json"), &json!({"V1": video}));
    let output = folder.path().join("items.jsonl");
    let asked = [&eval(&data, &output)[..], &["--benchmark", "charades-sta"]].concat();
    let refused = String::from_utf8(run(&asked).stderr).unwrap();
    assert!(refused.contains("data.prompt=when does"), "{refused}");
    let when = [&asked[..], &["--set", "data.prompt=when"]].concat();
    assert!(succeed(&when).contains("recall by temporal IoU"));
    succeed(&[&when[..], &["--describe-with", text(&shared().model), "--describe-tokens", "4"]].concat());
    assert!(lines(&folder.path().join("items.described.jsonl"))[0]["accuracy"].is_null());
}

#[test]
fn a_prompt_tells_the_subtitles_of_the_frames_that_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let shared = shared();
    let record = lines(&shared.scenes.join("test.jsonl")).remove(0);
    let file = folder.path().join("a.srt");
    write_atomically(&file, b"1\n00:00:00,000 --> 00:00:30,000\nA red circle is shown here.").unwrap();
    let mut with = record.clone();
    let video = shared.scenes.join(record["video"].as_str().unwrap());
    std::fs::copy(video, folder.path().join("a.mp4")).unwrap();
    with["video"] = json!("a.mp4");
    with.insert("subtitles".into(), json!({"path": "a.srt"}));
    let data = written(folder.path().join("one.jsonl"), &Value::Object(with));
    let tokens = |prompt: &str| {
        let output = folder.path().join(format!("{prompt}.jsonl"));
        succeed(&[&eval(&data, &output)[..], &["--set", &format!("data.prompt={prompt}")]].concat());
        lines(&output)[0]["prompt_tokens"].as_u64().unwrap()
    };
    assert!(tokens("subtitles") > tokens("plain") + 5);
    assert!(succeed(&["data", "inspect", "--input", text(&data)]).contains("with subtitles"));
}

#[test]
fn a_folder_of_pictures_is_a_video() {
    let folder = tempfile::tempdir().unwrap();
    let shared = shared();
    let mut record = lines(&shared.scenes.join("test.jsonl")).remove(0);
    let video = shared.scenes.join(record["video"].as_str().unwrap());
    let frames = decode(&video, &Sampling::Uniform { frames: 16 }, &DecodeOptions::default()).unwrap();
    let pictures = folder.path().join("pictures");
    std::fs::create_dir_all(&pictures).unwrap();
    for (number, image) in frames.images.iter().enumerate() {
        image.save(pictures.join(format!("{number}.png"))).unwrap();
    }
    let [whole, apart] = ["whole", "apart"].map(|name| folder.path().join(format!("{name}.jsonl")));
    let items = |data: &Path, output: &Path, set: &[&str]| {
        succeed(&[&eval(data, output)[..], set].concat());
        lines(output)
    };
    let rate = format!("data.decode.folder_fps={}", 16.0 / frames.duration);
    let rate = ["--set", rate.as_str()];
    std::fs::copy(&video, folder.path().join("a.mp4")).unwrap();
    record["video"] = json!("a.mp4");
    let data = written(folder.path().join("whole-data.jsonl"), &Value::Object(record.clone()));
    let expected = items(&data, &whole, &[]);
    record["video"] = json!("pictures");
    let data = written(folder.path().join("apart-data.jsonl"), &Value::Object(record));
    assert_eq!(items(&data, &apart, &rate), expected);

    let refused = run(&eval(&data, &folder.path().join("refused.jsonl")));
    let refused = (refused.status.code(), String::from_utf8(refused.stderr).unwrap());
    assert!(refused.0 == Some(2) && refused.1.contains("pictures cannot be read: it is a folder"), "{refused:?}");
    let seen = succeed(&["data", "inspect", "--input", text(&data), "--probe"]);
    assert!(seen.contains("unreadable files") && !seen.contains("unreadable:"), "{seen}");

    let cache = folder.path().join("cache");
    let prepare = ["data", "prepare", "--model", text(&shared.model), "--config", text(&shared.config), "--input"];
    succeed(&[&prepare[..], &[text(&data), "--cache", text(&cache)], &rate].concat());
    std::fs::remove_dir_all(&pictures).unwrap();
    let cached = format!("data.cache={}", cache.display());
    assert_eq!(items(&data, &apart, &[&rate[..], &["--set", &cached]].concat()), expected);
}
