//! Every recorded group with every recorded setting: credit, loss and gradient to 2e-5.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::{Path, PathBuf};

use foveate_algo::{
    AlgoConfig, Credit, GroupShape, MediaKind, Objective, Observations, Ratio, RecordedDistributions, ScoredGroup,
    WeightSide, factors,
};
use ndarray::{Array1, Array2, Array3, ArrayD, ArrayViewD};
use safetensors::SafeTensors;

const TOLERANCE: f64 = 2e-5;

/// The folder of recorded groups.
fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/algorithms")
}

/// The tensors of one safetensors file, integers as floats.
struct Tensors(Vec<u8>);

impl Tensors {
    fn read(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    fn get(&self, name: &str) -> ArrayD<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        let values: Vec<f32> = match tensor.dtype() {
            safetensors::Dtype::F32 => {
                tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            }
            safetensors::Dtype::I64 => {
                tensor.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect()
            }
            other => panic!("{name} is {other:?}"),
        };
        ArrayD::from_shape_vec(tensor.shape(), values).unwrap()
    }

    fn vector(&self, name: &str) -> Array1<f32> {
        self.get(name).into_dimensionality().unwrap()
    }

    fn matrix(&self, name: &str) -> Array2<f32> {
        self.get(name).into_dimensionality().unwrap()
    }

    fn cube(&self, name: &str) -> Array3<f32> {
        self.get(name).into_dimensionality().unwrap()
    }
}

/// One recorded group.
struct Recorded {
    group: ScoredGroup,
    attention: Array3<f32>,
    logits: Array3<f32>,
    logprobs: [Array2<f32>; 3], // new, old, reference
}

impl Recorded {
    fn read(path: &Path) -> Self {
        let file = Tensors::read(path);
        let mask = file.matrix("completion_mask").mapv(|token| token != 0.0);
        let group = ScoredGroup {
            rewards: file.vector("rewards"),
            accuracy: file.vector("accuracy"),
            truncated: Array1::from_elem(mask.nrows(), false),
            media: MediaKind::Video,
            mask,
        };
        Self {
            group,
            attention: file.cube("frame_attention"),
            logits: file.cube("logits"),
            logprobs: ["logprobs", "old_logprobs", "ref_logprobs"].map(|name| file.matrix(name)),
        }
    }

    fn distributions(&self) -> RecordedDistributions {
        RecordedDistributions::new(self.logits.clone(), &self.group.mask).unwrap()
    }
}

/// Loss and its gradient by the new log-probs, `[G, T]`, of one group.
fn surrogate(objective: &Objective, credit: &Credit, factors: &Array2<f32>, recorded: &Recorded) -> (f64, Array2<f64>) {
    assert_eq!(objective.ratio, Ratio::Token);
    let mut loss = 0.0;
    let mut gradient = Array2::zeros(factors.dim());
    for ((i, t), factor) in factors.indexed_iter().filter(|(at, _)| recorded.group.mask[*at]) {
        let [new, old, reference] = recorded.logprobs.each_ref().map(|array| f64::from(array[[i, t]]));
        let (weight, advantage) = (f64::from(credit.weights[[i, t]]), f64::from(credit.advantages[i]));
        let (inside, outside) = match objective.weights {
            WeightSide::InsideMin => (weight, 1.0),
            WeightSide::OnSurrogate => (1.0, weight),
        };
        let ratio = (new - old).exp();
        let clipped =
            objective.clip.map_or(ratio, |clip| ratio.clamp(1.0 - f64::from(clip.low), 1.0 + f64::from(clip.high)));
        let (free, bound) = (inside * ratio * advantage, clipped * advantage);
        let slope = if free <= bound { inside * ratio * advantage } else { 0.0 };
        let gap = reference - new;
        let kl = f64::from(objective.kl_coef);
        let factor = f64::from(*factor);
        loss += factor * (-outside * free.min(bound) + kl * (gap.exp() - gap - 1.0));
        gradient[[i, t]] = factor * (-outside * slope + kl * (1.0 - gap.exp()));
    }
    (loss, gradient)
}

/// Settings files of all cases of all groups.
fn cases() -> Vec<PathBuf> {
    let folders = std::fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let mut cases: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    cases.sort();
    cases
}

fn expect_close(what: &str, case: &str, expected: ArrayViewD<f32>, found: ArrayD<f64>) {
    assert_eq!(expected.shape(), found.shape(), "{case}: {what}");
    for (at, expected) in expected.indexed_iter() {
        let found = found[&at];
        assert!(
            (found - f64::from(*expected)).abs() <= TOLERANCE,
            "{case}: {what}{at:?} is {found}, expected {expected}"
        );
    }
}

fn check(settings: &Path) {
    let case = settings.display().to_string();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(settings).unwrap()).unwrap();
    let config = AlgoConfig::parse(json["algo"].as_str().unwrap(), &json["settings"]).unwrap();
    let algorithm = config.algorithm().unwrap();
    let mut recorded = Recorded::read(&settings.with_file_name("rollouts.safetensors"));
    let padding = recorded.group.mask.mapv(|token| !token);
    for ((i, t), _) in padding.indexed_iter().filter(|(_, padding)| **padding) {
        recorded.attention.slice_mut(ndarray::s![i, t, ..]).fill(f32::NAN);
        recorded.logits.slice_mut(ndarray::s![i, t, ..]).fill(f32::NAN);
    }
    let expected = Tensors::read(&settings.with_extension("safetensors"));

    let distributions = recorded.distributions();
    let seen = Observations {
        frame_attention: Some(recorded.attention.clone()),
        distributions: Some(&distributions),
        ..Observations::default()
    };
    let credit = algorithm.credit(&recorded.group, &seen).unwrap();
    let objective = algorithm.objective();
    let factors = factors(&objective, &[GroupShape::of(&recorded.group, &credit)]);
    let (loss, gradient) = surrogate(&objective, &credit, &factors[0], &recorded);

    let wide = |array: ArrayViewD<f32>| array.mapv(f64::from);
    expect_close(
        "shaped_rewards",
        &case,
        expected.get("shaped_rewards").view(),
        wide(credit.rewards.view().into_dyn()),
    );
    expect_close("advantages", &case, expected.get("advantages").view(), wide(credit.advantages.view().into_dyn()));
    expect_close("token_weights", &case, expected.get("token_weights").view(), wide(credit.weights.view().into_dyn()));
    expect_close("loss", &case, expected.get("loss").view(), ndarray::arr1(&[loss]).into_dyn());
    expect_close("grad_logprobs", &case, expected.get("grad_logprobs").view(), gradient.into_dyn());
    if let Some(frames) = credit.detail("crucial_frames") {
        assert_eq!(frames, expected.get("crucial_frames"), "{case}");
    }
}

#[test]
fn every_recorded_case_comes_out_as_recorded_even_with_nan_in_its_padding() {
    let cases = cases();
    assert!(cases.len() >= 56, "only {} cases found", cases.len());
    cases.iter().for_each(|settings| check(settings));
}
