//! What is done to files of records, and rewards of completions made elsewhere.

use std::path::Path;

use serde_json::{Value, json};
use trainer::run::write_atomically;

use crate::setup::{error, lines, root, shared, stop_at, succeed, text};

#[test]
fn records_are_converted_inverted_filtered_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let [converted, inverted, filtered, report] =
        ["converted.jsonl", "inverted.jsonl", "filtered.jsonl", "report.json"].map(|name| folder.path().join(name));
    let scenes = shared().scenes.join("train.jsonl");
    let said = succeed(&["data", "convert", "--input", text(&scenes), "--output", text(&converted)]);
    assert!(said.starts_with("20 of 20 records kept in "), "{said}");

    let all = ["--style", "next-gqa", "--probability", "1", "--as-released", "--seed", "5"];
    let invert = |output| {
        let files = ["data", "invert", "--input", text(&converted), "--output", output];
        succeed(&[&files[..], &all].concat())
    };
    let single = lines(&converted).iter().filter(|record| record["answer"].as_str().unwrap().len() == 1).count();
    assert!(invert(text(&inverted)).contains(&format!("{single} of them inverted")) && single > 10);
    let first = std::fs::read(&inverted).unwrap();
    invert(text(&inverted));
    assert_eq!(std::fs::read(&inverted).unwrap(), first);
    assert_eq!(lines(&inverted).iter().filter(|record| record["is_negated"] == json!(true)).count(), single);

    let twice = [std::fs::read(&converted).unwrap(), std::fs::read(&converted).unwrap()].concat();
    let both = folder.path().join("both.jsonl");
    write_atomically(&both, &twice).unwrap();
    let said = succeed(&["data", "filter", "--by", "duplicates", "--input", text(&both), "--output", text(&filtered)]);
    assert!(said.starts_with("20 of 40 records kept"), "{said}");

    let flashes = lines(&converted).iter().filter(|record| record["kind"] == json!("flash")).count();
    let by_kind = ["data", "filter", "--by", "kind", "--input", text(&converted), "--output", text(&filtered)];
    let said = succeed(&[&by_kind[..], &["--kind", "flash"]].concat());
    assert!(flashes > 0 && said.starts_with(&format!("{flashes} of 20 records kept")), "{said}");
    assert!(error(&by_kind, 2).contains("--kind is needed"));

    let root = ["--media-root", text(&shared().scenes)];
    let inspect = ["data", "inspect", "--input", text(&both), "--probe", "--output", text(&report)];
    let said = succeed(&[&inspect[..], &root].concat());
    assert!(said.contains("unreadable files") && said.contains("video"), "{said}");
    let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(
        (&report["records"], &report["missing_count"], &report["unreadable_count"]),
        (&json!(40), &json!(0), &json!(0))
    );
    assert!(succeed(&["data", "inspect", "--input", text(&both)]).contains("missing files"));
}

#[test]
fn questions_that_a_model_always_or_never_solves_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let shared = shared();
    let kept = |name: &str, range: [&str; 2]| {
        let output = folder.path().join(name);
        let scenes = shared.scenes.join("test.jsonl");
        let files = ["data", "filter", "--by", "difficulty", "--input", text(&scenes), "--output", text(&output)];
        let model = ["--model", text(&shared.model), "--config", text(&shared.config), "--samples", "3"];
        let range = ["--min-accuracy", range[0], "--max-accuracy", range[1]];
        succeed(&[&files[..], &model, &range].concat());
        lines(&output).iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let [never, sometimes, always] =
        [["0", "0.1"], ["0.2", "0.8"], ["0.9", "1"]].map(|range| kept("kept.jsonl", range));
    assert_eq!(never.len() + sometimes.len() + always.len(), 6);
    assert!(!sometimes.is_empty() && sometimes.len() < 6, "{never:?} {sometimes:?} {always:?}");
}

