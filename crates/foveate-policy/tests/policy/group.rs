//! The update of a group: what must not change its loss and gradients, and that the gradients are right.

use std::collections::BTreeMap;

use foveate_algo::{ClipRange, Layers, Objective, Ratio, Reduction, WeightSide};
use foveate_policy::{
    AttentionMode, Completions, Encoded, LoadOptions, ScoreGradients, SurrogateInputs, Trainable, Vlm, surrogate_loss,
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
    ids: Tensor,        // [G, T]
    mask: Tensor,       // [G, T]
    old: Tensor,        // [G, T], offset of the old log-probs from the present ones
    reference: Tensor,  // [G, T], the same of the reference's
    weights: Tensor,    // [G, T]
    factors: Tensor,    // [G, T]
    advantages: Tensor, // [G]
}

impl Batch {
    fn new(lengths: &[usize], seed: usize) -> Self {
        let Completions { ids, mask } = Completions::new(&words(lengths, seed), Device::Cpu);
        let wave = |scale: f64, shift: f64| {
            let at = Tensor::arange(ids.numel() as i64, (Kind::Float, Device::Cpu)).view_as(&ids);
            (at * 2.3 + seed as f64 + shift).sin() * scale
        };
        let tokens = mask.sum(Kind::Float);
        Self {
            old: wave(0.4, 0.0),
            reference: wave(0.3, 1.0),
            weights: wave(0.35, 2.0) + 1.35,
            factors: mask.to_kind(Kind::Float) / tokens,
            advantages: (Tensor::arange(lengths.len() as i64, (Kind::Float, Device::Cpu)) + seed as f64).cos(),
            ids,
            mask,
        }
    }

    /// Every tensor through `change`, which is told what stands in places that it adds.
    fn map(&self, change: impl Fn(&Tensor, f64) -> Tensor, rows: impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            ids: change(&self.ids, 17.0),
            mask: change(&self.mask, 0.0),
            old: change(&self.old, f64::NAN),
            reference: change(&self.reference, f64::INFINITY),
            weights: change(&self.weights, f64::NAN),
            factors: change(&self.factors, 0.0),
            advantages: rows(&self.advantages),
        }
    }

    fn rows(&self, start: i64, count: i64) -> Self {
        self.map(|x, _| x.narrow(0, start, count), |x| x.narrow(0, start, count))
    }
}

/// The loss of some completions, its gradients added to the parameters': what `trainer`'s update does.
fn add(model: &Vlm, encoded: &Encoded, batch: &Batch, objective: &Objective, fixed: Option<&Tensor>) -> f64 {
    let completions = Completions { ids: batch.ids.shallow_clone(), mask: batch.mask.shallow_clone() };
    let forward = model.forward(encoded, &completions, None).unwrap();
    let head = model.head(0.9);
    let tokens = completions.token_rows();
    let hidden = forward.hidden.flatten(0, 1).index_select(0, &tokens);
    let ids = completions.ids.flatten(0, 1).index_select(0, &tokens);
    let scores = head.score(&hidden, &ids);
    let padded = |x: &Tensor| {
        let flat = Tensor::zeros([completions.ids.numel() as i64], (Kind::Float, Device::Cpu));
        flat.index_copy(0, &tokens, x).view_as(&completions.ids).set_requires_grad(true)
    };
    let (logprobs, entropy) = (padded(&scores.logprobs), padded(&scores.entropy));
    let base = fixed.map_or_else(|| logprobs.detach(), Tensor::shallow_clone);
    let surrogate = surrogate_loss(&SurrogateInputs {
        objective,
        logprobs: &logprobs,
        old_logprobs: &(&base + &batch.old),
        ref_logprobs: Some(&(&base + &batch.reference)),
        entropy: Some(&entropy),
        advantages: &batch.advantages,
        weights: &batch.weights,
        factors: &batch.factors,
        mask: &batch.mask,
    });
    surrogate.loss.backward();
    let gradient = |leaf: &Tensor| leaf.grad().flatten(0, 1).index_select(0, &tokens);
    head.backward(&hidden, &ids, &ScoreGradients { logprobs: gradient(&logprobs), entropy: Some(gradient(&entropy)) });
    surrogate.loss.double_value(&[])
}

/// Loss and gradients of the batch, taken in parts of `size` completions.
fn update(model: &Vlm, encoded: &Encoded, batch: &Batch, size: i64) -> (f64, BTreeMap<String, Tensor>) {
    forget(model);
    let count = batch.ids.size()[0];
    let parts = (0..count).step_by(size as usize).map(|start| batch.rows(start, size.min(count - start)));
    let loss = parts.map(|part| add(model, encoded, &part, &OBJECTIVE, None)).sum();
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
    let largest = expected.values().map(|x| x.abs().max().double_value(&[])).fold(0.0, f64::max);
    assert!(largest > 1e-3, "the gradient is almost 0: nothing is tested");
    for (name, gradient) in expected {
        assert_close(name, &found[name], gradient, 2e-5 * largest);
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
    fn padding_order_and_micro_batches_change_neither_loss_nor_gradient(
        lengths in prop::collection::vec(1..7_usize, 2..6),
        seed in 0..100_usize,
        extra in 1..4_i64,
        size in 1..4_i64,
        mode in mode(),
        everything in any::<bool>(),
    ) {
        let trainable = if everything { Trainable::All } else { Trainable::Text };
        let model = random(&options(trainable, mode), seed as i64);
        let encoded = model.encode(&plain_prompt(seed)).unwrap();
        let batch = Batch::new(&lengths, seed);
        let plain = update(&model, &encoded, &batch, lengths.len() as i64);

        let wider = batch.map(|x, fill| Tensor::cat(&[x, &Tensor::full([x.size()[0], extra], fill, (Kind::Float, Device::Cpu)).to_kind(x.kind())], 1), Tensor::shallow_clone);
        assert_same(&update(&model, &encoded, &wider, lengths.len() as i64), &plain);

        let turned = batch.map(|x, _| x.flip([0]), |x| x.flip([0]));
        assert_same(&update(&model, &encoded, &turned, lengths.len() as i64), &plain);

        assert_same(&update(&model, &encoded, &batch, size), &plain);
    }

    #[test]
    fn fused_frame_attention_equals_eager(
        parts in prop::collection::vec(part(), 0..4),
        // A logit scale of 1 and one at which hidden tokens' weights would overflow.
        scale in prop_oneof![Just(1.0), Just(40.0)],
        lengths in prop::collection::vec(1..6_usize, 1..4),
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
            let group = model.forward(&encoded, &completions, Some(Layers::All)).unwrap();
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
        let objective = Objective { clip: None, ..OBJECTIVE };
        let fixed = Tensor::full_like(&batch.old, -2.5);
        let loss = || add(&model, &encoded, &batch, &objective, Some(&fixed));
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
        update(&model, &encoded, &Batch::new(&[4, 2], 1), 2)
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
        let forward = model.forward(&encoded, &completions, Some(Layers::Last(1))).unwrap();
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
        assert!(model.forward(&encoded, &completions, None).unwrap_err().to_string().contains("vocabulary of 40"));
    }
    let none = model.score(&good, &[0], Layers::All).unwrap_err().to_string();
    assert!(none.contains("found one at 0"), "{none}");
}
