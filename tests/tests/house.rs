//! Rules of the house that no lint checks.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails; the lint spares only its #[test] functions")]

use std::{
    collections::BTreeSet,
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

/// The names that `--algo` takes: those of the configurations.
fn names() -> Vec<String> {
    let files = fs::read_dir(root().join("configs")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = files.filter_map(|file| Some(file.to_str()?.strip_suffix(".toml")?.to_owned())).collect();
    names.sort();
    names
}

/// The one that picks frames: it trains no policy of tokens, so that it is not compared with the others. It is trained in
/// `tests/commands/picks.rs` of trainer, its gradients are held to finite differences in `tests/policy/selector.rs` of
/// foveate-policy.
const PICKS: &str = "refocus";

/// The algorithm that the configuration `name` sets up.
fn method(name: &str) -> String {
    let text = read(&root().join(format!("configs/{name}.toml")));
    let stated = text.lines().skip_while(|line| *line != "[algo]").find_map(|line| line.strip_prefix("name = \""));
    stated.and_then(|rest| rest.split('"').next()).unwrap_or_default().to_owned()
}

/// The files that `docs/adding-an-algorithm.md` asks for.
fn algorithm_files(name: &str) -> [String; 4] {
    [
        format!("crates/foveate-algo/src/{}.rs", method(name).replace('-', "_")),
        format!("configs/{name}.toml"),
        format!("configs/demo/{name}.toml"),
        format!("docs/algorithms/{name}.md"),
    ]
}

/// The names under which recorded cases were made.
fn recorded_names() -> BTreeSet<String> {
    let golden = ["algorithms", "picks"].map(|kind| root().join("tests/golden").join(kind));
    let groups = golden.into_iter().flat_map(|golden| fs::read_dir(golden).unwrap());
    let groups = groups.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = groups.flat_map(|group| fs::read_dir(group).unwrap().map(|entry| entry.unwrap().path()));
    let cases = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let name = |case: PathBuf| {
        let case: serde_json::Value = serde_json::from_str(&read(&case)).unwrap();
        case["algo"].as_str().unwrap().to_owned()
    };
    cases.map(name).collect()
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
fn every_name_that_algo_takes_has_its_source_its_configurations_its_page_and_a_recorded_case() {
    let (names, recorded) = (names(), recorded_names());
    assert!(NAMES.iter().all(|name| names.iter().any(|known| known == name)), "{names:?}");
    for name in &names {
        assert!(NAMES.contains(&method(name).as_str()), "configs/{name}.toml is of no known algorithm");
        assert!(recorded.contains(name), "no recorded case of {name}");
    }
    let files = names.iter().flat_map(|name| algorithm_files(name));
    let missing: Vec<_> = files.filter(|file| !root().join(file).is_file()).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_name_that_algo_takes_is_compared_trained_and_held_to_finite_differences() {
    for name in names().into_iter().filter(|name| name != PICKS) {
        for (file, words) in [
            ("README.md", format!("[`{name}`](docs/algorithms/{name}.md)")),
            ("configs/compare/demo.toml", format!("algo = \"{name}\"")),
            ("crates/trainer/tests/commands/algorithms.rs", format!("(\"{name}\", ")),
            ("crates/foveate-policy/tests/policy/gradients.rs", format!("\"name\": \"{}\"", method(&name))),
        ] {
            assert!(read(&root().join(file)).contains(&words), "{file} lacks {words}");
        }
    }
}

#[test]
fn every_algorithm_page_and_demo_configuration_belongs_to_a_name() {
    /// What the demo has besides the algorithms' files.
    const OTHERS: &[&str] = &["base", "sft", "sft-lookup", "sft-vision", "sft-scorer"];
    let names = names();
    for (folder, suffix) in [("configs/demo", ".toml"), ("docs/algorithms", ".md")] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let file = entry.unwrap().file_name().into_string().unwrap();
            if let Some(name) = file.strip_suffix(suffix) {
                let known = names.iter().any(|known| known == name) || OTHERS.contains(&name);
                assert!(known, "{folder}/{file} is of no known algorithm");
            }
        }
    }
}

#[test]
fn the_page_on_adding_an_algorithm_names_every_place_that_an_algorithm_stands_in() {
    let page = read(&root().join("docs/adding-an-algorithm.md"));
    let (module, name) = ("video_ktr", "video-ktr");
    let mentions = |path: &Path| {
        let text = read(path);
        [module, name].iter().any(|word| text.contains(word))
    };
    let code = sources(&root().join("crates")).into_iter().filter(|path| path.iter().any(|part| part == "src"));
    let places: Vec<_> = code
        .filter(|path| mentions(path))
        .map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap().replace(module, "NAME"))
        .collect();
    let unnamed: Vec<_> = places.iter().filter(|place| !page.contains(&format!("`{place}`"))).collect();
    assert!(unnamed.is_empty(), "docs/adding-an-algorithm.md does not name {unnamed:#?}");
}
