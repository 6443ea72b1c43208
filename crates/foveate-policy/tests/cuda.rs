//! Passes, gradients and rollouts on a CUDA device: tensors are where they should be, the ways that are taken on CUDA alone
//! give what the CPU's give, and the host waits for little. `tests/cuda` stands in for the device, unless torch is a full
//! one or `FOVEATE_LIBTORCH_CUDA` names a real device's library.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails; the lint spares only its #[test] functions")]

#[allow(dead_code, reason = "these tests need a part of it")]
#[path = "policy/common.rs"]
mod common;

use std::sync::OnceLock;

use foveate_algo::Layers;
use foveate_policy::{
    Alteration, Completions, Draw, GroupSeed, LoadOptions, Observe, Prompt, Recompute, Rollout, SamplingParams,
    ScoreGradients, Segment, Shown, Trainable, Vlm, runtime,
};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Device, Kind, Tensor, no_grad};

use common::{END, Golden, Part, assert_close, config, plain_prompt, prompt, random_with, words};

/// The library with the device's operations.
fn library() -> &'static Library {
    static LOADED: OnceLock<Library> = OnceLock::new();
    LOADED.get_or_init(|| {
        // SAFETY: its initialisers register a device with libtorch, which is not in use yet: every test begins here.
        unsafe { Library::open(Some(foveate_cuda_stand_in::library()), RTLD_NOW | RTLD_GLOBAL) }.unwrap()
    })
}

/// CPU and CUDA.
fn devices() -> [Device; 2] {
    library();
    ["cpu", "cuda"].map(|name| runtime::device(name).unwrap())
}

/// What one of the stand-in's counters, which are this thread's, comes to while `work` is done; a real device has none.
fn counted(name: &str, work: impl FnOnce()) -> Option<u64> {
    // SAFETY: the stand-in's counters take nothing and give a number; a real device's library has none of these names.
    let counter = unsafe { library().get::<unsafe extern "C" fn() -> u64>(name.as_bytes()) }.ok();
    assert!(counter.is_some() || !foveate_cuda_stand_in::stands_in(), "the stand-in has no {name}");
    // SAFETY: as above.
    let count = || counter.as_ref().map(|counter| unsafe { counter() });
    let before = count();
    work();
    count().zip(before).map(|(after, before)| after - before)
}

fn on(device: Device, kind: Kind, trainable: Trainable) -> LoadOptions {
    LoadOptions { device, kind, trainable, ..LoadOptions::default() }
}

/// The random model on both devices, the same weights on both.
fn models(kind: Kind, trainable: Trainable) -> [Vlm; 2] {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    config["vocab_size"] = 300.into();
    random_with(&config, &on(devices()[0], kind, Trainable::Nothing), 5).save(folder.path()).unwrap();
    devices().map(|device| Vlm::load(folder.path(), &on(device, kind, trainable)).unwrap())
}

/// With a video, without, and with several pictures.
fn prompts() -> [Prompt; 3] {
    let several =
        [Part::Image { h: 1, w: 2 }, Part::Text(2), Part::Video { t: 2, h: 1, w: 1, seconds: 1.0 }, Part::Text(1)];
    [plain_prompt(1), prompt(&[Part::Text(5)], 2), prompt(&several, 3)]
}

fn host(tensor: &Tensor) -> Tensor {
    tensor.to_device(Device::Cpu)
}

#[test]
fn a_tensor_of_the_host_beside_one_of_the_device_is_an_error() {
    let [cpu, cuda] = devices();
    let [host, there] = [cpu, cuda].map(|device| Tensor::ones([2, 3], (Kind::Float, device)));
    assert!(there.f_add(&host).is_err() && there.f_mm(&host.tr()).is_err());
    assert!(there.f_index_select(0, &Tensor::from_slice(&[1_i64])).is_err());
    assert!(Tensor::f_cat(&[&there, &host], 0).is_err());
    let number = Tensor::from(2.0_f32);
    assert!(number.shallow_clone().f_add_(&there.sum(Kind::Float)).is_err());
    // Numbers may be the host's.
    assert_eq!(there.f_mul(&number).unwrap().sum(Kind::Float).double_value(&[]), 12.0);
}

