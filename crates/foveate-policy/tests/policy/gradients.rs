//! The gradient of every algorithm's loss, through the whole model, against finite differences in f64.

use foveate_algo::{
    AlgoConfig, Algorithm, Counterfactual, GroupShape, Layers, MediaKind, Observations, ScoredGroup, factors,
};
use foveate_policy::{
    Alteration, Completions, Encoded, GroupDistributions, Head, LoadOptions, Recompute, ScoreGradients, Segment, Shown,
    Surrogate, SurrogateInputs, Trainable, TrainingPass, Vlm, surrogate_loss,
};
use ndarray::{Array1, Array2, Array3, ArrayD, Ix2, Ix3, array};
use serde::Deserialize;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use crate::common::{plain_prompt, random, words};

/// Every algorithm with every term that its loss can have.
fn algorithms() -> Vec<Value> {
    vec![
        json!({"name": "grpo", "beta": 0.3, "entropy_coef": 0.1}),
        json!({"name": "grpo", "reduction": "constant-length", "constant_length": 9, "scale_rewards": false}),
        json!({"name": "grpo", "ratio": "sequence", "beta": 0.2}),
        json!({"name": "dapo", "overlong_max": 6, "overlong_cache": 3}),
        json!({"name": "t-grpo", "beta": 0.3, "length_min": 4, "length_max": 6}),
        json!({"name": "tw-grpo"}),
        json!({"name": "tw-grpo", "variant": "released", "entropy_coef": 0.1}),
        json!({"name": "video-ktr", "ratio": 0.4}),
        json!({"name": "video-ktr", "variant": "released", "ratio": 0.4}),
        json!({"name": "video-ktr", "weighting": "exponential", "distance": "hellinger", "entropy_coef": 0.1}),
        json!({"name": "appo", "k1": 2, "k2": 1, "k3": 3}),
        json!({"name": "appo", "variant": "released", "k1": 2, "k2": 1, "k3": 3}),
    ]
}

/// Parameters of every kind: embeddings, attention, MLP, norm, head, vision.
const PARAMETERS: [&str; 7] = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.1.self_attn.q_proj.bias",
    "model.layers.1.mlp.down_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
    "visual.blocks.0.attn.qkv.weight",
];

#[test]
fn gradients_equal_finite_differences() {
    let options = LoadOptions { trainable: Trainable::All, kind: Kind::Double, ..LoadOptions::default() };
    let model = random(&options, 7);
    let prompt = model.encode(&plain_prompt(2)).unwrap();
    let completions = Completions::new(&words(&[5, 3, 6, 4], 3), Device::Cpu);
    for settings in algorithms() {
        let algorithm = AlgoConfig::deserialize(&settings).unwrap().algorithm().unwrap();
        let case = Case::new(&model, &prompt, &completions, algorithm.as_ref());
        for (_, parameter) in model.parameters() {
            parameter.grad().defined().then(|| parameter.grad().zero_());
        }
        case.backward();
        for name in PARAMETERS {
            let (_, parameter) = model.parameters().find(|(known, _)| known == name).unwrap();
            let gradient = parameter.grad().flatten(0, -1);
            let at = gradient.abs().argmax(None, false);
            let found = gradient.index_select(0, &at.view([1])).double_value(&[0]);
            let expected = case.slope(parameter, &at.view([1]));
            let error = (found - expected).abs() / expected.abs().max(1e-3);
            assert!(found != 0.0 && error < 1e-6, "{settings} {name}: {found}, by differences {expected}");
        }
    }
}

/// A group, what an algorithm made of it, and the numbers that its loss holds fast.
struct Case<'a> {
    model: &'a Vlm,
    prompt: &'a Encoded,
    completions: &'a Completions,
    algorithm: &'a dyn Algorithm,
    old: Tensor,
    reference: Tensor,
    advantages: Tensor,
    weights: Tensor,
    factors: Tensor,
}

