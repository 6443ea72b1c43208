//! Generation: its distributions, its independence, its ends.

use foveate_algo::Layers;
use foveate_policy::{
    AttentionMode, Completions, Draw, Encoded, GroupSeed, LoadOptions, Observe, Prompt, Recompute, Rollout,
    SamplingParams, Segment, Trainable, Vlm,
    runtime::{allocations, operations},
};
use proptest::prelude::*;
use tch::{Device, Kind, Tensor, no_grad};

use crate::common::{
    END, Part, SPECIAL, VOCABULARY, assert_close, config, params, plain_prompt, prompt, random, random_with,
};

fn model(seed: i64) -> Vlm {
    random(&LoadOptions { trainable: Trainable::Nothing, ..LoadOptions::default() }, seed)
}

fn seed(group: u64) -> GroupSeed {
    GroupSeed { seed: 7, step: 3, group }
}

/// Prompts of differing lengths, with and without pictures.
fn prompts() -> [Prompt; 3] {
    let image_and_videos = [
        Part::Image { h: 1, w: 2 },
        Part::Text(2),
        Part::Video { t: 2, h: 1, w: 1, seconds: 1.0 },
        Part::Video { t: 1, h: 3, w: 2, seconds: 0.4 },
        Part::Text(1),
    ];
    [plain_prompt(1), prompt(&[Part::Text(5)], 2), prompt(&image_and_videos, 3)]
}

/// The same, and as many again: words alone, one frame, and a video of more frames than the others'.
fn mixed() -> [Prompt; 5] {
    let [plain, text, several] = prompts();
    let video = |t| Part::Video { t, h: 1, w: 2, seconds: 0.5 };
    [plain, text, several, prompt(&[video(1), Part::Text(9)], 4), prompt(&[Part::Text(1), video(5)], 5)]
}

/// Tokens that end a completion often enough that groups come and go.
const ENDS: [i64; 4] = [END, 20, 21, 22];

/// Group `group`: so many completions of its prompt.
fn group(group: u64, prompt: &Encoded, completions: usize) -> Draw<'_> {
    Draw { prompt, completions, seed: seed(group) }
}

