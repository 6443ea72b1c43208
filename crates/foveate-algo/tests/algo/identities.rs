//! Where algorithms come to the same, and what they make of groups with nothing to learn from.

use foveate_algo::{
    AlgoConfig, Algorithm, Distance, MediaKind, NAMES, Observations, Reduction, Reordering, ScoredGroup, WeightSide,
};
use ndarray::{Array2, Array3, array};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::common::{Case, case, close};

fn algorithm(name: &str, settings: Value) -> Box<dyn Algorithm> {
    AlgoConfig::parse(name, settings).unwrap().algorithm().unwrap()
}

/// Every algorithm in every reading.
fn all() -> Vec<Box<dyn Algorithm>> {
    let readings = [json!({"variant": "paper"}), json!({"variant": "released"})];
    let reading = |name: &&'static str| readings.clone().map(|settings| algorithm(name, settings));
    let mut all: Vec<_> = NAMES.iter().flat_map(reading).collect();
    all.push(algorithm("grpo", json!({"ratio": "sequence", "beta": 0.0})));
    all.push(algorithm("grpo", json!({"reduction": "constant-length", "scale_rewards": false})));
    all
}

/// Whether two algorithms have the same loss on the case, whatever the log-probs.
fn same_loss(case: &Case, a: &dyn Algorithm, b: &dyn Algorithm) -> bool {
    let (one, other) = (case.credit(a), case.credit(b));
    let same = |a: &Array2<f32>, b: &Array2<f32>| a.iter().zip(b).all(|(a, b)| close(*a, *b, 1e-6));
    let (mine, yours) = (a.objective(), b.objective());
    // Where all weights are 1 their side does not matter.
    let side = mine.weights == yours.weights || one.weights.iter().all(|weight| *weight == 1.0 || *weight == 0.0);
    one.advantages == other.advantages
        && same(&one.weights, &other.weights)
        && same(&case.factors(a), &case.factors(b))
        && side
        && (mine.clip, mine.ratio, mine.kl_coef) == (yours.clip, yours.ratio, yours.kl_coef)
}

/// The case with the same distributions at every position of every completion, and no padding.
fn flat(case: &Case) -> Case {
    let mut flat = case.clone();
    flat.group.mask.fill(true);
    let one = case.logits.slice(ndarray::s![.., 0..1, ..]).to_owned();
    flat.logits = Array3::from_shape_fn(case.logits.dim(), |(i, _, v)| one[[i, 0, v]]);
    flat
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn flat_divergences_make_tw_grpo_the_dapo_of_the_same_clip(case in case()) {
        for (variant, clip_high) in [("paper", 0.2), ("released", 0.28)] {
            let tw_grpo = algorithm("tw-grpo", json!({"variant": variant}));
            let dapo = algorithm("dapo", json!({"clip_high": clip_high}));
            prop_assert!(same_loss(&flat(&case), &*tw_grpo, &*dapo));
        }
    }

    #[test]
    fn appo_of_the_whole_text_is_tw_grpo(case in case()) {
        for divergence in ["kl", "log-k3"] {
            let appo = json!({"k3": 99, "order": "text", "selection": "all", "divergence": divergence});
            let tw_grpo = json!({"divergence": divergence, "clip_high": 0.28, "weight_inside_min": false});
            prop_assert!(same_loss(&case, &*algorithm("appo", appo), &*algorithm("tw-grpo", tw_grpo)));
        }
    }

    #[test]
    fn video_ktr_of_every_token_is_grpo(case in case()) {
        for settings in [
            json!({"ratio": 1.0, "beta": 0.04}),
            json!({"variant": "released", "ratio": 1.0}),
            json!({"ratio": 1.0, "beta": 0.04, "distance": "kl", "signals": ["temporal"]}),
        ] {
            let same = same_loss(&case, &*algorithm("video-ktr", settings), &*algorithm("grpo", json!({})));
            prop_assert!(same);
        }
    }

    #[test]
    fn t_grpo_without_an_edge_is_grpo(case in case()) {
        let mut case = case;
        case.contrast.fill(1.0); // shuffled frames do as well as can be
        case.group.accuracy[0] = 0.0;
        let released_edge = case.group.accuracy.mean().unwrap() >= 0.8;
        for variant in ["paper", "released"] {
            // No completion is of the wanted length.
            let (t_grpo, grpo) = (algorithm("t-grpo", json!({"variant": variant})), algorithm("grpo", json!({})));
            if variant == "paper" || !released_edge {
                prop_assert!(same_loss(&case, &*t_grpo, &*grpo));
            }
            let mut image = case.clone();
            image.group.media = MediaKind::Image;
            prop_assert!(same_loss(&image, &*t_grpo, &*grpo));
        }
    }

    #[test]
    fn dapo_with_equal_clip_bounds_differs_from_grpo_in_the_reduction_only(case in case()) {
        let dapo = algorithm("dapo", json!({"clip_high": 0.2}));
        let grpo = algorithm("grpo", json!({"beta": 0.0}));
        let mut reduced = dapo.objective();
        reduced.reduction = Reduction::SequenceMean;
        prop_assert_eq!(reduced, grpo.objective());
        let token_mean = algorithm("grpo", json!({"beta": 0.0, "reduction": "token-mean"}));
        prop_assert!(same_loss(&case, &*dapo, &*token_mean));
    }

    #[test]
    fn the_weights_of_every_weighting_have_mean_one(case in case()) {
        for weighting in ["softmax", "sigmoid", "linear", "exponential"] {
            let credit = case.credit(&*algorithm("video-ktr", json!({"weighting": weighting})));
            let tokens = case.group.mask.iter().filter(|token| **token).count() as f32;
            prop_assert!(close(credit.weights.sum() / tokens, 1.0, 1e-5), "{}", weighting);
            let padding = credit.weights.iter().zip(&case.group.mask).filter(|(_, token)| !**token);
            prop_assert!(padding.into_iter().all(|(weight, _)| *weight == 0.0));
        }
    }

    #[test]
    fn a_group_of_one_and_one_of_equal_scores_have_no_advantage_and_finite_weights(case in case()) {
        let mut equal = case.clone();
        equal.group.rewards.fill(0.7);
        equal.group.accuracy.fill(0.7);
        for algorithm in all() {
            for case in [&case.ordered(&[0]), &equal] {
                let credit = case.credit(&*algorithm);
                prop_assert!(credit.advantages.iter().all(|advantage| *advantage == 0.0), "{}", algorithm.name());
                prop_assert!(credit.weights.iter().all(|weight| weight.is_finite()));
                prop_assert!(case.factors(&*algorithm).iter().all(|factor| factor.is_finite()));
            }
        }
    }

    #[test]
    fn truncated_completions_may_leave_the_loss_until_nothing_is_left_of_it(case in case()) {
        let mut case = case;
        case.group.truncated.fill(true);
        for name in NAMES {
            let masking = algorithm(name, json!({"mask_truncated": true}));
            prop_assert!(case.factors(&*masking).iter().all(|factor| *factor == 0.0), "{}", name);
        }
        case.group.truncated[0] = false;
        for name in NAMES {
            let masking = algorithm(name, json!({"mask_truncated": true}));
            let factors = case.factors(&*masking);
            prop_assert!(factors.iter().all(|factor| factor.is_finite()));
            prop_assert!(factors.rows().into_iter().skip(1).all(|row| row.iter().all(|factor| *factor == 0.0)));
        }
    }
}