impl<'a> Case<'a> {
    fn new(model: &'a Vlm, prompt: &'a Encoded, completions: &'a Completions, algorithm: &'a dyn Algorithm) -> Self {
        let lengths = completions.lengths();
        let mask = Array2::from_shape_fn((4, 6), |(i, t)| (t as i64) < lengths[i]);
        let group = ScoredGroup {
            rewards: array![1.0, 0.0, 0.4, 1.2],
            accuracy: array![1.0, 0.0, 0.0, 1.0],
            truncated: Array1::from_elem(4, false),
            media: MediaKind::Video,
            mask,
        };
        let head = model.head(0.9);
        let (hidden, logprobs, entropy, attention) = seen(model, prompt, completions, &head);
        let altered = |alteration| {
            let altered = model.altered(prompt, &alteration).unwrap();
            let (hidden, logprobs, ..) = seen(model, &altered, completions, &head);
            (hidden, logprobs)
        };
        let (masked_hidden, masked) = altered(Alteration::Zeroed(Shown::All));
        let (moved_hidden, moved) = altered(Alteration::Reordered(vec![2, 0, 1]));
        let distributions = GroupDistributions::new(&hidden, completions.mask(), &head)
            .with(Counterfactual::Masked, &masked_hidden)
            .with(Counterfactual::Reordered, &moved_hidden);
        let observations = Observations {
            frame_attention: Some(attention),
            distributions: Some(&distributions),
            entropy: Some(host(&entropy)),
            sampling_logprobs: Some(host(&logprobs)),
            masked_logprobs: Some(host(&masked)),
            reordered_logprobs: Some(host(&moved)),
            contrast_accuracy: Some(array![0.0, 1.0]),
        };
        let credit = algorithm.credit(&group, &observations).unwrap();
        let factors = &factors(&algorithm.objective(), &[GroupShape::of(&group, &credit)])[0];
        // Ratios on both sides of every clip range.
        let wave = |step: f64, height: f64| {
            (Tensor::arange(24, (Kind::Double, Device::Cpu)) * step).sin().view([4, 6]) * height
        };
        let double = |tensor: Tensor| tensor.to_kind(Kind::Double);
        Self {
            model,
            prompt,
            completions,
            algorithm,
            old: &logprobs + wave(1.7, 0.4),
            reference: &logprobs + wave(2.3, 0.6),
            advantages: double(Tensor::try_from(&credit.advantages).unwrap()),
            weights: double(Tensor::try_from(&credit.weights).unwrap()),
            factors: double(Tensor::try_from(factors).unwrap()),
        }
    }

    fn loss(&self) -> f64 {
        self.pass().surrogate.loss.double_value(&[])
    }

    /// Adds the loss's gradient to the parameters'.
    fn backward(&self) {
        let Pass { pass, head, leaves, surrogate } = self.pass();
        surrogate.loss.backward();
        let [logprobs, entropy] = leaves.map(|leaf| self.completions.flat(&leaf.grad()));
        pass.backward(&head, &ScoreGradients { logprobs, entropy: Some(entropy) });
    }

    fn pass(&self) -> Pass<'_> {
        let segment = Segment { prompt: self.prompt, completions: self.completions };
        let pass = self.model.training_pass(&[segment], Recompute::Layers).unwrap();
        let head = self.model.head(0.9);
        let scores = pass.score(&head);
        let leaves = [scores.logprobs, scores.entropy].map(|x| self.completions.padded(&x).set_requires_grad(true));
        let surrogate = surrogate_loss(&SurrogateInputs {
            objective: &self.algorithm.objective(),
            logprobs: &leaves[0],
            old_logprobs: &self.old,
            ref_logprobs: Some(&self.reference),
            entropy: Some(&leaves[1]),
            advantages: &self.advantages,
            weights: &self.weights,
            factors: &self.factors,
            mask: self.completions.mask(),
        });
        Pass { pass, head, leaves, surrogate }
    }

    /// The slope of the loss along one number of a parameter, by central differences.
    fn slope(&self, parameter: &Tensor, at: &Tensor) -> f64 {
        const STEP: f64 = 1e-6;
        let shifted = |by: f64| {
            let shift = |by: f64| {
                no_grad(|| {
                    let step = Tensor::from_slice(&[by]);
                    let _ = parameter.view([-1]).index_add_(0, at, &step);
                })
            };
            shift(by);
            let loss = self.loss();
            shift(-by);
            loss
        };
        (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP)
    }
}

/// A pass whose gradient is waited for: log-probs and entropies as the loss's leaves, and the loss.
struct Pass<'a> {
    pass: TrainingPass<'a>,
    head: Head,
    leaves: [Tensor; 2],
    surrogate: Surrogate,
}

/// Hidden states, log-probs, entropy and frame attention of completions behind a prompt.
fn seen(
    model: &Vlm,
    prompt: &Encoded,
    completions: &Completions,
    head: &Head,
) -> (Tensor, Tensor, Tensor, Array3<f32>) {
    let segment = Segment { prompt, completions };
    let forward = no_grad(|| model.forward(&[segment], Some(Layers::All)).unwrap().remove(0));
    let scores = head.score(&completions.flat(&forward.hidden), &completions.tokens());
    let attention = forward.frame_attention.unwrap().mean_dim(0, false, Kind::Float);
    let attention: ArrayD<f32> = (&attention).try_into().unwrap();
    let attention = attention.into_dimensionality::<Ix3>().unwrap();
    (forward.hidden, completions.padded(&scores.logprobs), completions.padded(&scores.entropy), attention)
}

fn host(tensor: &Tensor) -> Array2<f32> {
    let array: ArrayD<f32> = (&tensor.to_kind(Kind::Float)).try_into().unwrap();
    array.into_dimensionality::<Ix2>().unwrap()
}