fn draw(model: &Vlm, draws: &[Draw<'_>], params: &SamplingParams) -> Vec<Rollout> {
    model.rollout(draws, params, &[END]).unwrap()
}

#[test]
fn the_samplers_log_probs_are_the_teacher_forced_ones() {
    for (kind, tolerance) in [(Kind::Float, 1e-4), (Kind::BFloat16, 0.15)] {
        let model = random(&LoadOptions { kind, trainable: Trainable::Nothing, ..LoadOptions::default() }, 1);
        let encoded = prompts().map(|prompt| model.encode(&prompt).unwrap());
        let draws: Vec<_> = (0..).zip(&encoded).map(|(index, prompt)| group(index, prompt, 4)).collect();
        for (top_p, top_k) in [(1.0, 0), (0.8, 0), (1.0, 5)] {
            let params = SamplingParams { top_p, top_k, ..params(12) };
            for (encoded, rollout) in encoded.iter().zip(draw(&model, &draws, &params)) {
                assert_teacher_forced(&model, encoded, &rollout, params.temperature, tolerance);
            }
        }
    }
}

fn assert_teacher_forced(model: &Vlm, prompt: &Encoded, rollout: &Rollout, temperature: f64, tolerance: f64) {
    let completions = Completions::new(&rollout.ids, Device::Cpu);
    let forward = model.forward(&[Segment { prompt, completions: &completions }], None).unwrap().remove(0);
    for (row, (ids, logprobs)) in (0..).zip(rollout.ids.iter().zip(&rollout.logprobs)) {
        let hidden = forward.hidden.get(row).narrow(0, 0, ids.len() as i64);
        let scores = model.head(temperature).score(&hidden, &Tensor::from_slice(ids));
        assert_close("log-probs", &Tensor::from_slice(logprobs), &scores.logprobs, tolerance);
    }
}

/// What is measured while tokens are drawn equals what a pass over the finished completions measures, in every way
/// that groups can come and go.
#[test]
fn what_generation_observes_is_what_the_teacher_forced_pass_observes() {
    let model = model(9);
    let encoded = mixed().map(|prompt| model.encode(&prompt).unwrap());
    let draws: Vec<_> =
        (0..).zip(&encoded).zip([4, 2, 4, 3, 4]).map(|((index, prompt), count)| group(index, prompt, count)).collect();
    for (max_rows, layers) in [(0, Layers::All), (1, Layers::All), (10, Layers::Last(1))] {
        let observe = Observe { frame_layers: Some(layers), hidden: true, entropy: true };
        let params = SamplingParams { max_rows, observe, ..params(12) };
        let rollouts = model.rollout(&draws, &params, &ENDS).unwrap();
        for (encoded, rollout) in encoded.iter().zip(&rollouts) {
            assert_observed(&model, encoded, rollout, layers);
        }
        let lengths: Vec<usize> = rollouts.iter().flat_map(|rollout| rollout.ids.iter().map(Vec::len)).collect();
        assert!(lengths.contains(&1) && lengths.contains(&12), "some end at once and some never: {lengths:?}");
    }
}

fn assert_observed(model: &Vlm, encoded: &Encoded, rollout: &Rollout, layers: Layers) {
    let completions = Completions::new(&rollout.ids, Device::Cpu);
    let shape = [completions.count(), completions.length()];
    let segment = Segment { prompt: encoded, completions: &completions };
    let forward = model.forward(&[segment], Some(layers)).unwrap().remove(0);
    let scores = model.head(0.9).score(&completions.flat(&forward.hidden), &completions.tokens());
    assert_close("hidden", rollout.hidden.as_ref().unwrap(), &forward.hidden, 1e-5);
    assert_close("entropy", rollout.entropy.as_ref().unwrap(), &completions.padded(&scores.entropy), 1e-5);

    let seen = rollout.frame_attention.as_ref().unwrap();
    let count = if layers == Layers::All { 2 } else { 1 };
    assert_eq!(seen.size(), [count, shape[0], shape[1], encoded.frames() as i64]);
    if encoded.frames() > 0 {
        assert_close("frame attention", seen, &forward.frame_attention.unwrap(), 1e-5);
        let mass = seen.sum_dim_intlist(-1, false, Kind::Float).masked_select(completions.mask());
        assert!(mass.min().double_value(&[]) > 0.0 && mass.max().double_value(&[]) <= 1.0 + 1e-5);
    }
}

#[test]
fn nothing_is_kept_that_is_not_asked_for() {
    let model = model(10);
    let encoded = model.encode(&plain_prompt(1)).unwrap();
    let rollout = &draw(&model, &[group(0, &encoded, 2)], &params(3))[0];
    assert!(rollout.frame_attention.is_none() && rollout.hidden.is_none() && rollout.entropy.is_none());
}

/// One of each way to draw tokens.
fn ways() -> [SamplingParams; 5] {
    let all = Observe { frame_layers: Some(Layers::All), hidden: true, entropy: true };
    [
        params(1),
        SamplingParams { observe: all, ..params(1) },
        SamplingParams { top_p: 0.9, top_k: 20, ..params(1) },
        SamplingParams { temperature: 0.0, ..params(1) },
        SamplingParams { temperature: 1.0, repetition_penalty: 1.2, ..params(1) },
    ]
}

/// What `watch` sees while 8 and while 40 tokens are drawn, all else being equal, in each of those ways.
fn few_and_many<T>(watch: impl Fn(&dyn Fn()) -> T) -> Vec<(String, [T; 2])> {
    let mut config = config();
    config["vocab_size"] = 3000.into();
    let model = random_with(&config, &LoadOptions { trainable: Trainable::Nothing, ..LoadOptions::default() }, 1);
    let encoded = mixed().map(|prompt| model.encode(&prompt).unwrap());
    let seen = |(completions, way): (usize, SamplingParams)| {
        // Every other group is smaller, so that it does not fill its part of the rectangle.
        let count = |at| if at % 2 == 0 { completions } else { completions.div_ceil(2) };
        let draws: Vec<_> = (0..).zip(&encoded).map(|(at, prompt)| group(at, prompt, count(at))).collect();
        let seen = [8, 40].map(|max_new_tokens| {
            watch(&|| {
                let rollouts = model.rollout(&draws, &SamplingParams { max_new_tokens, ..way }, &[]).unwrap();
                assert!(rollouts.iter().flat_map(|rollout| &rollout.ids).all(|ids| ids.len() == max_new_tokens));
            })
        });
        (format!("{completions} {way:?}"), seen)
    };
    [1, 9].into_iter().flat_map(|completions| ways().map(|way| (completions, way))).map(seen).collect()
}

#[test]
fn a_further_token_asks_for_no_memory() {
    for (case, [few, many]) in few_and_many(|work| allocations(work).unwrap().1) {
        assert_eq!(few, many, "{case}");
    }
}

/// Operations whose result, or the size of it, the host reads: on a GPU it waits for them.
const WAITED_FOR: [&str; 11] = [
    "aten::_local_scalar_dense",
    "aten::_to_copy",
    "aten::_unique2",
    "aten::allclose",
    "aten::bincount",
    "aten::equal",
    "aten::is_nonzero",
    "aten::item",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave.Tensor",
];

#[test]
fn of_a_further_token_the_host_reads_who_has_ended_and_nothing_else() {
    for (case, [few, many]) in few_and_many(|work| operations(work).unwrap().1) {
        let more = |name: &str| many.get(name).unwrap_or(&0) - few.get(name).unwrap_or(&0);
        assert!(WAITED_FOR.iter().all(|name| more(name) == 0), "{case}: {few:?} {many:?}");
        // Between devices tensors go by this operation, which a softmax in a number type calls too. On a CPU every token is
        // looked at, on a GPU every 16th.
        assert_eq!(more("aten::to.dtype_layout"), 32 + more("aten::softmax.int_out"), "{case}");
    }
}

#[test]
fn a_model_in_f64_draws_with_every_setting() {
    let kind = Kind::Double;
    let model = random(&LoadOptions { kind, trainable: Trainable::Nothing, ..LoadOptions::default() }, 1);
    let encoded = prompts().map(|prompt| model.encode(&prompt).unwrap());
    let draws: Vec<_> = (0..).zip(&encoded).map(|(index, prompt)| group(index, prompt, 3)).collect();
    let observe = Observe { frame_layers: Some(Layers::All), hidden: true, entropy: true };
    let params = SamplingParams { top_p: 0.9, top_k: 20, observe, ..params(9) };
    for (encoded, rollout) in encoded.iter().zip(draw(&model, &draws, &params)) {
        assert_teacher_forced(&model, encoded, &rollout, params.temperature, 1e-4);
        assert_observed(&model, encoded, &rollout, Layers::All);
    }
    let penalised = draw(&model, &draws, &SamplingParams { repetition_penalty: 1.2, ..params });
    assert_ne!(draw(&model, &draws, &params), penalised);
}

#[test]
fn a_groups_tokens_are_the_same_in_every_order_company_and_bound() {
    let model = model(11);
    let encoded = mixed().map(|prompt| model.encode(&prompt).unwrap());
    let observe = Observe { frame_layers: Some(Layers::All), hidden: true, entropy: true };
    let params = |max_rows| SamplingParams { max_rows, observe, ..params(20) };
    let counts = [3, 1, 4, 3, 2];
    let own = |index: usize| group(index as u64, &encoded[index], counts[index]);
    let one = |index: usize| model.rollout(&[own(index)], &params(0), &ENDS).unwrap().remove(0);
    let alone: Vec<Rollout> = (0..encoded.len()).map(one).collect();
    for (max_rows, order) in
        [(0, [0, 1, 2, 3, 4]), (0, [3, 1, 4, 0, 2]), (1, [4, 3, 2, 1, 0]), (6, [2, 0, 1, 4, 3]), (11, [1, 2, 3, 4, 0])]
    {
        let draws = order.map(own);
        let rollouts = model.rollout(&draws, &params(max_rows), &ENDS).unwrap();
        for (group, found) in order.into_iter().zip(&rollouts) {
            let expected = &alone[group];
            assert_eq!((&found.ids, &found.truncated), (&expected.ids, &expected.truncated), "group {group}");
            for (found, expected) in found.logprobs.iter().zip(&expected.logprobs) {
                assert_close("log-probs", &Tensor::from_slice(found), &Tensor::from_slice(expected), 1e-5);
            }
            for kept in [
                |r: &Rollout| r.hidden.as_ref().unwrap().shallow_clone(),
                |r: &Rollout| r.frame_attention.as_ref().unwrap().shallow_clone(),
            ] {
                assert_close("what is kept", &kept(found), &kept(expected), 1e-5);
            }
        }
        let again = model.rollout(&draws, &params(max_rows), &ENDS).unwrap();
        assert_eq!(again, rollouts, "the same bits");
    }
}

#[test]
fn a_groups_completions_do_not_depend_on_the_rest_of_the_batch() {
    let model = model(2);
    let encoded = prompts().map(|prompt| model.encode(&prompt).unwrap());
    let own = |index: usize, count| group(index as u64, &encoded[index], count);
    let all = draw(&model, &[own(0, 3), own(1, 3), own(2, 3)], &params(10));
    for (index, together) in all.iter().enumerate() {
        let alone = draw(&model, &[own(index, 3)], &params(10));
        assert_eq!((&alone[0].ids, &alone[0].truncated), (&together.ids, &together.truncated));
        for (alone, together) in alone[0].logprobs.iter().zip(&together.logprobs) {
            assert_close("log-probs", &Tensor::from_slice(alone), &Tensor::from_slice(together), 1e-5);
        }
        // Nor on how many completions its group has.
        let fewer = draw(&model, &[own(index, 2)], &params(10));
        assert_eq!(fewer[0].ids, together.ids[..2]);
    }
}

#[test]
fn the_same_seed_draws_the_same_and_another_something_else() {
    let model = model(3);
    let encoded = model.encode(&plain_prompt(1)).unwrap();
    let one = |seed| draw(&model, &[Draw { seed, ..group(0, &encoded, 4) }], &params(10));
    assert_eq!(one(seed(0)), one(seed(0)));
    let others = [seed(1), GroupSeed { step: 4, ..seed(0) }, GroupSeed { seed: 8, ..seed(0) }];
    assert!(others.iter().all(|other| one(*other)[0].ids != one(seed(0))[0].ids));
    let ids = &one(seed(0))[0].ids;
    assert!(ids.iter().skip(1).any(|completion| *completion != ids[0]), "the completions of a group differ");
}

#[test]
fn eager_and_fused_models_draw_the_same() {
    let eager =
        LoadOptions { attention: AttentionMode::Eager, trainable: Trainable::Nothing, ..LoadOptions::default() };
    let ids = [model(4), random(&eager, 4)].map(|model| {
        let encoded = model.encode(&plain_prompt(1)).unwrap();
        draw(&model, &[group(0, &encoded, 3)], &params(10)).remove(0).ids
    });
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn a_frozen_tower_sees_a_video_once_for_rollouts_updates_and_later_epochs() {
    let options = LoadOptions { trainable: Trainable::Text, ..LoadOptions::default() };
    let [model, intact] = [random(&options, 8), random(&options, 8)];
    let seen = |model: &Vlm, video: usize| {
        // Decoded anew: other memory, the same pixels.
        let encoded = model.encode(&plain_prompt(video)).unwrap();
        let rollout = draw(model, &[group(0, &encoded, 3)], &params(8)).remove(0);
        let completions = Completions::new(&rollout.ids, model.device());
        let segments = [Segment { prompt: &encoded, completions: &completions }];
        let pass = model.training_pass(&segments, Recompute::Nothing).unwrap();
        (rollout.ids, pass.score(&model.head(1.0)).logprobs)
    };
    let first = seen(&model, 1);
    // From here on whatever the tower looks at is lost.
    no_grad(|| {
        for (_, tensor) in model.tensors().iter().filter(|(name, _)| name.starts_with("visual.")) {
            let _ = tensor.shallow_clone().zero_();
        }
    });
    assert_eq!(seen(&model, 1), first, "the second epoch");
    assert_eq!(seen(&intact, 1), first);
    assert!(seen(&model, 2).1 != seen(&intact, 2).1, "another video is looked at");
}

#[test]
fn special_vision_tokens_are_never_drawn_however_likely() {
    let model = model(5);
    let (_, head) = model.tensors().iter().find(|(name, _)| name == "lm_head.weight").unwrap();
    no_grad(|| SPECIAL.iter().map(|id| head.get(*id).g_mul_scalar_(50.0)).for_each(drop));
    let sequence = plain_prompt(1);
    let encoded = model.encode(&sequence).unwrap();
    let greedy = SamplingParams { temperature: 0.0, ..params(40) };
    let hot = SamplingParams { temperature: 3.0, ..params(40) };
    for (count, params) in [(1, greedy), (16, hot), (16, SamplingParams { top_p: 0.9, top_k: 20, ..hot })] {
        let rollouts = draw(&model, &[group(0, &encoded, count)], &params);
        assert!(rollouts[0].ids.iter().flatten().all(|id| !SPECIAL.contains(id) && (0..VOCABULARY).contains(id)));
    }
    // They would be: the plain distribution gives them most of the probability somewhere.
    let chosen: Vec<usize> = (1..sequence.ids.len()).collect();
    let scores = model.score(&sequence, &chosen, Layers::Last(1)).unwrap();
    assert!(scores.logprobs.max().double_value(&[]) > -0.1);
}

#[test]
fn requests_that_cannot_be_served_say_why() {
    let model = model(6);
    let encoded = model.encode(&plain_prompt(1)).unwrap();
    let error = |params: SamplingParams, count| {
        model.rollout(&[group(0, &encoded, count)], &params, &[END]).unwrap_err().to_string()
    };
    assert!(error(params(5), 0).contains("at least one completion"));
    assert!(error(params(512), 1).contains("longer than the model's 512"));
    assert!(error(params(0), 1).contains("max_new_tokens"));
    assert!(error(SamplingParams { temperature: f64::NAN, ..params(5) }, 1).contains("temperature"));
    assert!(error(SamplingParams { top_p: 0.0, ..params(5) }, 1).contains("top_p"));
    assert_eq!(model.rollout(&[], &params(5), &[END]).unwrap(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// With a large share of the vocabulary ending a completion, many end early and some do not.
    #[test]
    fn a_completion_ends_with_its_first_end_token_or_is_truncated(weights in 0..1000_i64, length in 1..7_usize, number in 0..100_u64) {
        let model = model(weights);
        let encoded = model.encode(&plain_prompt(1)).unwrap();
        let end: Vec<i64> = (20..26).collect();
        let rollouts = model.rollout(&[group(number, &encoded, 6)], &params(length), &end).unwrap();
        let rollout = &rollouts[0];
        prop_assert_eq!((rollout.ids.len(), rollout.logprobs.len(), rollout.truncated.len()), (6, 6, 6));
        for row in 0..6 {
            let ids = &rollout.ids[row];
            let first = ids.iter().position(|id| end.contains(id));
            prop_assert_eq!(ids.len(), rollout.logprobs[row].len());
            prop_assert_eq!(rollout.truncated[row], first.is_none());
            prop_assert_eq!(ids.len(), first.map_or(length, |first| first + 1));
        }
    }
}

#[test]
fn a_model_that_gives_no_numbers_is_an_error_and_no_panic() {
    let model = model(3);
    let broken = model.tensors().iter().find(|(name, _)| name == "model.norm.weight").unwrap();
    let _ = no_grad(|| broken.1.shallow_clone().fill_(f64::NAN));
    let encoded = model.encode(&plain_prompt(1)).unwrap();
    let error = model.rollout(&[group(0, &encoded, 2)], &params(3), &ENDS).unwrap_err().to_string();
    assert!(error.contains("log-prob of a drawn token is not finite"), "{error}");
}
