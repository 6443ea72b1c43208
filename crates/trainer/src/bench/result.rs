//! Rounds made into the numbers that are reported.

use anyhow::{Context, Result};
use foveate_policy::runtime;
use serde_json::{Map, Value, json};
use tch::{Device, Kind};

use super::{Mode, cost::Cost, work::Phases};

/// What the numbers of all modes are made with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Yardstick<'a> {
    /// What the work needs at least.
    pub(super) cost: Cost<'a>,
    /// Number format of the weights.
    pub(super) kind: Kind,
    /// What the device can do at most, in 10^12 floating-point operations a second, where that is known.
    pub(super) peak_tflops: Option<f64>,
}

impl Yardstick<'_> {
    /// The result of a mode: that of its median round.
    pub(super) fn result(&self, mode: Mode, rounds: &[Phases], peak_mib: f64) -> Map<String, Value> {
        let phases = middle(rounds);
        let seconds = whole(&phases);
        let phases: Map<String, Value> =
            phases.into_iter().map(|(name, seconds)| (name.to_owned(), seconds.into())).collect();
        let shape = self.cost.shape;
        let samples = (shape.groups * shape.group_size) as f64;
        let mut result = Map::from_iter([("seconds".to_owned(), seconds.into())]);
        match mode {
            Mode::Rollout | Mode::RolloutAttn => {
                let tokens = samples * shape.completion_tokens as f64;
                result.insert("completion_tokens_per_s".into(), (tokens / seconds).into());
                result.insert("decode_gb_per_s".into(), self.decode_bandwidth(&phases).into());
            }
            _ => {
                result.insert("samples_per_s".into(), (samples / seconds).into());
            }
        }
        if let Some(peak) = self.peak_tflops {
            result.insert("mfu".into(), (self.cost.flops(mode) / seconds / (peak * 1e12)).into());
        }
        result.insert("peak_mib".into(), peak_mib.into());
        result.insert("phases".into(), phases.into());
        result
    }

    /// Bytes that a decode step reads at least, over its time, in GB/s; nothing where no token is decoded.
    fn decode_bandwidth(&self, phases: &Map<String, Value>) -> Option<f64> {
        let steps = self.cost.shape.completion_tokens.checked_sub(1).filter(|steps| *steps > 0)?;
        let seconds = phases.get("decode")?.as_f64()?;
        let bytes = self.cost.bytes_per_decode_step(self.kind.elt_size_in_bytes()) * steps as f64;
        Some(bytes / seconds / 1e9).filter(|rate| rate.is_finite())
    }
}

/// Time of a mode over that of another that it takes turns with, of rounds side by side (all but the first): the median, and
/// what it lies between with 95% confidence or more, whatever its distribution (by order statistics; `null` for fewer than 6).
pub(super) fn over(rounds: &[Phases], other: Mode, others: &[Phases]) -> Value {
    let mut ratios: Vec<f64> =
        rounds.iter().zip(others).skip(1).map(|(one, other)| whole(one) / whole(other)).collect();
    ratios.sort_by(f64::total_cmp);
    let count = ratios.len();
    // How many ratios are below the true median is binomial.
    let outside = ((count as f64 - 1.96 * (count as f64).sqrt()) / 2.0).max(1.0) as usize;
    let between = (count >= 6).then(|| [ratios[outside - 1], ratios[count - outside]]);
    json!({ "mode": other.name(), "ratio": median(ratios), "between": between })
}

/// The median round by its whole time, or the mean of the two in the middle, phase by phase.
fn middle(rounds: &[Phases]) -> Phases {
    let mut sorted: Vec<&Phases> = rounds.iter().collect();
    sorted.sort_by(|one, other| whole(one).total_cmp(&whole(other)));
    let (low, high) = (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2));
    let both = low.into_iter().zip(high).flat_map(|(low, high)| low.iter().zip(*high));
    both.map(|((name, one), (_, other))| (*name, (one + other) / 2.0)).collect()
}

