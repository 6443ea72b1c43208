//! Frame selectors on both backbones: picking, the teacher-forced pass over picks, and its gradients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use foveate_policy::{
    Candidates, GroupSeed, LoadOptions, Origin, PickParams, Picks, ScoreGradients, Selector, Trainable, Vlm,
    model_type, read_safetensors,
};
use foveate_video::{Grid, Patches};
use proptest::prelude::*;
use serde_json::json;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

use crate::common::{assert_close, floats, patches, random, stream, write};

/// The directories that selectors are made from: a tiny model for the tower (and one backbone), a golden Mamba-2.
struct Origins {
    folder: TempDir,
}

impl Origins {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = random(&LoadOptions { trainable: Trainable::Nothing, ..LoadOptions::default() }, 1);
        model.save(folder.path()).unwrap();
        let words: serde_json::Map<_, _> = ["[UNK]", "which", "colour", "falls", "red"]
            .iter()
            .zip(0..)
            .map(|(w, id)| ((*w).to_owned(), json!(id)))
            .collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
        });
        write(&folder.path().join("tokenizer.json"), tokenizer.to_string());
        Self { folder }
    }

    fn tower(&self) -> &Path {
        self.folder.path()
    }

    fn selector(&self, backbone: Backbone, pool: i64, kind: Kind) -> Selector {
        let mamba = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/mamba/mamba2-two-groups");
        let (backbone, pretrained): (PathBuf, _) = match backbone {
            Backbone::Mamba => (mamba, true),
            Backbone::Random => (mamba, false),
            Backbone::Text => (self.tower().to_owned(), true),
        };
        let origin = Origin { tower: self.tower(), backbone: &backbone, pretrained, pool, seed: 3 };
        let _one_at_a_time = stream();
        Selector::begin(&origin, &LoadOptions { kind, ..LoadOptions::default() }).unwrap()
    }
}

#[derive(Debug, Clone, Copy)]
enum Backbone {
    Mamba,
    Random,
    Text,
}

const BACKBONES: [Backbone; 3] = [Backbone::Mamba, Backbone::Random, Backbone::Text];

/// Frames of so many patches from top to bottom and from left to right.
fn apart(frames: usize, [h, w]: [usize; 2]) -> Vec<Arc<Patches>> {
    (0..frames).map(|frame| patches(Grid { t: 1, h, w }, 1.0, 5 + frame)).collect()
}

fn all(frames: &[Arc<Patches>]) -> Vec<&Patches> {
    frames.iter().map(Arc::as_ref).collect()
}

fn candidates(selector: &Selector, frames: usize) -> Candidates {
    let frames = apart(frames, [6, 4]);
    selector.candidates(&all(&frames), "which", "which colour falls").unwrap()
}

fn seed(group: u64) -> GroupSeed {
    GroupSeed { seed: 7, step: 1, group }
}

fn pick(selector: &Selector, candidates: &Candidates, sets: usize, picks: usize) -> Picks {
    selector.pick(candidates, &PickParams { sets, picks, temperature: 0.7 }, seed(0)).unwrap()
}

#[test]
fn the_teacher_forced_pass_gives_the_log_probs_that_frames_were_picked_by() {
    let origins = Origins::new();
    for (backbone, pool) in BACKBONES.into_iter().zip([1, 2, 2]) {
        let selector = origins.selector(backbone, pool, Kind::Float);
        for (frames, sets, picks) in [(9, 3, 4), (4, 2, 4), (1, 2, 1), (20, 1, 2)] {
            let candidates = candidates(&selector, frames);
            assert_eq!(candidates.frames(), frames);
            let picked = pick(&selector, &candidates, sets, picks);
            let (expected, found) = (picked.scores(), selector.training_pass(&candidates, &picked).scores());
            assert_close("log-probs", &found.logprobs, &expected.logprobs, 1e-4);
            assert_close("entropy", &found.entropy, &expected.entropy, 1e-4);
        }
    }
}

#[test]
fn no_frame_is_picked_twice_and_the_last_one_left_is_certain() {
    let origins = Origins::new();
    for backbone in BACKBONES {
        let selector = origins.selector(backbone, 2, Kind::Float);
        let candidates = candidates(&selector, 6);
        let picked = pick(&selector, &candidates, 8, 6);
        for set in Vec::<Vec<i64>>::try_from(&picked.frames).unwrap() {
            let mut sorted = set.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5], "{set:?}");
        }
        let probabilities = picked.logits.softmax(-1, Kind::Double);
        let total = probabilities.sum_dim_intlist(-1, false, Kind::Double);
        assert_close("sum of probabilities", &total, &total.ones_like(), 1e-6);
        let earlier = (picked.frames.one_hot(6).cumsum(1, Kind::Int64) - picked.frames.one_hot(6)).gt(0);
        let of_picked = probabilities.masked_select(&earlier);
        assert!(floats(&of_picked).iter().all(|p| *p == 0.0));
        let scores = picked.scores();
        let last = |x: &Tensor| floats(&x.select(1, 5));
        assert!(last(&scores.logprobs).iter().all(|logprob| *logprob == 0.0));
        assert!(last(&scores.entropy).iter().all(|entropy| entropy.abs() < 1e-6));
    }
}

