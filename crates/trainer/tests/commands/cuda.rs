//! The program on a CUDA device: it computes there what it computes on the CPU. `tests/cuda` stands in for the device, unless
//! torch is a full one or `FOVEATE_LIBTORCH_CUDA` names a real device's library.

use std::path::Path;
use std::process::Output;

use foveate_policy::read_safetensors;
use serde_json::{Map, Value};
use tch::{Kind, Tensor};

use crate::{
    algorithms, bench, picks,
    setup::{SAVE_EVERY, lines, metrics, printed, program, shared, succeed, text, timed, train},
};

fn there(args: &[&str]) -> Output {
    program(args).env(foveate_cuda_stand_in::REAL, foveate_cuda_stand_in::library()).output().unwrap()
}

/// Runs the program with the device at hand; it has to succeed. What it printed.
fn succeed_there(args: &[&str]) -> String {
    printed(args, there(args))
}

/// The metrics of two runs' first step are the same.
fn assert_same_step(run: &Path, other: &Path, what: &str) {
    let first = |run: &Path| lines(&run.join("metrics.jsonl")).remove(0);
    let (found, expected) = (first(run), first(other));
    assert!(found.keys().eq(expected.keys()), "{what}");
    for (name, expected) in expected.iter().filter(|(name, _)| !timed(name)) {
        let near = match (found[name].as_f64(), expected.as_f64()) {
            // Of rollouts and passes of one device: their rounding and nothing else.
            (Some(found), Some(_)) if name == "sampling/logp_difference_mean" => found < 1e-5,
            (Some(found), Some(expected)) => (found - expected).abs() <= 1e-6 + 1e-3 * expected.abs(),
            _ => found[name] == *expected,
        };
        assert!(near, "{what} {name}: {} on the device, {expected} on the CPU", found[name]);
    }
}

/// The step has moved the weights to the same place. Not each of them: AdamW goes as far along a gradient that is almost
/// none, which is rounding, as along any other.
fn assert_same_weights(run: &Path, other: &Path, what: &str) {
    let read = |file: &Path| read_safetensors(file).unwrap();
    let [found, expected] = [run, other].map(|run| read(&run.join("checkpoints/step-1/policy/model.safetensors")));
    let before = read(&shared().model.join("model.safetensors"));
    let square = |a: &Tensor, b: &Tensor| (a - b).square().sum(Kind::Double).double_value(&[]);
    let (mut off, mut moved) = (0.0, 0.0);
    for (name, expected) in &expected {
        off += square(&found[name], expected);
        moved += square(&before[name], expected);
    }
    assert!(off <= 0.01 * moved, "{what}: {off:e} apart, {moved:e} from where they were");
}

fn completions(run: &Path) -> Vec<Value> {
    let text = |mut line: Map<String, Value>| line.remove("completion").unwrap();
    lines(&run.join("completions/step-1.jsonl")).into_iter().map(text).collect()
}

#[test]
fn every_algorithm_trains_as_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (name, own)) in algorithms::RUNS.into_iter().enumerate() {
        let settings = ["run.steps=1", "run.save_every=1", "eval.at_ends=false", "optim.pass_tokens=400"];
        let settings = [&settings[..], own].concat();
        let [cpu, cuda] = ["cpu", "cuda"].map(|device| folder.path().join(format!("{number}-{device}")));
        succeed(&train(name, &cpu, &settings).args());
        succeed_there(&train(name, &cuda, &[&settings[..], &["model.device=cuda"]].concat()).args());
        assert_same_step(&cuda, &cpu, &format!("{name} {own:?}"));
        assert_eq!(completions(&cuda), completions(&cpu), "{name} {own:?}");
        assert_same_weights(&cuda, &cpu, &format!("{name} {own:?}"));
    }
}

#[test]
fn a_run_in_bf16_trains_evaluates_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    for precision in ["float32", "master", "weights"] {
        let precision = format!("optim.precision={precision}");
        let settings = ["model.device=cuda", "model.dtype=bfloat16", "optim.recompute=layers", "algo.beta=0.1"];
        let length = format!("run.steps={}", 2 * SAVE_EVERY);
        let settings = [&settings[..], &[&precision, &length]].concat();
        succeed_there(&train("grpo", &run, &settings).args());
        let last = run.join(format!("checkpoints/step-{}", 2 * SAVE_EVERY));
        let state = || {
            ["policy/model.safetensors", "optimizer.safetensors"].map(|file| std::fs::read(last.join(file)).unwrap())
        };
        let undisturbed = (metrics(&run), state());
        assert_eq!(undisturbed.0.len() as u64, 2 * SAVE_EVERY);
        // As if it had ended after the checkpoint before.
        std::fs::remove_dir_all(&last).unwrap();
        succeed_there(&["--resume", text(&run)]);
        assert!((metrics(&run), state()) == undisturbed, "{precision}");
        std::fs::remove_dir_all(&run).unwrap();
    }
}

#[test]
fn a_frame_selector_trains_as_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let [cpu, cuda] = ["cpu", "cuda"].map(|device| {
        let run = folder.path().join(device);
        let device = format!("model.device={device}");
        // One update: the first step's metrics are then of weights that have not moved.
        let once = ["optim.updates_per_rollout=1", "optim.minibatches=1", "run.steps=1", "run.save_every=0"];
        let args = picks::training(&run, &[&once[..], &[&device]].concat());
        succeed_there(&args.iter().map(String::as_str).collect::<Vec<_>>());
        run
    });
    assert_same_step(&cuda, &cpu, "refocus");
}

#[test]
fn a_benchmark_reports_the_devices_memory() {
    let (_folder, path) = bench::file(&bench::tiny());
    // Bytes of a weight with its gradient, both moments, and behind bf16 a master copy and a sum of gradients if asked for.
    let mut peaks = Vec::new();
    for (dtype, precision, bytes) in
        [("float32", &[][..], 16.0), ("bfloat16", &[], 8.0), ("bfloat16", &["--precision", "float32"], 20.0)]
    {
        let options = ["--device", "cuda", "--dtype", dtype, "--repeat", "2", "--peak-tflops", "1"];
        let command = ["bench", "--shape", text(&path), "--mode", "all"];
        let said = succeed_there(&[&command[..], &options, precision].concat());
        let report: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(report["device"], "cuda");
        for mode in ["rollout", "rollout-attn", "update", "score", "score-attn"] {
            assert!(bench::number(&report, &format!("/results/{mode}/mfu")) > 0.0, "{mode}: {report}");
        }
        let params = bench::number(&report, "/params");
        let bytes = params * bytes;
        let peak = bench::number(&report, "/results/update/peak_mib") * f64::from(1 << 20);
        // What a real device's cuBLAS works in counts as well: 32 MiB on an H100.
        let most = 20.0 * bytes + f64::from(100 << 20);
        assert!((bytes..most).contains(&peak), "{peak} bytes, expected {bytes} to {most}: {report}");
        peaks.push(peak / params);
    }
    assert!(peaks[2] - peaks[1] > 11.0, "bytes of a parameter: {peaks:?}");
}

#[test]
fn a_device_that_is_not_there_is_refused_with_how_many_there_are() {
    let (_folder, path) = bench::file(&bench::tiny());
    let output = there(&["bench", "--shape", text(&path), "--device", "cuda:99"]);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(line.contains(" CUDA devices") && line.contains("cuda:99"), "{line}");
    assert!(!line.contains("one of 0 "), "{line}");
}