/// Seconds of a round.
fn whole(phases: &Phases) -> f64 {
    phases.iter().map(|(_, seconds)| seconds).sum()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        _ if values.is_empty() => f64::NAN,
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

/// Most memory that this process has had so far, in MiB: as the kernel counts it (`VmHWM`), or on a GPU what libtorch's
/// allocator has handed out (torch's `max_memory_allocated`).
///
/// # Errors
/// `/proc` cannot be read, or the device has no such allocator.
pub(super) fn peak_mib(device: Device) -> Result<f64> {
    if let Device::Cuda(number) = device {
        return Ok(runtime::peak_bytes(number)? / f64::from(1 << 20));
    }
    let status = fs_err::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    Ok(kib.context("/proc/self/status has no VmHWM")? / 1024.0)
}

/// Dense bf16 operations a second of H100 and H200 (SXM), as NVIDIA states them, in 10^12; the driver's files say whether
/// the machine's GPUs are such.
pub(super) fn known_tflops(device: Device, kind: Kind) -> Option<f64> {
    if device == Device::Cpu || kind != Kind::BFloat16 {
        return None;
    }
    let gpus = std::fs::read_dir("/proc/driver/nvidia/gpus").ok()?.flatten();
    let about: Vec<String> =
        gpus.map(|gpu| std::fs::read_to_string(gpu.path().join("information"))).collect::<Result<_, _>>().ok()?;
    let models = about.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("Model:"));
    tflops_of(models)
}

/// Of GPUs of these models, if all are known to do as much: CUDA numbers them in an order of its own.
fn tflops_of<'a>(models: impl Iterator<Item = &'a str>) -> Option<f64> {
    // The cards for PCIe run at lower clocks. GH200 is an H100 here, or an H200.
    let known = |model: &str| {
        ["H100", "H200"].iter().any(|name| model.contains(name))
            && !["PCIe", "NVL"].iter().any(|kind| model.contains(kind))
    };
    let known: Vec<bool> = models.map(known).collect();
    (!known.is_empty() && known.iter().all(|known| *known)).then_some(989.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_middles() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        // Whole rounds, so that phases add up to the seconds.
        let rounds = [[5.0, 1.0], [1.0, 1.0], [0.0, 4.0], [2.0, 9.0]].map(|[a, b]| vec![("a", a), ("b", b)]);
        assert_eq!(middle(&rounds[..3]), [("a", 0.0), ("b", 4.0)]);
        assert_eq!(middle(&rounds), [("a", 2.5), ("b", 2.5)]);
    }

    #[test]
    fn a_peak_is_known_of_some_models_if_no_other_is_there() {
        let of = |models: &[&str]| tflops_of(models.iter().copied());
        assert_eq!(of(&[" NVIDIA H200", " NVIDIA H100 80GB HBM3"]), Some(989.0));
        for models in [&[][..], &[" NVIDIA A100-SXM4-80GB"], &[" NVIDIA H100 PCIe"], &[" NVIDIA H200", " NVIDIA L4"]] {
            assert_eq!(of(models), None, "{models:?}");
        }
    }

    #[test]
    fn a_ratio_is_of_rounds_side_by_side() {
        let found = |one: &[f64], other: &[f64]| {
            // The first round counts for nothing.
            let rounds = |seconds: &[f64]| -> Vec<Phases> {
                [&[9.0], seconds].concat().iter().map(|s| vec![("a", s / 4.0), ("b", 3.0 * s / 4.0)]).collect()
            };
            let found = over(&rounds(one), Mode::Score, &rounds(other));
            assert_eq!(found["mode"], "score");
            (found["ratio"].as_f64().unwrap(), found["between"].clone())
        };
        // Ratios of 1.5, 2 and 1, while the machine is slower and slower: sorted apart, they would be 1.
        assert_eq!(found(&[1.5, 8.0, 8.0], &[1.0, 4.0, 8.0]), (1.5, Value::Null));
        assert_eq!(found(&[3.0, 1.0, 2.0, 6.0, 5.0], &[1.0; 5]), (3.0, Value::Null));
        assert_eq!(found(&[3.0, 1.0, 2.0, 6.0, 5.0, 4.0], &[1.0; 6]), (3.5, json!([1.0, 6.0])));
        let many: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(found(&many, &[1.0; 100]), (50.5, json!([40.0, 61.0])));
    }

    #[test]
    fn the_peak_of_this_process_is_at_least_what_it_holds() {
        let held = vec![1_u8; 64 << 20];
        let peak = peak_mib(Device::Cpu).unwrap();
        assert!(peak > 64.0 && held.iter().all(|byte| *byte == 1), "{peak}");
    }
}
