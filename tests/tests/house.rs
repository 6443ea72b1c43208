//! Rules of the house that no lint checks.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails; the lint spares only its #[test] functions")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use foveate_algo::NAMES;

/// A file longer than this is two files.
const MAX_LINES: usize = 500;

/// What ends a program where an error should be returned. `assert!` and `unreachable!` state what is known.
const ABORTS: &[&str] = &[".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!("];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// All Rust sources under `folder`, build products aside.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines, numbered from 1, on which code outside the tests would end the program. A test module ends its file, or
/// is a file of its own.
fn aborts(source: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let mut lines = (1..).zip(source.lines().map(str::trim));
    while let Some((number, line)) = lines.next() {
        if line == "#[cfg(test)]" && !lines.next().is_some_and(|(_, item)| item.ends_with(';')) {
            break;
        }
        if !line.starts_with("//") && ABORTS.iter().any(|abort| line.contains(abort)) {
            found.push(number);
        }
    }
    found
}

/// The files that algorithm `name` has to have.
fn algorithm_files(name: &str) -> [String; 3] {
    [
        format!("crates/foveate-algo/src/{}.rs", name.replace('-', "_")),
        format!("configs/{name}.toml"),
        format!("docs/algorithms/{name}.md"),
    ]
}

#[test]
fn no_source_file_is_too_long() {
    let files: Vec<PathBuf> =
        ["crates", "tests", ".cargo"].iter().flat_map(|folder| sources(&root().join(folder))).collect();
    assert!(files.len() > 20, "only {} files found", files.len());
    let long: Vec<_> = files.iter().filter(|path| read(path).lines().count() > MAX_LINES).collect();
    assert!(long.is_empty(), "more than {MAX_LINES} lines: {long:#?}");
}

#[test]
fn library_code_returns_its_errors() {
    let crates = root().join("crates");
    let mut found = Vec::new();
    for crate_folder in fs::read_dir(&crates).unwrap() {
        for path in sources(&crate_folder.unwrap().path().join("src")) {
            let name = path.strip_prefix(&crates).unwrap();
            if name.file_stem().unwrap() != "tests" && name.iter().all(|folder| folder != "tests") {
                found.extend(aborts(&read(&path)).into_iter().map(|line| format!("{}:{line}", name.display())));
            }
        }
    }
    assert!(found.is_empty(), "code that ends the program instead of returning an error: {found:#?}");
}

#[test]
fn code_that_ends_the_program_is_found_and_tests_are_not() {
    let library = "let a = b.unwrap();\n/// x.unwrap()\nlet c = d.unwrap_or(1);\n";
    let tests_elsewhere = "#[cfg(test)]\nmod tests;\n";
    let tests_here = "#[cfg(test)]\nmod tests {\n    panic!()\n}\n";
    assert_eq!(aborts(&format!("{library}{tests_here}")), [1]);
    assert_eq!(aborts(&format!("{tests_elsewhere}{library}{tests_here}")), [3]);
}

#[test]
fn every_algorithm_has_its_source_its_config_and_its_page() {
    assert!(!NAMES.is_empty());
    let files = NAMES.iter().flat_map(|name| algorithm_files(name));
    let missing: Vec<_> = files.filter(|file| !root().join(file).is_file()).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_algorithm_page_and_config_belongs_to_an_algorithm() {
    for (folder, suffix) in [("configs", ".toml"), ("docs/algorithms", ".md")] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            if let Some(name) = file.strip_suffix(suffix) {
                assert!(NAMES.contains(&name), "{folder}/{file} is of no known algorithm");
            }
        }
    }
}