#[test]
fn picks_depend_on_their_own_stream_alone() {
    let origins = Origins::new();
    let selector = origins.selector(Backbone::Mamba, 2, Kind::Float);
    let candidates = candidates(&selector, 30);
    let [few, many] = [3, 5].map(|sets| pick(&selector, &candidates, sets, 4).frames);
    assert_eq!(many.narrow(0, 0, 3), few);
    let params = PickParams { sets: 3, picks: 4, temperature: 0.7 };
    let other = selector.pick(&candidates, &params, seed(1)).unwrap().frames;
    assert_ne!(other, few);
    let greedy = PickParams { temperature: 0.0, ..params };
    let likeliest = selector.pick(&candidates, &greedy, seed(1)).unwrap();
    assert_eq!(likeliest.frames, likeliest.logits.argmax(-1, false));
}

#[test]
fn more_picks_than_frames_are_an_error() {
    let origins = Origins::new();
    let selector = origins.selector(Backbone::Text, 2, Kind::Float);
    let candidates = candidates(&selector, 4);
    let error = |params| selector.pick(&candidates, &params, seed(0)).unwrap_err().to_string();
    let params = PickParams { sets: 1, picks: 4, temperature: 1.0 };
    assert_eq!(error(PickParams { picks: 5, ..params }), "picks: expected 1 to 4, the frames there are, found 5");
    assert_eq!(error(PickParams { picks: 0, ..params }), "picks: expected 1 to 4, the frames there are, found 0");
    assert_eq!(error(PickParams { sets: 0, ..params }), "sets: expected at least 1, found 0");
    assert!(error(PickParams { temperature: -1.0, ..params }).starts_with("temperature: expected 0 or a number"));
    let frames = apart(300, [4, 4]);
    let long = selector.candidates(&all(&frames), &"which ".repeat(300), "falls").unwrap_err().to_string();
    assert_eq!(long, "bad prompt: expected at most 512 positions, found 602");
    let [one, other] = [apart(1, [4, 4]), apart(1, [6, 4])];
    let bad = |frames: &[&Patches]| selector.candidates(frames, "", "falls").unwrap_err().to_string();
    assert!(bad(&[&*one[0], &*other[0]]).contains("frames of several sizes"));
    assert!(bad(&[]).contains("at least one candidate frame"));
}

#[test]
fn a_saved_selector_picks_the_same() {
    let origins = Origins::new();
    let tower = Vlm::load(origins.tower(), &LoadOptions::default()).unwrap();
    for backbone in BACKBONES {
        let selector = origins.selector(backbone, 2, Kind::Float);
        let folder = tempfile::tempdir().unwrap();
        selector.save(folder.path()).unwrap();
        assert_eq!(model_type(folder.path()).unwrap(), "foveate-selector");
        let again = Selector::load(folder.path(), &LoadOptions::default()).unwrap();
        let [one, other] = [&selector, &again].map(|selector| pick(selector, &candidates(selector, 8), 4, 3));
        assert_eq!(one.frames, other.frames);
        assert_eq!(one.logits, other.logits);
        assert!(again.parameters().all(|(name, _)| !name.starts_with("visual.")));
        for (name, tensor) in tower.tensors().iter().filter(|(name, _)| name.starts_with("visual.")) {
            assert!(again.tensors().iter().any(|(known, found)| known == name && found == tensor), "{name}");
        }
    }
}

