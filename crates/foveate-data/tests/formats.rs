//! Every data set, from a file in its real format to the prompt and the answer, and from a malformed one to an error
//! that names file, record and field.
//!
//! Each has a folder in `fixtures`: `good` (a file or a folder of files) and `bad`, the same with one record made
//! wrong; where a data set comes in several forms, `good-FORM` and `bad-FORM` too. `INSTA_UPDATE=always cargo test -p foveate-data` writes the snapshots anew; read what changed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use foveate_data::{Example, Format, Medium, Prompts, Records, Seen, letter};

const PROMPT: &str =
    "user = \"{{ question }}{% for option in options %}\\n{{ option.letter }}. {{ option.text }}{% endfor %}\"";

/// The files or folders of that name in a data set's fixtures.
fn fixtures(format: Format, name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format.name());
    let found = std::fs::read_dir(&folder).unwrap_or_else(|_| unreachable!("no fixtures in {}", folder.display()));
    let named = |path: &PathBuf| {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        stem == name || stem.starts_with(&format!("{name}-"))
    };
    let mut found: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).filter(named).collect();
    found.sort();
    assert!(!found.is_empty(), "{format}: {name}");
    found
}

/// All examples of the good fixtures.
fn good(format: Format) -> Vec<(Example, PathBuf)> {
    let of = |path: PathBuf| {
        let records = Records::open(&path, format, None).unwrap_or_else(|error| unreachable!("{format}: {error}"));
        let root = records.media_root().to_owned();
        (0..records.len()).map(|index| (records.get(index).unwrap(), root.clone())).collect::<Vec<_>>()
    };
    fixtures(format, "good").into_iter().flat_map(of).collect()
}

fn shown(example: &Example, root: &Path) -> String {
    let turn = Prompts::parse("plain", PROMPT).unwrap().fill(example, Seen::default()).unwrap();
    let mut text = format!("# {}\n{}\n", example.id, turn.user);
    for medium in &example.media {
        let path = medium.path().strip_prefix(root).unwrap().display();
        let _ = match medium {
            Medium::Video { clip: None, .. } => writeln!(text, "video: {path}"),
            Medium::Video { clip: Some([start, end]), .. } => writeln!(text, "video: {path} from {start} to {end} s"),
            Medium::Image(_) => writeln!(text, "image: {path}"),
        };
    }
    if let Some(file) = &example.subtitles {
        let path = file.path.strip_prefix(root).unwrap().display();
        let _ = writeln!(text, "subtitles: {path} from {} s", file.begin);
    }
    let _ = writeln!(text, "answer: {} ({})", example.answer, example.problem);
    let facts = [
        ("kind", &example.kind),
        ("duration", &example.duration),
        ("source", &example.source),
        ("split", &example.split),
    ];
    for (name, value) in facts.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(text, "{name}: {value}");
    }
    if !example.spans.is_empty() {
        let _ = writeln!(text, "spans: {:?}", example.spans);
    }
    if let Some(negated) = example.negated {
        let _ = writeln!(text, "negated: {negated}");
    }
    if let Some(description) = &example.description {
        let _ = writeln!(text, "description: {description}");
    }
    if let Some(target) = &example.target {
        let _ = writeln!(text, "target: {target}");
    }
    text
}

#[test]
fn every_data_set_is_read_to_prompts_and_answers() {
    for format in Format::ALL {
        let examples: Vec<String> = good(*format).iter().map(|(example, root)| shown(example, root)).collect();
        insta::assert_snapshot!(format.name(), examples.join("\n"));
    }
}

#[test]
fn names_are_unique_and_letters_are_of_options() {
    for format in Format::ALL {
        let mut names = HashSet::new();
        for (example, _) in good(*format) {
            let letters: Vec<String> = (0..example.options.len()).map(letter).collect();
            let known = |part: &str| letters.iter().any(|letter| letter == part);
            assert!(letters.is_empty() || example.answer.split(',').all(known), "{format}: {example:?}");
            assert!(names.insert(example.id.clone()), "{format}: {} twice", example.id);
        }
    }
}

#[test]
fn a_malformed_record_is_named_by_file_record_and_field() {
    let mut errors = String::new();
    let bad = |format: &Format| fixtures(*format, "bad").into_iter().map(|path| (*format, path)).collect::<Vec<_>>();
    for (format, path) in Format::ALL.iter().flat_map(bad) {
        let folder = path.parent().unwrap().display().to_string() + "/";
        let wrong: Vec<String> = match Records::open(&path, format, None) {
            Ok(records) => {
                (0..records.len()).filter_map(|index| records.get(index).err()).map(|e| e.to_string()).collect()
            }
            Err(error) => vec![error.to_string()],
        };
        assert_eq!(wrong.len(), 1, "{format}: one record is wrong: {wrong:?}");
        let _ = writeln!(errors, "{format}: {}", wrong[0].replace(&folder, ""));
    }
    insta::assert_snapshot!("malformed", errors);
}

#[test]
fn every_data_set_has_a_name_that_leads_back_to_it() {
    for format in Format::ALL {
        assert_eq!(format.name().parse(), Ok(*format));
    }
    let error = "video-r2".parse::<Format>().unwrap_err();
    assert!(error.starts_with("expected one of foveate, video-r1"), "{error}");
}