#[test]
fn a_filter_that_was_stopped_goes_on_with_what_was_judged() {
    let (folder, shared) = (tempfile::tempdir().unwrap(), shared());
    let scenes = shared.scenes.join("train.jsonl");
    let scorer =
        ["--set", "scorer.prompt=scenes", "--set", "scorer.frame_label=", "--set", "scorer.answer_prefix=<answer>"];
    let ways = [
        ("difficulty", vec!["--samples", "2", "--set", "rollout.prompts_per_step=2"]),
        ("frame-sensitivity", [&["--subset-frames", "2", "--min-variance", "0"][..], &scorer].concat()),
    ];
    for (by, settings) in ways {
        let [whole, again] = ["whole", "again"].map(|name| folder.path().join(format!("{by}-{name}.jsonl")));
        let model = ["--model", text(&shared.model), "--config", text(&shared.config)];
        let into = |output| {
            [&["data", "filter", "--by", by, "--input", text(&scenes), "--output", output][..], &model, &settings]
                .concat()
        };
        succeed(&into(text(&whole)));
        let partial = again.with_extension("jsonl.partial");
        // On a busy machine it may have ended before the signal came.
        let before_its_end = || {
            let said = stop_at(&into(text(&again)), &partial, 3);
            std::fs::remove_file(&again).is_err().then_some(said)
        };
        let stopped = (0..9).find_map(|_| before_its_end()).unwrap();
        assert!(stopped.contains("the same command goes on"), "{by}: {stopped}");
        let judged = std::fs::read(&partial).unwrap();
        let other = error(&[&into(text(&again))[..], &["--set", "run.seed=1"]].concat(), 2);
        assert!(other.contains("name another --output"), "{by}: {other}");
        assert_eq!(std::fs::read(&partial).unwrap(), judged, "{by}");
        succeed(&into(text(&again)));
        for end in ["jsonl", "margins.jsonl"] {
            let read = |path: &Path| std::fs::read(path.with_extension(end)).ok();
            assert_eq!(read(&whole), read(&again), "{by} {end}");
        }
        assert!(!partial.exists() && !lines(&whole).is_empty(), "{by}");
    }
}

#[test]
fn one_video_is_prepared_as_a_processor_would() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("one.safetensors");
    let video = shared().scenes.join("videos/train-00000.mp4");
    let size = ["--num-frames", "8", "--min-pixels", "3136", "--max-pixels", "3136"];
    succeed(&[&["data", "prepare", "--video", text(&video), "--output", text(&output)][..], &size].concat());
    let bytes = std::fs::read(&output).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("pixel_values_videos").unwrap().shape(), [4 * 4 * 4, 3 * 2 * 14 * 14]);
    assert_eq!(tensors.tensor("frame_indices").unwrap().shape(), [8]);
    let missing = error(&["data", "prepare", "--video", text(&video)], 2);
    assert!(missing.contains("--output"), "{missing}");
}

#[test]
fn rewards_of_completions_are_given_line_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let [input, output] = ["in.jsonl", "out.jsonl"].map(|name| folder.path().join(name));
    let line = |completion: &str| {
        json!({"id": 1, "problem_type": "numerical", "solution": "<answer>3.5</answer>", "completion": completion,
            "scorers": ["accuracy", "format"]})
        .to_string()
    };
    let text_of = [line("<think>x</think><answer>3.50</answer>"), line("3.5")].join("\n");
    write_atomically(&input, text_of.as_bytes()).unwrap();
    succeed(&["reward", "--input", text(&input), "--output", text(&output)]);
    let breakdowns: Vec<Value> = lines(&output).iter().map(|line| line["breakdown"].clone()).collect();
    assert_eq!(breakdowns, [json!({"accuracy": 1.0, "format": 1.0}), json!({"accuracy": 0.0, "format": 0.0})]);
    write_atomically(&input, b"{\"solution\": \"B\"}").unwrap();
    let wrong = error(&["reward", "--input", text(&input), "--output", text(&output)], 2);
    assert!(wrong.contains("in.jsonl:1") && wrong.contains("completion"), "{wrong}");
}

/// The numbers of a tensor, whatever they are stored as.
fn numbers(tensors: &safetensors::SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f64>) {
    use safetensors::Dtype;
    let tensor = tensors.tensor(name).unwrap();
    let bytes = tensor.data();
    let values = match tensor.dtype() {
        Dtype::F16 => bytes.chunks(2).map(|b| f64::from(half::f16::from_le_bytes([b[0], b[1]]))).collect(),
        Dtype::F32 => bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
        Dtype::F64 => bytes.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::I64 => bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
        other => unreachable!("{name}: {other:?}"),
    };
    (tensor.shape().to_vec(), values)
}

