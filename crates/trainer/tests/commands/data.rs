//! Videos that cannot be read, and videos that were read before.

use std::path::{Path, PathBuf};

use trainer::run::write_atomically;

use crate::setup::{column, lines, metrics, run, shared, succeed, text, train};

/// Files of a folder, by path relative to it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(path, target).unwrap();
    }
}

/// The shared scenes, two of the twenty videos to train on unreadable: one cut short, one not a video at all.
fn broken_scenes() -> (tempfile::TempDir, [&'static str; 2]) {
    let folder = tempfile::tempdir().unwrap();
    copy(&shared().scenes, folder.path());
    let bad = ["train-00004.mp4", "train-00013.mp4"];
    let path = |name: &str| folder.path().join("videos").join(name);
    let whole = std::fs::read(path(bad[0])).unwrap();
    write_atomically(&path(bad[0]), &whole[..whole.len() / 3]).unwrap();
    write_atomically(&path(bad[1]), &b"not a video ".repeat(100)).unwrap();
    (folder, bad)
}

#[test]
fn a_run_skips_unreadable_videos_names_each_once_and_counts_them() {
    let (scenes, bad) = broken_scenes();
    let run = scenes.path().join("run");
    let data = format!("data.train={}/train.jsonl", scenes.path().display());
    // Two epochs and more: what is known to be bad is not named again.
    let size = ["rollout.prompts_per_step=10", "rollout.completions=2", "rollout.max_new_tokens=4"];
    let settings = [&[data.as_str(), "run.steps=4", "eval.at_ends=false"][..], &size].concat();
    succeed(&train("grpo", &run, &settings).args());
    assert_eq!(column(&run, "data/skipped").iter().sum::<f64>(), 2.0);
    assert_eq!(column(&run, "data/skipped_total").last(), Some(&2.0));
    let log = std::fs::read_to_string(run.join("run.log")).unwrap();
    for video in bad {
        assert_eq!(log.matches(video).count(), 1, "{video}: {log}");
    }
    let seen: Vec<_> = (1..=4).flat_map(|step| lines(&run.join(format!("completions/step-{step}.jsonl")))).collect();
    assert_eq!(seen.len(), 4 * 10 * 2, "a skipped example's place is taken by the next");
    assert!(seen.iter().all(|line| !bad.iter().any(|name| line["id"].as_str() == name.strip_suffix(".mp4"))));
}

#[test]
fn a_run_that_is_to_stop_at_a_bad_example_ends_with_the_first() {
    let (scenes, bad) = broken_scenes();
    let folder = scenes.path().join("run");
    let data = format!("data.train={}/train.jsonl", scenes.path().display());
    let size = ["rollout.prompts_per_step=10", "rollout.completions=2", "rollout.max_new_tokens=4"];
    let settings = [&[data.as_str(), "eval.at_ends=false", "data.on_bad_example=stop"][..], &size].concat();
    let output = run(&train("grpo", &folder, &settings).args());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    let last = error.lines().last().unwrap();
    assert!(last.contains("bad example") && bad.iter().any(|video| last.contains(video)), "{error}");
    assert!(lines(&folder.join("metrics.jsonl")).len() < 2);
}

#[test]
fn a_filter_leaves_out_what_it_cannot_see_or_ends_with_the_first_of_it() {
    let (scenes, bad) = broken_scenes();
    let input = scenes.path().join("train.jsonl");
    for by in ["difficulty", "frame-sensitivity"] {
        let output = scenes.path().join(format!("{by}.jsonl"));
        let files = ["data", "filter", "--by", by, "--input", text(&input), "--output", text(&output)];
        let model = ["--model", text(&shared().model), "--config", text(&shared().config), "--samples", "2"];
        let widest = ["--min-accuracy", "0", "--max-accuracy", "1", "--min-variance", "0", "--subset-frames", "2"];
        let short =
            ["--set", "rollout.max_new_tokens=4", "--set", "scorer.prompt=scenes", "--set", "scorer.frame_label="];
        let args = [&files[..], &model, &widest, &short, &["--set", "scorer.answer_prefix=<answer>"]].concat();
        let said = run(&args);
        let warned = String::from_utf8(said.stderr).unwrap();
        assert!(said.status.success(), "{warned}");
        let kept: Vec<String> = lines(&output).iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
        assert!(kept.len() > 10, "{by}: {kept:?}");
        for video in bad {
            assert!(warned.contains(video), "{by}: {warned}");
            assert!(!kept.iter().any(|id| Some(id.as_str()) == video.strip_suffix(".mp4")), "{by}: {kept:?}");
        }
        std::fs::remove_file(&output).unwrap();
        let stopped = run(&[&args[..], &["--set", "data.on_bad_example=stop"]].concat());
        let last = String::from_utf8(stopped.stderr).unwrap().lines().last().unwrap().to_owned();
        assert!(!stopped.status.success() && last.contains("bad example"), "{by}: {last}");
        assert!(!output.exists(), "{by}");
    }
}

#[test]
fn prepared_frames_give_the_same_run_and_need_no_videos() {
    let folder = tempfile::tempdir().unwrap();
    let scenes = &shared().scenes;
    let settings = |data: &str| {
        let train = format!("data.train={data}/train.jsonl");
        [train, "data.test=".to_owned() + data + "/test.jsonl", "run.steps=2".to_owned(), "eval.limit=2".to_owned()]
    };
    let train_on = |data: &Path, cache: Option<&Path>, name: &str| {
        let output = folder.path().join(name);
        let mut settings = settings(text(data)).to_vec();
        settings.extend(cache.map(|cache| format!("data.cache={}", cache.display())));
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        succeed(&train("appo", &output, &settings).args());
        (metrics(&output), lines(&output.join("eval/after.jsonl")))
    };
    let cache = folder.path().join("cache");
    for split in ["train", "test"] {
        let input = scenes.join(format!("{split}.jsonl"));
        let paths = ["--model", text(&shared().model), "--input", text(&input), "--cache", text(&cache)];
        let args = [&["data", "prepare", "--config", text(&shared().config)][..], &paths].concat();
        let count = if split == "train" { 20 } else { 6 };
        assert!(succeed(&args).contains(&format!("{count} videos decoded")));
        assert!(succeed(&args).contains("0 videos decoded"));
    }
    let decoded = train_on(scenes, None, "decoded");
    assert_eq!(train_on(scenes, Some(&cache), "cached"), decoded);

    // Records and cache on another machine, without a single video.
    let elsewhere = folder.path().join("elsewhere");
    copy(scenes, &elsewhere.join("scenes"));
    std::fs::remove_dir_all(elsewhere.join("scenes/videos")).unwrap();
    std::fs::rename(&cache, elsewhere.join("cache")).unwrap();
    assert_eq!(train_on(&elsewhere.join("scenes"), Some(&elsewhere.join("cache")), "moved"), decoded);
}
