//! Runs that were stopped, by whatever, go on as if nothing had happened.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use crate::setup::{SAVE_EVERY, STEPS, assert_same_run, error, metrics, program, succeed, text, train, undisturbed};

/// Begins a run and waits until it has written so many steps' metrics and `checkpoint`, if one is named.
fn begin(run: &Path, steps: usize, checkpoint: Option<u64>) -> Child {
    let train = train("appo", run, &[]);
    let mut child = program(&train.args()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let written = || std::fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    let saved = || checkpoint.is_none_or(|step| run.join(format!("checkpoints/step-{step}")).exists());
    while written() < steps || !saved() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it was disturbed");
        assert!(begun.elapsed() < Duration::from_secs(120), "the run does not get on");
        sleep(Duration::from_millis(5));
    }
    child
}

/// A number below `limit` that differs from run to run.
fn any(limit: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::from(now.subsec_nanos()) / 1000 % limit
}

#[test]
fn a_run_killed_at_any_moment_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let (steps, delay) = (SAVE_EVERY + any(STEPS - SAVE_EVERY - 1), any(200));
    let mut child = begin(&run, steps as usize, Some(SAVE_EVERY));
    sleep(Duration::from_millis(delay));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9), "killed {delay} ms after step {steps}");
    assert!(metrics(&run).len() < STEPS as usize || !run.join("eval/after.jsonl").exists());
    succeed(&["--resume", text(&run)]);
    assert_same_run(&run, undisturbed());
}

#[test]
fn a_terminated_run_ends_after_its_step_with_a_checkpoint_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut child = begin(&run, 1, None);
    let kill = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let done = metrics(&run).len();
    assert!((1..STEPS as usize).contains(&done), "{done} steps");
    assert!(run.join(format!("checkpoints/step-{done}/state.json")).is_file(), "no checkpoint of step {done}");
    assert!(!run.join("eval/after.jsonl").exists());
    let log = std::fs::read_to_string(run.join("run.log")).unwrap();
    assert!(log.contains(&format!("stopped after step {done}")) && log.contains("--resume"), "{log}");
    let steps = format!("run.steps={STEPS}");
    succeed(&["--resume", text(&run), "--set", &steps]);
    let log = std::fs::read_to_string(run.join("run.log")).unwrap();
    assert!(log.contains(&format!("going on with other settings: {steps}")), "{log}");
    assert_same_run(&run, undisturbed());
}

#[test]
fn a_run_has_its_folder_to_itself_and_a_second_ctrl_c_ends_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    // A first step that would take many seconds.
    let train = train("grpo", &run, &["rollout.prompts_per_step=1000", "algo.beta=0.0", "eval.at_ends=false"]);
    let mut child = program(&train.args()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let log = || std::fs::read_to_string(run.join("run.log")).unwrap_or_default();
    let mut interrupt_once = |ready: &dyn Fn() -> bool| {
        while !ready() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before the second signal: {}", log());
            assert!(begun.elapsed() < Duration::from_secs(120), "it does not get on: {}", log());
            sleep(Duration::from_millis(5));
        }
        let kill = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap();
        assert!(kill.success());
    };
    interrupt_once(&|| {
        let begun = run.join("run.log").exists();
        if begun {
            let other = error(&["--resume", text(&run)], 2);
            assert!(other.ends_with("another process is training there"), "{other}");
        }
        begun
    });
    interrupt_once(&|| log().contains("press Ctrl-C again"));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!run.join("metrics.jsonl").exists() || metrics(&run).is_empty(), "it waited for the step's end");
}

#[test]
fn a_finished_run_says_so_and_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    succeed(&train("grpo", &run, &["run.steps=1", "eval.limit=3", "algo.beta=0.0"]).args());
    let line = error(&["--resume", text(&run)], 2);
    assert!(line.contains("1 of 1 steps are done") && line.contains("--set run.steps=N"), "{line}");
    let after = std::fs::metadata(run.join("eval/after.jsonl")).unwrap().modified().unwrap();
    succeed(&["--resume", text(&run), "--set", "run.steps=2"]);
    assert_eq!(metrics(&run).len(), 2);
    assert_ne!(std::fs::metadata(run.join("eval/after.jsonl")).unwrap().modified().unwrap(), after);
    assert!(error(&["--resume", text(&run)], 2).contains("2 of 2 steps are done"));
    let line = error(&["--resume", text(&run), "--set", "run.steps=3", "--set", "eval.limit=2"], 2);
    assert!(line.contains("before.jsonl was evaluated otherwise"), "{line}");
}