#[test]
fn a_prepared_video_is_what_pyav_torchvision_and_transformers_make_of_it() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b-frames", "odd-444", "irregular"] {
        let golden = root().join("tests/golden/prepare");
        let (video, output) = (golden.join(format!("{name}.mp4")), folder.path().join("out.safetensors"));
        let bytes = std::fs::read(golden.join(format!("{name}.safetensors"))).unwrap();
        let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let [frames, low, high] = [0, 1, 2].map(|at| numbers(&expected, "pixels").1[at].to_string());
        let files = ["data", "prepare", "--video", text(&video), "--output", text(&output)];
        let size = ["--num-frames", &frames, "--min-pixels", &low, "--max-pixels", &high];
        succeed(&[&files[..], &size].concat());
        let bytes = std::fs::read(&output).unwrap();
        let found = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for exact in ["video_grid_thw", "frame_indices"] {
            assert_eq!(numbers(&found, exact), numbers(&expected, exact), "{name} {exact}");
        }
        let [(_, found_times), (_, times)] = [&found, &expected].map(|all| numbers(all, "timestamps"));
        assert!(found_times.iter().zip(&times).all(|(a, b)| (a - b).abs() < 1e-9), "{name}: {found_times:?} {times:?}");
        let [(found_shape, pixels), (shape, golden)] =
            [&found, &expected].map(|all| numbers(all, "pixel_values_videos"));
        assert_eq!(found_shape, shape, "{name}");
        let difference = pixels.iter().zip(&golden).map(|(a, b)| (a - b).abs()).sum::<f64>() / pixels.len() as f64;
        assert!(difference < 0.01, "{name}: mean difference {difference}");
    }
}

#[test]
fn questions_are_kept_whose_answers_depend_on_the_frames_that_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let shared = shared();
    let scenes = shared.scenes.join("test.jsonl");
    let filter = |name: &str, least: &str, more: &[&str]| {
        let output = folder.path().join(name);
        let files =
            ["data", "filter", "--by", "frame-sensitivity", "--input", text(&scenes), "--output", text(&output)];
        let model = ["--model", text(&shared.model), "--config", text(&shared.config)];
        let asked =
            ["--set", "scorer.prompt=scenes", "--set", "scorer.frame_label=", "--set", "scorer.answer_prefix=<answer>"];
        let sets = ["--subset-frames", "2", "--min-variance", least];
        let said = succeed(&[&files[..], &model, &asked, &sets, more].concat());
        (said, lines(&output).iter().map(|record| record["id"].clone()).collect::<Vec<_>>())
    };
    let (said, all) = filter("all.jsonl", "0", &[]);
    let margins = lines(&folder.path().join("all.margins.jsonl"));
    assert!(said.contains("all.margins.jsonl"), "{said}");
    // Questions with several right answers have no margin.
    let single = lines(&scenes).iter().filter(|record| record["answer"].as_str().unwrap().len() == 1).count();
    assert_eq!((margins.len(), all.len()), (single, single));
    let variances: Vec<f64> = margins.iter().map(|line| line["variance"].as_f64().unwrap()).collect();
    for (line, variance) in margins.iter().zip(&variances) {
        let found: Vec<f64> =
            line["margins"].as_array().unwrap().iter().map(|margin| margin.as_f64().unwrap()).collect();
        assert_eq!((found.len(), line["frames"].as_u64()), (16, Some(16)));
        assert!(found.iter().all(|margin| margin.abs() <= 1.0));
        let mean = found.iter().sum::<f64>() / 16.0;
        let expected = found.iter().map(|margin| (margin - mean).powi(2)).sum::<f64>() / 16.0;
        assert!((variance - expected).abs() < 1e-6);
    }
    let mut sorted = variances.clone();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted[1].to_string();
    let beside = folder.path().join("beside.jsonl");
    let (_, some) = filter("some.jsonl", &middle, &["--margins", text(&beside)]);
    let expected: Vec<_> = margins.iter().zip(&variances).filter(|(_, v)| **v > sorted[1]).collect();
    assert_eq!(some, expected.into_iter().map(|(line, _)| line["id"].clone()).collect::<Vec<_>>());
    assert!(!some.is_empty() && some.len() < all.len());
    assert_eq!(lines(&beside), margins);
}
