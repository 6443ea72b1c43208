//! The update of a group: what must not change its loss and gradients, and that the gradients are right.

use std::collections::BTreeMap;

use foveate_algo::{ClipRange, Layers, Objective, Ratio, Reduction, WeightSide};
use foveate_policy::{
    AttentionMode, Completions, Encoded, LoadOptions, Recompute, ScoreGradients, Segment, SurrogateInputs, Trainable,
    Vlm, surrogate_loss,
};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor, no_grad};

use crate::common::{Part, assert_close, difference, plain_prompt, prompt, random, words};

const OBJECTIVE: Objective = Objective {
    clip: Some(ClipRange { low: 0.2, high: 0.28 }),
    ratio: Ratio::Token,
    reduction: Reduction::SequenceMean,
    mask_truncated: false,
    mask_zero_std: false,
    kl_coef: 0.1,
    entropy_coef: 0.05,
    weights: WeightSide::OnSurrogate,
};

/// A group as the update sees it: completions and, for every token, what the loss is made of.
#[derive(Debug)]
struct Batch {
    ids: Vec<Vec<i64>>,
    old: Tensor,        // [G, T], offset of the old log-probs from the present ones
    reference: Tensor,  // [G, T], the same of the reference's
    weights: Tensor,    // [G, T]
    factors: Tensor,    // [G, T]
    advantages: Tensor, // [G]
}

impl Batch {
    fn new(lengths: &[usize], seed: usize) -> Self {
        let ids = words(lengths, seed);
        let completions = Completions::new(&ids, Device::Cpu);
        let wave = |scale: f64, shift: f64| {
            let at = Tensor::arange(completions.ids().numel() as i64, (Kind::Float, Device::Cpu));
            (at.view_as(completions.ids()) * 2.3 + seed as f64 + shift).sin() * scale
        };
        let mask = completions.mask();
        Self {
            ids,
            old: wave(0.4, 0.0),
            reference: wave(0.3, 1.0),
            weights: wave(0.35, 2.0) + 1.35,
            factors: mask.to_kind(Kind::Float) / mask.sum(Kind::Float),
            advantages: (Tensor::arange(lengths.len() as i64, (Kind::Float, Device::Cpu)) + seed as f64).cos(),
        }
    }

    fn rows(&self, start: i64, count: i64) -> Self {
        let rows = |x: &Tensor| x.narrow(0, start, count);
        Self {
            ids: self.ids[start as usize..(start + count) as usize].to_vec(),
            old: rows(&self.old),
            reference: rows(&self.reference),
            weights: rows(&self.weights),
            factors: rows(&self.factors),
            advantages: rows(&self.advantages),
        }
    }

    fn turned(&self) -> Self {
        let turned = |x: &Tensor| x.flip([0]);
        Self {
            ids: self.ids.iter().rev().cloned().collect(),
            old: turned(&self.old),
            reference: turned(&self.reference),
            weights: turned(&self.weights),
            factors: turned(&self.factors),
            advantages: turned(&self.advantages),
        }
    }

    fn completions(&self) -> Completions {
        Completions::new(&self.ids, Device::Cpu)
    }
}

/// How a batch is brought through the model.
#[derive(Debug, Clone, Copy)]
struct Way<'a> {
    /// Completions that stand behind one computation of the prompt.
    size: i64,
    /// All parts in one pass, or one after the other.
    packed: bool,
    recompute: Recompute,
    objective: &'a Objective,
}

const WHOLE: Way<'_> = Way { size: 100, packed: false, recompute: Recompute::Nothing, objective: &OBJECTIVE };

