//! What foveate saves, transformers loads: by transformers itself where it is installed, else by the goldens alone.

use std::{env, io::Write, path::Path, process::Command};

use foveate_algo::Layers;
use foveate_policy::{LoadOptions, Trainable, Vlm, write_safetensors};
use tch::{Device, Kind, Tensor};

use crate::{
    common::{GOLDENS, Golden},
    goldens::check_scores,
};

fn options() -> LoadOptions {
    LoadOptions { trainable: Trainable::Nothing, ..LoadOptions::default() }
}

/// What `trainer score` writes, as far as the script reads it: log-probs `[B, S]`, positions `[3, B, S]`.
fn write_scores(path: &Path, golden: &Golden, model: &Vlm) {
    let shape = golden.expected["logprobs"].size();
    let logprobs = Tensor::zeros(&shape[..], (Kind::Float, Device::Cpu));
    let positions = Tensor::zeros([3, shape[0], shape[1]], (Kind::Int64, Device::Cpu));
    for (index, row) in (0..).zip(&golden.rows) {
        let scores = model.score(&row.sequence, &row.chosen, Layers::Last(1)).unwrap();
        let chosen: Vec<i64> = row.chosen.iter().map(|index| *index as i64).collect();
        let _ = logprobs.get(index).index_copy_(0, &Tensor::from_slice(&chosen), &scores.logprobs);
        positions.select(1, index).narrow(1, 0, row.sequence.ids.len() as i64).copy_(&scores.positions.unwrap());
    }
    write_safetensors(path, [("logprobs", &logprobs), ("position_ids", &positions)]).unwrap();
}

#[test]
fn a_saved_model_still_gives_the_goldens() {
    for name in GOLDENS {
        let golden = Golden::read(name);
        let folder = tempfile::tempdir().unwrap();
        Vlm::load(&golden.dir, &options()).unwrap().save(folder.path()).unwrap();
        check_scores(&golden, &Vlm::load(folder.path(), &options()).unwrap());
    }
}

/// Needs a Python with torch 2.11 and transformers 5.17: `FOVEATE_PYTHON` names it, else `python3` is tried.
#[test]
fn a_saved_model_gives_the_same_log_probs_in_transformers() {
    let python = env::var("FOVEATE_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/check_in_transformers.py");
    for name in GOLDENS {
        let golden = Golden::read(name);
        let folder = tempfile::tempdir().unwrap();
        let (model, scores) = (folder.path().join("model"), folder.path().join("scores.safetensors"));
        let policy = Vlm::load(&golden.dir, &options()).unwrap();
        policy.save(&model).unwrap();
        write_scores(&scores, &golden, &policy);
        let mut command = Command::new(&python);
        command.arg(&script).arg(&model).arg(golden.dir.join("inputs.safetensors")).arg(&scores);
        // Exit code 3: this Python has no torch or transformers.
        match command.output() {
            Ok(output) if output.status.code() != Some(3) => {
                let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{name}: {said}");
            }
            _ => {
                // Not println!, which the test harness keeps to itself.
                let line = format!("skipped: {python} has no transformers; FOVEATE_PYTHON can name one that has\n");
                std::io::stderr().write_all(line.as_bytes()).unwrap();
                return;
            }
        }
    }
}
