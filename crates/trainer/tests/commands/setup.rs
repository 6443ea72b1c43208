//! What the tests share: a tiny model, a few rendered scenes, and an undisturbed run to compare others with.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use clap::Parser;
use serde_json::{Map, Value};
use trainer::cli::{Cli, dispatch};
use trainer::run::write_atomically;

/// Steps of the runs that are compared, and steps between their checkpoints.
pub(crate) const STEPS: u64 = 6;
pub(crate) const SAVE_EVERY: u64 = 2;

/// The checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Runs a command in this process, as `main` would.
pub(crate) fn here(args: &[&str]) -> anyhow::Result<()> {
    dispatch(Cli::try_parse_from(std::iter::once(&"trainer").chain(args))?)
}

/// The program, to be run on its own; libtorch computes with one thread, so that tests do not hinder each other.
pub(crate) fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
    command.args(args).env("OMP_NUM_THREADS", "1").stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    program(args).output().unwrap()
}

/// Runs the program, which has to succeed; what it printed.
pub(crate) fn succeed(args: &[&str]) -> String {
    printed(args, run(args))
}

/// What the program printed with these arguments; it has to have succeeded.
pub(crate) fn printed(args: &[&str], output: Output) -> String {
    assert!(output.status.success(), "trainer {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The program's one line on standard error, without `error: `; it has to end with this exit code.
pub(crate) fn error(args: &[&str], code: i32) -> String {
    let output = run(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "trainer {args:?}: {text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1, "trainer {args:?}: {text}");
    assert!(!text.contains("panicked") && !text.contains("backtrace"), "{text}");
    lines[0].strip_prefix("error: ").unwrap_or_else(|| unreachable!("trainer {args:?}: {text}")).to_owned()
}

/// Runs the program and asks it to end (SIGINT) as soon as a file has so many lines, if it has not ended before; what it
/// printed.
pub(crate) fn stop_at(args: &[&str], file: &Path, lines: usize) -> String {
    let mut child = program(args).stdout(Stdio::piped()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        if std::fs::read_to_string(file).is_ok_and(|text| text.lines().count() >= lines) {
            let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
            break;
        }
        sleep(Duration::from_millis(1));
    }
    printed(args, child.wait_with_output().unwrap())
}

/// What several tests use.
pub(crate) struct Shared {
    folder: PathBuf,
    /// Directory of the tiny model.
    pub(crate) model: PathBuf,
    /// Folder of a few scenes: `train.jsonl`, `test.jsonl`, `videos/`.
    pub(crate) scenes: PathBuf,
    /// Settings of all runs: model, data, and sizes that make a step take a fraction of a second.
    pub(crate) config: PathBuf,
}

/// The shared files, made by the first test that asks. They stay until the next test run, which waits for this one.
pub(crate) fn shared() -> &'static Shared {
    static LOCK: OnceLock<File> = OnceLock::new();
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("commands");
        let lock = LOCK.get_or_init(|| File::create(folder.with_extension("lock")).unwrap());
        lock.lock().unwrap();
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        let scenes = folder.join("scenes");
        here(&["data", "scenes", "--output", text(&scenes), "--train", "20", "--test", "6", "--seed", "3"]).unwrap();
        assert!(root().join("data/tiny-vlm/model.safetensors").is_file(), "no weights; see `just make-tiny-vlm`");
        let shared = Shared { model: root().join("data/tiny-vlm"), config: folder.join("run.toml"), scenes, folder };
        write_atomically(&shared.config, settings(&shared.model, &shared.scenes).as_bytes()).unwrap();
        shared
    })
}

fn settings(model: &Path, scenes: &Path) -> String {
    let (model, scenes) = (model.display(), scenes.display());
    format!(
        r#"
        [model]
        path = "{model}"
        dtype = "float32"
        device = "cpu"
        [data]
        train = "{scenes}/train.jsonl"
        test = "{scenes}/test.jsonl"
        prompt = "scenes"
        frames = {{ sampling = "uniform", count = 16 }}
        pixels = {{ min = 1024, max = 1024, total = 0 }}
        [reward]
        accuracy = {{ weight = 1.0, rule = "letters" }}
        format = {{ weight = 0.2, style = "video-r1" }}
        [rollout]
        completions = 4
        prompts_per_step = 2
        max_new_tokens = 32
        temperature = 1.5 # rewards differ, however good the model is
        [optim]
        lr = 2e-4
        [run]
        steps = {STEPS}
        save_every = {SAVE_EVERY}
        keep = 0
        [eval]
        limit = 6
        batch = 3
        "#
    )
}

/// A finished APPO run, which nothing disturbed.
pub(crate) fn undisturbed() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let run = shared().folder.join("undisturbed");
        let said = succeed(&train("appo", &run, &[]).args());
        assert!(said.contains("held-out accuracy") && said.contains("all"), "{said}");
        run
    })
}

/// The command line of a training run.
pub(crate) struct Train(Vec<String>);

impl Train {
    pub(crate) fn args(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }
}

/// A run of `algo` into `output`, with these settings.
pub(crate) fn train(algo: &str, output: &Path, set: &[&str]) -> Train {
    let config = text(&shared().config);
    let mut args = vec!["--algo", algo, "--config", config, "--output", text(output)];
    args.extend(set.iter().flat_map(|setting| ["--set", setting]));
    // What APPO does with its own k3 on completions this short is the scenes' business.
    if algo == "appo" && !set.iter().any(|setting| setting.starts_with("algo.k3")) {
        args.extend(["--set", "algo.k1=4", "--set", "algo.k2=2", "--set", "algo.k3=6"]);
    }
    Train(args.into_iter().map(str::to_owned).collect())
}

/// The path as the command line takes it.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The records of a JSON lines file.
pub(crate) fn lines(path: &Path) -> Vec<Map<String, Value>> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| unreachable!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A metric that is of time, and no two runs' the same.
pub(crate) fn timed(name: &str) -> bool {
    name.starts_with("timing/") || name == "step_time"
}

/// The metrics of a run as text, a step a line, times left out.
pub(crate) fn metrics(run: &Path) -> Vec<String> {
    let untimed = |mut line: Map<String, Value>| {
        line.retain(|name, _| !timed(name));
        Value::Object(line).to_string()
    };
    lines(&run.join("metrics.jsonl")).into_iter().map(untimed).collect()
}

/// A metric of every step.
pub(crate) fn column(run: &Path, name: &str) -> Vec<f64> {
    let value = |line: &Map<String, Value>| line.get(name).and_then(Value::as_f64);
    lines(&run.join("metrics.jsonl")).iter().map(|line| value(line).unwrap_or(f64::NAN)).collect()
}

/// Asserts that two runs wrote the same: metrics but for times, completions, evaluations, and the last checkpoint.
pub(crate) fn assert_same_run(run: &Path, other: &Path) {
    assert_eq!(metrics(run), metrics(other));
    let last = format!("checkpoints/step-{STEPS}");
    let files = [
        "eval/before.jsonl".to_owned(),
        "eval/after.jsonl".to_owned(),
        format!("completions/step-{STEPS}.jsonl"),
        format!("{last}/policy/model.safetensors"),
        format!("{last}/optimizer.safetensors"),
        format!("{last}/state.json"),
    ];
    for file in files {
        let read = |run: &Path| std::fs::read(run.join(&file)).unwrap();
        assert!(read(run) == read(other), "{file} differs");
    }
}