/// The loss of batches, each behind its prompt, gradients added to the parameters': what `trainer`'s update does. The
/// log-probs that old ones are told from are the present ones or `fixed`.
fn add(model: &Vlm, parts: &[(&Encoded, Batch)], way: Way<'_>, fixed: Option<f64>) -> f64 {
    let completions: Vec<_> = parts.iter().map(|(_, batch)| batch.completions()).collect();
    let segments: Vec<_> =
        parts.iter().zip(&completions).map(|((prompt, _), completions)| Segment { prompt, completions }).collect();
    let pass = model.training_pass(&segments, way.recompute).unwrap();
    let head = model.head(0.9);
    let scores = pass.score(&head);
    let (mut at_logprobs, mut at_entropy) = (Vec::new(), Vec::new());
    let mut loss = 0.0;
    let scored = pass.split(&scores.logprobs).into_iter().zip(pass.split(&scores.entropy));
    for (((_, batch), completions), (logprobs, entropy)) in parts.iter().zip(&completions).zip(scored) {
        let [logprobs, entropy] = [logprobs, entropy].map(|x| completions.padded(&x).set_requires_grad(true));
        let base = fixed.map_or_else(|| logprobs.detach(), |value| Tensor::full_like(&logprobs, value));
        // As wide as this part's own longest completion.
        let rows = |x: &Tensor| x.narrow(1, 0, completions.length());
        let surrogate = surrogate_loss(&SurrogateInputs {
            objective: way.objective,
            logprobs: &logprobs,
            old_logprobs: &(&base + rows(&batch.old)),
            ref_logprobs: Some(&(&base + rows(&batch.reference))),
            entropy: Some(&entropy),
            advantages: &batch.advantages,
            weights: &rows(&batch.weights),
            factors: &rows(&batch.factors),
            mask: completions.mask(),
        });
        surrogate.loss.backward();
        loss += surrogate.loss.double_value(&[]);
        at_logprobs.push(completions.flat(&logprobs.grad()));
        at_entropy.push(completions.flat(&entropy.grad()));
    }
    let gradients =
        ScoreGradients { logprobs: Tensor::cat(&at_logprobs, 0), entropy: Some(Tensor::cat(&at_entropy, 0)) };
    pass.backward(&head, &gradients);
    loss
}

/// Loss and gradients of batches behind their prompts.
fn update(model: &Vlm, groups: &[(&Encoded, &Batch)], way: Way<'_>) -> Update {
    forget(model);
    let parts = groups.iter().flat_map(|(prompt, batch)| {
        let count = batch.ids.len() as i64;
        let starts = (0..count).step_by(way.size as usize);
        starts.map(move |start| (*prompt, batch.rows(start, way.size.min(count - start))))
    });
    let loss = match way.packed {
        true => add(model, &parts.collect::<Vec<_>>(), way, None),
        false => parts.map(|part| add(model, &[part], way, None)).sum(),
    };
    let gradients = model.parameters().map(|(name, tensor)| (name.clone(), tensor.grad().copy()));
    (loss, gradients.collect())
}

fn forget(model: &Vlm) {
    for (_, parameter) in model.parameters() {
        let mut gradient = parameter.grad();
        if gradient.defined() {
            let _ = gradient.zero_();
        }
    }
}

type Update = (f64, BTreeMap<String, Tensor>);

fn assert_same((found_loss, found): &Update, (loss, expected): &Update) {
    assert!((found_loss - loss).abs() < 1e-5, "loss {found_loss}, expected {loss}");
    let norm = |x: &Tensor| x.norm().double_value(&[]);
    let largest = expected.values().map(norm).fold(0.0, f64::max);
    assert!(largest > 1e-3, "the gradient is almost 0: nothing is tested");
    for (name, gradient) in expected {
        // Sums that nearly cancel are rounded like what they are sums of.
        let (off, bound) = (norm(&(&found[name] - gradient)), 1e-5 * (norm(gradient) + 0.02 * largest));
        assert!(off <= bound, "{name}: off by {off:e}, at most {bound:e}");
    }
}

fn options(trainable: Trainable, attention: AttentionMode) -> LoadOptions {
    LoadOptions { trainable, attention, ..LoadOptions::default() }
}