#[test]
fn what_a_device_would_add_up_in_any_order_is_an_error_on_the_stand_in() {
    let [_, cuda] = devices();
    let there = Tensor::ones([2, 3], (Kind::Float, cuda));
    let refused = |rows: &[i64]| {
        let rows = Tensor::from_slice(rows).to_device(cuda);
        there.f_index_add(0, &rows, &there).is_err()
    };
    let single_row = there.narrow(0, 0, 1).f_cumsum(1, Kind::Float).is_err();
    if counted("stand_in_waits", || ()).is_some() {
        assert_eq!([refused(&[1, 0]), refused(&[1, 1]), single_row], [false, true, true]);
    }
    assert!(there.f_cumsum(1, Kind::Float).is_ok());
}

#[test]
fn passes_equal_the_goldens() {
    let [_, cuda] = devices();
    for name in common::GOLDENS {
        let golden = Golden::read(name);
        let model = Vlm::load(&golden.dir, &on(cuda, Kind::Float, Trainable::Nothing)).unwrap();
        for (index, row) in golden.rows.iter().enumerate() {
            let scores = model.score(&row.sequence, &row.chosen, Layers::All).unwrap();
            assert_eq!(scores.logprobs.device(), cuda);
            assert_close("log-probs", &host(&scores.logprobs), &golden.chosen("logprobs", index), 1e-4);
            assert_close("entropy", &host(&scores.entropy), &golden.chosen("entropy", index), 1e-4);
            let found = host(&scores.frame_attention.unwrap()); // [L, R, F of the row]
            let chosen: Vec<i64> = row.chosen.iter().map(|index| *index as i64).collect();
            let expected = golden.expected["frame_attention_layers"].select(1, index as i64);
            let expected = expected.index_select(1, &Tensor::from_slice(&chosen)).narrow(2, 0, found.size()[2]);
            assert_close("frame attention", &found, &expected, 2e-5);
        }
    }
}

/// Loss and gradients of three groups in one pass, one of them behind a video with a masked frame.
fn update(model: &Vlm, recompute: Recompute) -> Vec<(String, Tensor)> {
    let encoded = prompts().map(|prompt| model.encode(&prompt).unwrap());
    let masked = model.altered(&encoded[0], &Alteration::Hidden(Shown::Frames(vec![1]))).unwrap();
    let prompts = [&encoded[0], &masked, &encoded[1], &encoded[2]];
    let lengths = [&[5, 3, 6][..], &[4, 1], &[2, 2, 2], &[7]];
    let completions: Vec<_> =
        (0..).zip(lengths).map(|(seed, lengths)| Completions::new(&words(lengths, seed), model.device())).collect();
    let segments: Vec<_> =
        prompts.iter().zip(&completions).map(|(prompt, completions)| Segment { prompt, completions }).collect();
    let pass = model.training_pass(&segments, recompute).unwrap();
    let head = model.head(0.9);
    let scores = pass.score(&head);
    let wave = |shift: f64| {
        let at = Tensor::arange(scores.logprobs.numel() as i64, (Kind::Float, model.device()));
        (at * 2.3 + shift).sin()
    };
    pass.backward(&head, &ScoreGradients { logprobs: wave(0.0), entropy: Some(wave(1.0)) });
    let gradients = model.parameters().map(|(name, tensor)| (name.clone(), host(&tensor.grad())));
    let scores = [("log-probs", &scores.logprobs), ("entropy", &scores.entropy)];
    scores.map(|(name, tensor)| (name.to_owned(), host(tensor))).into_iter().chain(gradients).collect()
}

#[test]
fn an_update_has_the_scores_and_gradients_of_the_cpu() {
    // In bf16, whose rounding the two ways have in different places, by up to 0.063 here.
    for (kind, tolerance) in [(Kind::Float, 1e-4), (Kind::BFloat16, 0.15)] {
        for recompute in [Recompute::Nothing, Recompute::Layers] {
            let [cpu, cuda] = models(kind, Trainable::All).map(|model| update(&model, recompute));
            for ((name, expected), (_, found)) in cpu.iter().zip(&cuda) {
                let (off, size) = ((found - expected).norm(), expected.norm());
                let [off, size] = [off, size].map(|norm| norm.double_value(&[]));
                assert!(size > 0.0, "{name}: nothing is tested");
                assert!(off <= tolerance * size, "{name} in {kind:?}: {off:e} apart, of {size:e}");
            }
        }
    }
}

/// Everything observed.
fn params(max_new_tokens: usize) -> SamplingParams {
    let observe = Observe { frame_layers: Some(Layers::All), hidden: true, entropy: true };
    SamplingParams { observe, ..common::params(max_new_tokens) }
}

