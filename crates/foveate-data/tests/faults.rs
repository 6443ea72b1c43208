//! What readers do not take, beyond the malformed twins of `formats.rs`: `fixtures/faults.txt` gives data set, file,
//! content and error of each case.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::Write;

use foveate_data::Records;

/// The error of a file's only record.
fn fault(format: &str, name: &str, text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    let error = Records::open(&path, format.parse().unwrap(), None).unwrap_err().to_string();
    let folder = folder.path().display().to_string();
    error.replace(&format!("{folder}/"), "").replace(&folder, "FOLDER")
}

#[test]
fn a_record_without_what_its_data_set_asks_for_is_refused() {
    let cases: Vec<&str> = include_str!("fixtures/faults.txt").split("\n\n").collect();
    assert!(cases.len() > 20, "{}", cases.len());
    for case in cases {
        let (head, rest) = case.trim().split_once('\n').unwrap();
        let (text, expected) = rest.rsplit_once("\n= ").unwrap();
        let (format, name) = head.trim_start_matches("# ").split_once(' ').unwrap();
        assert_eq!(fault(format, name, text), expected, "{head}");
    }
}