/// Two completions of two tokens and one; the third token of each is padding.
fn pair() -> Case {
    let cube = |scale: f32| Array3::from_shape_fn((2, 3, 4), |(i, t, v)| scale * (i + 2 * t + v) as f32);
    Case {
        group: ScoredGroup {
            rewards: array![1.0, 0.0],
            accuracy: array![1.0, 0.0],
            mask: array![[true, true, false], [true, false, false]],
            truncated: array![false, false],
            media: MediaKind::Video,
        },
        attention: cube(0.1),
        logits: cube(0.3),
        changed_logits: [cube(0.2), cube(0.6)],
        logprobs: [
            array![[-1.0, -2.0, f32::NAN], [-3.0, f32::NAN, f32::NAN]],
            array![[-4.0, -2.5, f32::NAN], [-3.1, f32::NAN, f32::NAN]],
            array![[-1.0, -0.5, f32::NAN], [-3.2, f32::NAN, f32::NAN]],
        ],
        contrast: array![0.0],
    }
}

#[test]
fn a_completion_without_a_token_is_an_error_that_names_it() {
    let mut case = pair();
    case.group.mask.row_mut(1).fill(false);
    for algorithm in all() {
        let error = case.try_credit(&*algorithm).unwrap_err().to_string();
        assert!(error.starts_with("completion 1 of the group has no token"), "{}: {error}", algorithm.name());
    }
}

#[test]
fn dynamic_sampling_keeps_groups_whose_accuracies_differ() {
    let dapo = algorithm("dapo", json!({"max_refills": 3}));
    assert_eq!((dapo.max_refills(), algorithm("grpo", json!({})).max_refills()), (Some(3), None));
    let keeps = |accuracy: [f32; 2]| {
        // Rewards differ all the same: format does not count.
        dapo.keeps(&ScoredGroup { accuracy: accuracy.to_vec().into(), ..pair().group })
    };
    assert!(keeps([1.0, 0.0]) && keeps([0.5, 0.4]));
    assert!(!keeps([1.0, 1.0]) && !keeps([f32::NAN, f32::NAN]) && !keeps([f32::NAN, 1.0]));
}

#[test]
fn signed_scores_rank_a_rise_last_and_absolute_ones_rank_it_by_its_size() {
    let key = |variant: &str, signal: &str| {
        let settings = json!({"variant": variant, "signals": [signal], "ratio": 0.3});
        pair().credit(&*algorithm("video-ktr", settings)).selected
    };
    // Falls of 3, 0.5 and 0.1 with the video masked; of 0, -1.5 and 0.2 with the frames reordered.
    assert_eq!(key("paper", "visual"), array![[true, false, false], [false, false, false]]);
    assert_eq!(key("paper", "temporal"), array![[false, true, false], [false, false, false]]);
    assert_eq!(key("released", "temporal"), array![[false, false, false], [true, false, false]]);
}