#[test]
fn a_new_selector_begins_as_the_paper_says() {
    let origins = Origins::new();
    for (backbone, norms) in [(Backbone::Mamba, 2), (Backbone::Text, 4)] {
        let selector = origins.selector(backbone, 2, Kind::Double);
        let get = |name: &str| &selector.tensors().iter().find(|(known, _)| known == name).unwrap().1;
        for (name, gain) in [("key", 1.0), ("query", 1.0), ("value", 0.1)] {
            let weight = get(&format!("selector.{name}.weight"));
            let gram = weight.matmul(&weight.transpose(0, 1));
            let expected = Tensor::eye(gram.size()[0], (Kind::Double, Device::Cpu)) * (gain * gain);
            assert_close(name, &gram, &expected, 1e-6);
        }
        assert!((get("selector.scale").softplus().double_value(&[0]) - 1.0).abs() < 1e-6);
        assert_eq!(get("selector.value.bias").abs().max().double_value(&[]), 0.0);
        let is_norm = |name: &str| name.ends_with("norm.weight") && !name.contains("mixer.norm");
        let small = |tensor: &Tensor| (tensor - 0.1).abs().max().double_value(&[]) < 1e-7;
        let found = selector.tensors().iter().filter(|(name, tensor)| is_norm(name) && small(tensor)).count();
        assert_eq!(found, norms);
    }
}

#[test]
fn all_but_the_last_two_layers_are_the_checkpoints_and_frames_are_pooled() {
    let origins = Origins::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/mamba/mamba2-two-groups");
    let checkpoint = read_safetensors(&golden.join("model.safetensors")).unwrap();
    let selector = origins.selector(Backbone::Mamba, 2, Kind::Float);
    let (mut same, mut fresh) = (0, 0);
    for (name, tensor) in selector.tensors().iter().filter(|(name, _)| name.contains("in_proj")) {
        if *tensor == checkpoint[name] { same += 1 } else { fresh += 1 }
    }
    assert_eq!((same, fresh), (1, 2), "three layers");
    // 6 x 4 patches are 3 x 2 tokens; pooled 2 x 2, two of them: one word before, three after, and the start.
    assert_eq!(candidates(&selector, 5).positions(), 1 + 5 * 2 + 3 + 1);
    assert_eq!(candidates(&origins.selector(Backbone::Mamba, 1, Kind::Float), 5).positions(), 1 + 5 * 6 + 3 + 1);
}

#[test]
fn a_narrow_selector_picks_and_learns() {
    let origins = Origins::new();
    for backbone in BACKBONES {
        let selector = origins.selector(backbone, 2, Kind::BFloat16);
        let candidates = candidates(&selector, 7);
        let picks = pick(&selector, &candidates, 3, 3);
        let pass = selector.training_pass(&candidates, &picks);
        let scores = pass.scores();
        assert_close("log-probs", &scores.logprobs, &picks.scores().logprobs, 0.1);
        pass.backward(&ScoreGradients { logprobs: scores.logprobs.ones_like(), entropy: None });
        let finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1;
        for (name, tensor) in selector.parameters().filter(|(_, tensor)| tensor.grad().defined()) {
            assert!(finite(&tensor.grad()), "{name}");
        }
    }
}

/// `sum(a logprobs + b entropy)` and, with `backward`, its gradients.
fn loss(selector: &Selector, candidates: &Candidates, picks: &Picks, backward: bool) -> f64 {
    let pass = selector.training_pass(candidates, picks);
    let scores = pass.scores();
    let weights =
        |phase: f64| (scores.logprobs.ones_like().cumsum(1, Kind::Double).cumsum(0, Kind::Double) + phase).sin();
    let (a, b) = (weights(0.3), weights(1.1));
    let value = (&scores.logprobs * &a + &scores.entropy * &b).sum(Kind::Double).double_value(&[]);
    if backward {
        pass.backward(&ScoreGradients { logprobs: a, entropy: Some(b) });
    }
    value
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(6) })]

    #[test]
    fn gradients_are_those_of_finite_differences(frames in 2..7_usize, sets in 1..4_usize, mamba in any::<bool>(), at in 0..1000_i64) {
        let origins = Origins::new();
        let selector = origins.selector(if mamba { Backbone::Mamba } else { Backbone::Text }, 2, Kind::Double);
        let candidates = candidates(&selector, frames);
        let picks = pick(&selector, &candidates, sets, frames.min(3));
        let _ = loss(&selector, &candidates, &picks, true);
        for (name, tensor) in selector.parameters() {
            let index = at % tensor.numel() as i64;
            let gradient = tensor.grad();
            let found = if gradient.defined() { gradient.view(-1).double_value(&[index]) } else { 0.0 };
            let moved = |by: f64| tch::no_grad(|| {
                let _ = tensor.view(-1).narrow(0, index, 1).g_add_scalar_(by);
            });
            let step = 1e-5;
            moved(step);
            let above = loss(&selector, &candidates, &picks, false);
            moved(-2.0 * step);
            let below = loss(&selector, &candidates, &picks, false);
            moved(step);
            let expected = (above - below) / (2.0 * step);
            prop_assert!((found - expected).abs() <= 1e-6 + 1e-4 * expected.abs(), "{}[{}]: {} {}", name, index, found, expected);
        }
    }
}