/// So many completions of each prompt.
/// Of every other prompt half as many completions.
fn rollouts(model: &Vlm, completions: usize, params: &SamplingParams, end: &[i64]) -> Vec<Rollout> {
    let encoded = prompts().map(|prompt| model.encode(&prompt).unwrap());
    let draw = |group, prompt| Draw {
        prompt,
        completions: if group % 2 == 0 { completions } else { completions.div_ceil(2) },
        seed: GroupSeed { seed: 7, step: 3, group },
    };
    let draws: Vec<_> = (0..).zip(&encoded).map(|(group, prompt)| draw(group, prompt)).collect();
    model.rollout(&draws, params, end).unwrap()
}

#[test]
fn rollouts_are_those_of_the_cpu_in_every_way_to_draw() {
    let models = models(Kind::Float, Trainable::Nothing);
    let ways = [
        params(40),
        SamplingParams { max_rows: 1, ..params(40) },
        SamplingParams { top_p: 0.9, top_k: 20, ..params(40) },
        SamplingParams { temperature: 0.0, ..params(40) },
        SamplingParams { temperature: 1.0, repetition_penalty: 1.2, ..params(40) },
    ];
    // Often enough that rows leave at the first look and stay beyond the second.
    let end: Vec<i64> = (0..300).step_by(20).chain([END]).collect();
    for (way, completions) in ways.iter().flat_map(|way| [(way, 3), (way, 1)]) {
        let [cpu, cuda] = models.each_ref().map(|model| rollouts(model, completions, way, &end));
        for (expected, found) in cpu.iter().zip(&cuda) {
            assert_eq!((&found.ids, &found.truncated), (&expected.ids, &expected.truncated), "{way:?}");
            for (found, expected) in found.logprobs.iter().zip(&expected.logprobs) {
                assert_close("log-probs", &Tensor::from_slice(found), &Tensor::from_slice(expected), 1e-4);
            }
            let kept =
                |r: &Rollout| [&r.frame_attention, &r.hidden, &r.entropy].map(|kept| host(kept.as_ref().unwrap()));
            for (found, expected) in kept(found).iter().zip(&kept(expected)) {
                assert_close("kept", found, expected, 1e-4);
            }
        }
        let lengths: Vec<usize> = cpu.iter().flat_map(|rollout| rollout.ids.iter().map(Vec::len)).collect();
        let some = |wanted: fn(usize) -> bool| lengths.iter().any(|length| wanted(*length));
        assert!(completions == 1 || (some(|length| length < 16) && some(|length| length > 32)), "{lengths:?}");
    }
}

#[test]
fn a_rollout_in_bf16_observes_what_a_pass_does() {
    let [_, model] = models(Kind::BFloat16, Trainable::Nothing);
    let mut compared = 0;
    let (rollouts, operations) = runtime::operations(|| rollouts(&model, 3, &params(12), &[END])).unwrap();
    assert!(operations.contains_key("aten::bmm.dtype_out"), "scores of drawn tokens are in f32");
    for (prompt, rollout) in prompts().iter().zip(rollouts) {
        let prompt = model.encode(prompt).unwrap();
        let completions = Completions::new(&rollout.ids, model.device());
        let segment = Segment { prompt: &prompt, completions: &completions };
        let forward = no_grad(|| model.forward(&[segment], Some(Layers::All))).unwrap().remove(0);
        if let Some(expected) = forward.frame_attention.filter(|frames| frames.numel() > 0) {
            assert_close("frame attention", &host(&rollout.frame_attention.unwrap()), &host(&expected), 0.01);
            compared += 1;
        }
    }
    assert_eq!(compared, 2, "prompts with a video");
}

#[test]
fn the_host_looks_at_every_16th_token_and_sends_nothing() {
    let [_, model] = models(Kind::Float, Trainable::Nothing);
    let ways = [
        params(1),
        SamplingParams { top_p: 0.9, top_k: 20, ..params(1) },
        SamplingParams { temperature: 1.0, repetition_penalty: 1.2, ..params(1) },
    ];
    for way in ways {
        for (name, looks) in [("stand_in_waits", 2), ("stand_in_uploads", 0)] {
            let [few, many] = [8, 40].map(|max_new_tokens| {
                counted(name, || {
                    let rollouts = rollouts(&model, 3, &SamplingParams { max_new_tokens, ..way }, &[]);
                    assert!(rollouts.iter().flat_map(|rollout| &rollout.ids).all(|ids| ids.len() == max_new_tokens));
                })
            });
            assert_eq!(few.map(|few| few + looks), many, "{name} {way:?}");
        }
    }
}