#[test]
fn a_completion_without_a_key_token_contributes_nothing() {
    let released = algorithm("video-ktr", json!({"variant": "released", "signals": ["visual"], "ratio": 0.3}));
    assert_eq!(pair().factors(&*released), array![[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]);
    assert_eq!(released.objective().weights, WeightSide::OnTokenLoss);
}

#[test]
fn a_signal_that_is_off_asks_for_no_pass() {
    let needs = |settings, media| algorithm("video-ktr", settings).needs(media);
    let entropy = needs(json!({"signals": ["entropy"], "beta": 0.0}), MediaKind::Video);
    assert_eq!(entropy, foveate_algo::Needs { entropy: true, ..foveate_algo::Needs::default() });
    let visual = needs(json!({"signals": ["visual"]}), MediaKind::Video);
    assert!(visual.masked.is_some() && visual.reordered.is_none() && visual.sampling_logprobs && !visual.entropy);
    let temporal = needs(json!({"signals": ["temporal"], "reorder": "segments", "distance": "l1"}), MediaKind::Video);
    assert_eq!((temporal.reordered, temporal.masked), (Some(Reordering::Segments), None));
    assert!(temporal.distributions && !temporal.sampling_logprobs);
    let image = needs(json!({}), MediaKind::Image);
    assert!(image.masked.is_some() && image.reordered.is_none());
    let text = needs(json!({}), MediaKind::Text);
    assert!(text.masked.is_none() && text.reordered.is_none() && !text.sampling_logprobs && text.entropy);
    let t_grpo = algorithm("t-grpo", json!({}));
    assert!(t_grpo.needs(MediaKind::Video).contrast && !t_grpo.needs(MediaKind::Image).contrast);
}

#[test]
fn an_image_has_no_temporal_score_and_without_any_score_every_token_is_key() {
    let mut image = pair();
    image.group.media = MediaKind::Image;
    let credit = image.credit(&*algorithm("video-ktr", json!({})));
    assert!(credit.detail("temporal").is_none() && credit.detail("visual").is_some());
    let credit = image.credit(&*algorithm("video-ktr", json!({"signals": ["temporal"]})));
    assert_eq!(credit.selected, image.group.mask);
    let credit = image.credit(&*algorithm("t-grpo", json!({})));
    assert!(["p_ordered", "q_shuffled"].iter().all(|share| credit.detail(share).unwrap().iter().all(|p| p.is_nan())));
    let credit = image.credit(&*algorithm("video-ktr", json!({"signals": ["temporal"], "weighting": "linear"})));
    assert_eq!(credit.weights, image.group.mask.mapv(|token| f32::from(u8::from(token))));
}

#[test]
fn of_text_alone_only_uncertain_tokens_are_key() {
    let mut text = pair();
    text.group.media = MediaKind::Text;
    let credit = text.credit(&*algorithm("video-ktr", json!({})));
    assert!(credit.detail("temporal").is_none() && credit.detail("visual").is_none());
    assert_eq!(credit.selected, text.credit(&*algorithm("video-ktr", json!({"signals": ["entropy"]}))).selected);
    assert_ne!(credit.selected, text.group.mask);
}

#[test]
fn every_missing_observation_is_named() {
    let case = pair();
    let error = |name, settings| {
        let seen = Observations { sampling_logprobs: Some(case.logprobs[0].clone()), ..Observations::default() };
        algorithm(name, settings).credit(&case.group, &seen).unwrap_err().to_string()
    };
    for (name, settings, what) in [
        ("t-grpo", json!({}), "shuffled_accuracy"),
        ("tw-grpo", json!({}), "logits"),
        ("video-ktr", json!({"signals": ["visual"]}), "masked_logprobs"),
        ("video-ktr", json!({"signals": ["temporal"]}), "shuffled_logprobs"),
        ("video-ktr", json!({"signals": ["entropy"]}), "logits"),
        ("video-ktr", json!({"signals": ["visual"], "distance": "js"}), "logits"),
    ] {
        let error = error(name, settings);
        assert!(error.starts_with(&format!("{name} needs")) && error.contains(what), "{error}");
    }
    let mut broken = pair();
    broken.logprobs[1][[0, 1]] = f32::NAN;
    let error = broken.try_credit(&*algorithm("video-ktr", json!({}))).unwrap_err().to_string();
    assert_eq!(error, "masked_logprobs of completion 0, token 1 is NaN, expected a finite number");
}

#[test]
fn every_distance_gives_a_finite_score_on_tokens_alone() {
    for distance in [Distance::Kl, Distance::Js, Distance::L1, Distance::L2, Distance::Cosine, Distance::Hellinger] {
        let credit = pair().credit(&*algorithm("video-ktr", json!({"distance": distance})));
        let visual = credit.detail("visual").unwrap();
        assert!(visual.iter().zip(&pair().group.mask).all(|(score, token)| *token == (*score > 0.0)), "{visual}");
    }
}