fn mode() -> impl Strategy<Value = AttentionMode> {
    prop_oneof![Just(AttentionMode::Fused), Just(AttentionMode::Eager)]
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        (1..5_usize).prop_map(Part::Text),
        (1..4_usize, 1..4_usize, 1..4_usize, 0.1..2.0_f32).prop_map(|(t, h, w, seconds)| Part::Video {
            t,
            h,
            w,
            seconds
        }),
        (1..4_usize, 1..4_usize).prop_map(|(h, w)| Part::Image { h, w }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn order_packing_splitting_and_recomputation_change_neither_loss_nor_gradient(
        lengths in prop::collection::vec(1..7_usize, 2..6),
        others in prop::collection::vec(1..5_usize, 1..4),
        seed in 0..100_usize,
        size in 1..4_i64,
        mode in mode(),
        everything in any::<bool>(),
    ) {
        let trainable = if everything { Trainable::All } else { Trainable::Text };
        let model = random(&options(trainable, mode), seed as i64);
        let sequences = [plain_prompt(seed), prompt(&[Part::Text(2), Part::Image { h: 2, w: 1 }, Part::Text(3)], seed)];
        let [first, second] = sequences.map(|sequence| model.encode(&sequence).unwrap());
        let batches = [Batch::new(&lengths, seed), Batch::new(&others, seed + 1)];
        let groups = [(&first, &batches[0]), (&second, &batches[1])];
        let plain = update(&model, &groups, WHOLE);

        let turned = batches.each_ref().map(Batch::turned);
        assert_same(&update(&model, &[(&second, &turned[1]), (&first, &turned[0])], WHOLE), &plain);
        for recompute in [Recompute::Nothing, Recompute::Layers] {
            for packed in [false, true] {
                assert_same(&update(&model, &groups, Way { size, packed, recompute, ..WHOLE }), &plain);
            }
        }
        // One completion after the other, each behind a prompt of its own: what a trainer without packing computes.
        assert_same(&update(&model, &groups, Way { size: 1, ..WHOLE }), &plain);
    }

    #[test]
    fn fused_frame_attention_equals_eager(
        parts in prop::collection::vec(part(), 0..4),
        // A logit scale of 1 and one at which hidden tokens' weights would overflow.
        scale in prop_oneof![Just(1.0), Just(40.0)],
        // Few rows and many: on a CPU the fused ways of the two differ.
        lengths in prop::collection::vec(1..6_usize, 1..9),
        seed in 0..100_usize,
    ) {
        let video = Part::Video { t: 2, h: 1, w: 2, seconds: 0.5 };
        let parts = [&[Part::Text(2)], &parts[..], &[video, Part::Text(1)]].concat();
        let sequence = prompt(&parts, seed);
        let completions = Completions::new(&words(&lengths, seed), Device::Cpu);
        let [eager, fused] = [AttentionMode::Eager, AttentionMode::Fused].map(|mode| {
            let model = random(&options(Trainable::Nothing, mode), seed as i64);
            for (_, tensor) in model.tensors().iter().filter(|(name, _)| name.ends_with("q_proj.weight")) {
                let _ = tensor.shallow_clone().g_mul_scalar_(scale);
            }
            let encoded = model.encode(&sequence).unwrap();
            let segment = Segment { prompt: &encoded, completions: &completions };
            let group = model.forward(&[segment], Some(Layers::All)).unwrap().remove(0);
            // Every token, those between and inside the videos too.
            let all: Vec<usize> = (1..sequence.ids.len()).collect();
            let row = model.score(&sequence, &all, Layers::All).unwrap();
            [group.frame_attention.unwrap(), row.frame_attention.unwrap()]
        });
        let frames = sequence.media.iter().filter(|m| matches!(m, foveate_policy::Media::Video(_))).map(|m| m.patches().grid.t).sum::<usize>();
        prop_assert_eq!(fused[0].size(), [2, lengths.len() as i64, completions.length(), frames as i64]);
        for (fused, eager) in fused.iter().zip(&eager) {
            // Logits 40 times as large carry 40 times the rounding.
            assert_close("frame attention", fused, eager, 2e-5 * scale);
            prop_assert!(eager.sum_dim_intlist(-1, false, Kind::Float).max().double_value(&[]) <= 1.0 + 1e-5);
        }
    }
}

/// f32 allows no small steps, so the slope is taken along the gradient, where it is largest, over one that changes the
/// loss by some hundredths.
#[test]
fn gradients_equal_finite_differences() {
    for mode in [AttentionMode::Fused, AttentionMode::Eager] {
        let model = random(&options(Trainable::All, mode), 11);
        let encoded = model.encode(&plain_prompt(2)).unwrap();
        let batch = Batch::new(&[5, 3, 6], 4);
        let way = Way { objective: &Objective { clip: None, ..OBJECTIVE }, ..WHOLE };
        let loss = || add(&model, &[(&encoded, batch.rows(0, 3))], way, Some(-2.5));
        forget(&model);
        loss();
        let gradients: Vec<_> = model.parameters().map(|(name, tensor)| (name, tensor, tensor.grad().copy())).collect();
        let checked = [
            "model.embed_tokens.weight",
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.1.self_attn.k_proj.bias",
            "model.layers.0.mlp.gate_proj.weight",
            "model.norm.weight",
            "lm_head.weight",
            "visual.patch_embed.proj.weight",
            "visual.blocks.0.attn.qkv.weight",
            "visual.merger.mlp.2.bias",
        ];
        for name in checked {
            let (_, tensor, gradient) = gradients.iter().find(|(n, ..)| *n == name).unwrap();
            let norm = gradient.norm().double_value(&[]);
            let length = 0.05 / norm.max(1.0);
            let step = gradient / norm * length;
            let before = tensor.detach().copy();
            let at = |sign: f64| {
                no_grad(|| tensor.shallow_clone().copy_(&(&before + &step * sign)));
                loss()
            };
            // Fourth-order central difference.
            let slope = (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * length);
            no_grad(|| tensor.shallow_clone().copy_(&before));
            assert!((slope - norm).abs() < 0.02 * norm + 2e-4, "{name} {mode:?}: slope {slope}, gradient {norm}");
        }
    }
}

#[test]
fn a_frozen_vision_tower_changes_no_number_and_receives_no_gradient() {
    let [frozen, trained] = [Trainable::Text, Trainable::All].map(|trainable| {
        let model = random(&options(trainable, AttentionMode::Fused), 3);
        let encoded = model.encode(&plain_prompt(1)).unwrap();
        update(&model, &[(&encoded, &Batch::new(&[4, 2], 1))], WHOLE)
    });
    assert!((frozen.0 - trained.0).abs() < 1e-6);
    assert!(frozen.1.keys().all(|name| !name.starts_with("visual.")));
    for (name, gradient) in &frozen.1 {
        assert!(difference(gradient, &trained.1[name]) < 1e-5, "{name}");
    }
    assert!(trained.1["visual.patch_embed.proj.weight"].abs().max().double_value(&[]) > 1e-6);
}

#[test]
fn a_prompt_without_video_has_no_frames() {
    let model = random(&options(Trainable::Nothing, AttentionMode::Fused), 1);
    let completions = Completions::new(&words(&[3, 2], 1), Device::Cpu);
    for parts in [vec![Part::Text(4)], vec![Part::Image { h: 2, w: 1 }, Part::Text(2)]] {
        let encoded = model.encode(&prompt(&parts, 1)).unwrap();
        assert_eq!((encoded.frames(), encoded.video_tokens()), (0, 0));
        let segment = Segment { prompt: &encoded, completions: &completions };
        let forward = model.forward(&[segment], Some(Layers::Last(1))).unwrap().remove(0);
        assert_eq!(forward.frame_attention.unwrap().size(), [1, 2, 3, 0]);
    }
}

#[test]
fn prompts_and_completions_that_do_not_fit_say_where() {
    let model = random(&options(Trainable::Nothing, AttentionMode::Fused), 1);
    let good = plain_prompt(1);
    let refused = |change: &dyn Fn(&mut foveate_policy::Prompt)| {
        let mut bad = good.clone();
        change(&mut bad);
        model.encode(&bad).unwrap_err().to_string()
    };
    assert!(refused(&|p| p.ids.clear()).contains("expected 1 to 512 tokens, found 0"));
    assert!(refused(&|p| p.ids[0] = 40).contains("token id 40 is outside the vocabulary of 40"));
    assert!(refused(&|p| p.media.clear()).contains("all 0 media are used up"));
    assert!(refused(&|p| p.media.push(p.media[0].clone())).contains("1 media have no pads"));
    assert!(refused(&|p| p.ids[20] = 15).contains("expected 18 pads for its 3x2x3 merged grid, found 17"));
    for seconds in [f32::NAN, f32::INFINITY, -1.0, 1e30] {
        let bad = prompt(&[Part::Text(2), Part::Video { t: 2, h: 1, w: 1, seconds }], 1);
        assert!(refused(&|p| *p = bad.clone()).contains("video at token 3: expected seconds per grid"));
    }
    let encoded = model.encode(&good).unwrap();
    for bad in [40, -1] {
        let completions = Completions::new(&[vec![bad]], Device::Cpu);
        let segment = Segment { prompt: &encoded, completions: &completions };
        assert!(model.forward(&[segment], None).unwrap_err().to_string().contains("vocabulary of 40"));
    }
    let none = model.score(&good, &[0], Layers::All).unwrap_err().to_string();
    assert!(none.contains("found one at 0"), "{none}");
}

#[test]
fn gradients_of_a_bf16_model_are_those_of_the_f32_one_but_for_rounding() {
    let kinds = [Kind::Float, Kind::BFloat16];
    let models = kinds.map(|kind| random(&LoadOptions { kind, ..options(Trainable::Text, AttentionMode::Fused) }, 5));
    let batch = Batch::new(&[4, 7, 1], 3);
    let updates = models.each_ref().map(|model| {
        let prompt = model.encode(&plain_prompt(1)).unwrap();
        update(model, &[(&prompt, &batch)], WHOLE)
    });
    let [(loss, wide), (narrow_loss, narrow)] = &updates;
    assert!((loss - narrow_loss).abs() < 0.02, "{loss} {narrow_loss}");
    let norm = |x: &Tensor| x.to_kind(Kind::Float).norm().double_value(&[]);
    let largest = wide.values().map(norm).fold(0.0, f64::max);
    for (name, gradient) in wide {
        let off = norm(&(narrow[name].to_kind(Kind::Float) - gradient));
        assert!(off <= 0.15 * norm(gradient) + 0.01 * largest, "{name}: {off} of {}", norm(gradient));
    }
}
