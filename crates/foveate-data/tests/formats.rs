//! Every data set, from a file in its real format to the prompt and the answer, and from a malformed one to an error
//! that names file, record and field.
//!
//! Each has a folder in `fixtures`: `good` (a file or a folder of files) and `bad`, the same with one record made
//! wrong. `INSTA_UPDATE=always cargo test -p foveate-data` writes the snapshots anew; read what changed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use foveate_data::{Example, Format, Medium, Prompts, Records, Seen, letter};

const PROMPT: &str =
    "user = \"{{ question }}{% for option in options %}\\n{{ option.letter }}. {{ option.text }}{% endfor %}\"";

/// The file or folder of that name in a data set's fixtures.
fn fixture(format: Format, name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format.name());
    let mut found = std::fs::read_dir(&folder).unwrap_or_else(|_| unreachable!("no fixtures in {}", folder.display()));
    let named = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem == name);
    found.find_map(|entry| Some(entry.unwrap().path()).filter(named)).unwrap()
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
    if let Some(target) = &example.target {
        let _ = writeln!(text, "target: {target}");
    }
    text
}

#[test]
fn every_data_set_is_read_to_prompts_and_answers() {
    for format in Format::ALL {
        let path = fixture(*format, "good");
        let records = Records::open(&path, *format, None).unwrap_or_else(|error| unreachable!("{format}: {error}"));
        let examples: Vec<String> =
            (0..records.len()).map(|index| shown(&records.get(index).unwrap(), records.media_root())).collect();
        insta::assert_snapshot!(format.name(), examples.join("\n"));
    }
}

#[test]
fn names_are_unique_and_letters_are_of_options() {
    for format in Format::ALL {
        let records = Records::open(&fixture(*format, "good"), *format, None).unwrap();
        let mut names = HashSet::new();
        for example in (0..records.len()).map(|index| records.get(index).unwrap()) {
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
    for format in Format::ALL {
        let path = fixture(*format, "bad");
        let folder = path.parent().unwrap().display().to_string() + "/";
        let wrong: Vec<String> = match Records::open(&path, *format, None) {
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
