//! Every recorded group with every recorded setting: credit, loss and gradient to 2e-5.

use std::path::{Path, PathBuf};

use foveate_algo::{
    AlgoConfig, Counterfactual, Credit, GroupShape, MediaKind, NAMES, Objective, Observations, Ratio,
    RecordedDistributions, ScoredGroup, WeightSide, factors,
};
use ndarray::{Array1, Array2, Array3, ArrayD, ArrayViewD};
use safetensors::SafeTensors;

const TOLERANCE: f64 = 2e-5;

const CHANGED_LOGITS: [&str; 2] = ["masked_logits", "shuffled_logits"];

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

    fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).is_ok()
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
    logprobs: [Array2<f32>; 3],       // new, old, reference
    counterfactual: [Array2<f32>; 2], // masked, shuffled
    changed_logits: Option<[Array3<f32>; 2]>,
    shuffled_accuracy: Array1<f32>,
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
            counterfactual: ["masked_logprobs", "shuffled_logprobs"].map(|name| file.matrix(name)),
            changed_logits: file.has("masked_logits").then(|| CHANGED_LOGITS.map(|name| file.cube(name))),
            shuffled_accuracy: file.vector("shuffled_accuracy"),
        }
    }

    fn distributions(&self) -> RecordedDistributions {
        let distributions = RecordedDistributions::new(self.logits.clone(), &self.group.mask).unwrap();
        let Some([masked, shuffled]) = self.changed_logits.clone() else { return distributions };
        let distributions = distributions.with(Counterfactual::Masked, masked).unwrap();
        distributions.with(Counterfactual::Reordered, shuffled).unwrap()
    }

    /// Entropy in nats of every token.
    fn entropy(&self) -> Array2<f32> {
        Array2::from_shape_fn(self.group.mask.dim(), |(i, t)| {
            let exps = self.logits.slice(ndarray::s![i, t, ..]).mapv(|logit| f64::from(logit).exp());
            let p = &exps / exps.sum();
            -p.mapv(|p| p * p.ln()).sum() as f32
        })
    }

    /// NaN wherever padding is.
    fn spoil_padding(&mut self) {
        let padding: Vec<_> = self.group.mask.indexed_iter().filter(|(_, token)| !**token).map(|(at, _)| at).collect();
        for (i, t) in padding {
            let changed = self.changed_logits.iter_mut().flatten();
            for cube in [&mut self.attention, &mut self.logits].into_iter().chain(changed) {
                cube.slice_mut(ndarray::s![i, t, ..]).fill(f32::NAN);
            }
            for matrix in self.logprobs.iter_mut().chain(&mut self.counterfactual) {
                matrix[[i, t]] = f32::NAN;
            }
        }
    }
}

/// Loss and its gradient by the new log-probs, `[G, T]`, of one group.
fn surrogate(objective: &Objective, credit: &Credit, factors: &Array2<f32>, recorded: &Recorded) -> (f64, Array2<f64>) {
    let lengths = recorded.group.lengths().unwrap();
    let [new, old, reference] = recorded.logprobs.each_ref().map(|array| array.mapv(f64::from));
    let mut loss = 0.0;
    let mut gradient = Array2::zeros(factors.dim());
    for ((i, t), factor) in factors.indexed_iter().filter(|(at, _)| recorded.group.mask[*at]) {
        let (weight, advantage) = (f64::from(credit.weights[[i, t]]), f64::from(credit.advantages[i]));
        let (inside, outside) = match objective.weights {
            WeightSide::InsideMin => (weight, 1.0),
            WeightSide::OnSurrogate | WeightSide::OnTokenLoss => (1.0, weight),
        };
        let on_kl = if objective.weights == WeightSide::OnTokenLoss { weight } else { 1.0 };
        // The tokens that the ratio is made of, each with an equal part in its logarithm.
        let parts = match objective.ratio {
            Ratio::Token => t..t + 1,
            Ratio::Sequence | Ratio::Product => 0..lengths[i],
        };
        let part = if objective.ratio == Ratio::Product { 1.0 } else { 1.0 / parts.len() as f64 };
        let ratio = (parts.clone().map(|t| new[[i, t]] - old[[i, t]]).sum::<f64>() * part).exp();
        let clipped =
            objective.clip.map_or(ratio, |clip| ratio.clamp(1.0 - f64::from(clip.low), 1.0 + f64::from(clip.high)));
        let (free, bound) = (inside * ratio * advantage, clipped * advantage);
        let within = clipped == ratio;
        let slope = if free <= bound { free } else { f64::from(u8::from(within)) * bound };
        let gap = reference[[i, t]] - new[[i, t]];
        let kl = on_kl * f64::from(objective.kl_coef);
        let factor = f64::from(*factor);
        loss += factor * -outside * free.min(bound);
        parts.for_each(|t| gradient[[i, t]] -= factor * outside * slope * part);
        if kl > 0.0 {
            loss += factor * kl * (gap.exp() - gap - 1.0);
            gradient[[i, t]] += factor * kl * (1.0 - gap.exp());
        }
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
            (found - f64::from(*expected)).abs() <= TOLERANCE * f64::from(*expected).abs().max(1.0),
            "{case}: {what}{at:?} is {found}, expected {expected}"
        );
    }
}

fn check(settings: &Path) {
    let case = settings.display().to_string();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(settings).unwrap()).unwrap();
    // What is not an algorithm of this crate is a configuration of GRPO, whose settings the case states.
    let algo = json["algo"].as_str().filter(|name| NAMES.contains(name)).unwrap_or("grpo");
    let config = AlgoConfig::parse(algo, &json["settings"]).unwrap_or_else(|error| panic!("{case}: {error}"));
    let algorithm = config.algorithm().unwrap();
    let mut recorded = Recorded::read(&settings.with_file_name("rollouts.safetensors"));
    recorded.spoil_padding();
    let expected = Tensors::read(&settings.with_extension("safetensors"));

    let distributions = recorded.distributions();
    let [masked, shuffled] = recorded.counterfactual.clone();
    let seen = Observations {
        frame_attention: Some(recorded.attention.clone()),
        distributions: Some(&distributions),
        entropy: Some(recorded.entropy()),
        sampling_logprobs: Some(recorded.logprobs[1].clone()),
        masked_logprobs: Some(masked),
        reordered_logprobs: Some(shuffled),
        contrast_accuracy: Some(recorded.shuffled_accuracy.clone()),
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
    for name in ["crucial_frames", "divergence", "visual", "temporal", "entropy"] {
        if expected.has(name) {
            let found = credit.detail(name).unwrap_or_else(|| panic!("{case}: {name} is missing"));
            expect_close(name, &case, expected.get(name).view(), wide(found.view()));
        }
    }
}

#[test]
fn every_recorded_case_comes_out_as_recorded_even_with_nan_in_its_padding() {
    let cases = cases();
    assert!(cases.len() >= 150, "only {} cases found", cases.len());
    cases.iter().for_each(|settings| check(settings));
}
