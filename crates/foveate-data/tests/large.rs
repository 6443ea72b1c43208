//! A large file is read without being held in memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{BufWriter, Write};

use foveate_data::{Format, Records};

const RECORDS: usize = 100_000;

/// The most memory this process has used so far, KiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_hundred_thousand_records_are_read_in_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Video-R1-260k.json");
    let mut file = BufWriter::new(File::create(&path).unwrap());
    let thought = "The ball rolls behind the box and comes out on the other side. ".repeat(30);
    for index in 0..RECORDS {
        let record = serde_json::json!({
            "problem_id": index, "problem": "Where is the ball?", "data_type": "video",
            "problem_type": "multiple choice", "options": ["A. left", "B. right"], "process": format!("<think>{thought}</think>"),
            "solution": "<answer>B</answer>", "path": format!("./videos/{index}.mp4"), "data_source": "made",
        });
        write!(file, "{}{record}", if index == 0 { '[' } else { ',' }).unwrap();
    }
    write!(file, "]").unwrap();
    file.into_inner().unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() > 200 << 20, "the file is larger than what may be held");

    let before = peak();
    let records = Records::open(&path, Format::VideoR1, None).unwrap();
    assert_eq!(records.len(), RECORDS);
    for index in 0..records.len() {
        assert_eq!(records.get(index).unwrap().id, index.to_string());
    }
    let grown = peak() - before;
    assert!(grown < 100 << 10, "{grown} KiB");
}
