//! Time and peak memory of one step of a frame selector (16 sets picked, the teacher-forced pass, its gradients) over the
//! number of candidate frames.
//!
//! `cargo run --release -p foveate-policy --example selector_step -- data/tiny-vlm 64 128 256 512`
//!
//! The tower is that of the directory; the backbone is a Mamba-2 of random weights, 256 wide and 4 layers deep, or with
//! `--text` the directory's own decoder. Each number of frames is measured in a process of its own.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use foveate_policy::{GroupSeed, LoadOptions, Origin, PickParams, ScoreGradients, Selector};
use foveate_video::{Grid, Patches};
use ndarray::Array2;

const MAMBA: &str = r#"{"model_type": "mamba2", "hidden_size": 256, "num_hidden_layers": 4, "num_heads": 8, "head_dim": 64,
    "state_size": 64, "n_groups": 1, "conv_kernel": 4, "chunk_size": 64, "vocab_size": 512, "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.1, "use_bias": false, "use_conv_bias": true, "tie_word_embeddings": false,
    "hidden_act": "silu", "time_step_limit": [0.0, null]}"#;

const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let text = args.iter().position(|arg| arg == "--text").map(|at| args.remove(at));
    let (Some(tower), counts) = (args.first(), args.get(1..).unwrap_or_default()) else {
        return Err("expected a Qwen2.5-VL directory and numbers of frames".into());
    };
    if let [frames] = counts {
        let (seconds, mib) = measure(Path::new(tower), text.is_some(), frames.parse()?)?;
        println!("{frames} {seconds} {mib}");
        return Ok(());
    }
    println!("frames  seconds  ratio  peak MiB above the weights  ratio");
    let mut first = None;
    for frames in counts {
        let mut command = Command::new(std::env::current_exe()?);
        let output = command.arg(tower).arg(frames).args(text.iter()).output()?;
        let line = String::from_utf8(output.stdout)?;
        let values: Vec<f64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [frames, seconds, mib] = values[..] else {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        };
        let (base_seconds, base_mib) = *first.get_or_insert((seconds, mib));
        println!("{frames:6}  {seconds:7.3}  {:5.2}  {mib:26.1}  {:5.2}", seconds / base_seconds, mib / base_mib);
    }
    Ok(())
}

/// Median seconds of a step and the memory that it takes at its peak.
fn measure(tower: &Path, text: bool, frames: usize) -> Result<(f64, f64), Box<dyn Error>> {
    tch::set_num_threads(2);
    let folder = tempfile::tempdir()?;
    std::fs::File::create(folder.path().join("config.json"))?.write_all(MAMBA.as_bytes())?;
    let backbone = if text { tower } else { folder.path() };
    let origin = Origin { tower, backbone, pretrained: text, pool: 2, seed: 0 };
    let selector = Selector::begin(&origin, &LoadOptions { feature_cache: 0, ..LoadOptions::default() })?;
    let vision = &selector.config().vision;
    let (side, width) = (2 * vision.spatial_merge_size as usize, vision.patch_dim() as usize);
    let frame = |number: usize| {
        let value = |(i, j)| (((number * side * side + i) * width + j) as f32 * 0.731).sin();
        Patches::new(Array2::from_shape_fn((side * side, width), value), Grid { t: 1, h: side, w: side }, 0.0)
    };
    let patches: Vec<_> = (0..frames).map(frame).collect();
    let patches: Vec<_> = patches.iter().collect();
    let params = PickParams { sets: 16, picks: 8, temperature: 1.0 };
    let before = peak_mib()?;
    let mut seconds = Vec::new();
    for round in 0..=ROUNDS as u64 {
        let start = Instant::now();
        let candidates = selector.candidates(&patches, "", "")?;
        let picks = selector.pick(&candidates, &params, GroupSeed { seed: 0, step: round, group: 0 })?;
        let pass = selector.training_pass(&candidates, &picks);
        let at_logprobs = pass.scores().logprobs.ones_like();
        pass.backward(&ScoreGradients { logprobs: at_logprobs, entropy: None });
        seconds.push(start.elapsed().as_secs_f64());
    }
    let peak = peak_mib()? - before;
    seconds.remove(0); // warms up
    seconds.sort_by(f64::total_cmp);
    Ok((seconds[ROUNDS / 2], peak))
}

/// Most memory that this process has held, MiB.
fn peak_mib() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
