//! What must hold of every group, shown on random ones.

use foveate_algo::{
    Algorithm, Divergence, MediaKind, Observations, RecordedDistributions, ScoredGroup, Variant,
    appo::{Appo, RankOrder, Selection, Settings},
    dapo::{self, Dapo},
    grpo::{self, Grpo},
    t_grpo::{self, TGrpo},
    tw_grpo::{self, TwGrpo},
    video_ktr::{self, VideoKtr},
};
use ndarray::{Array2, Array3, array, s};
use proptest::prelude::*;

use crate::common::{Case, case, close};

fn appo(change: impl FnOnce(&mut Settings)) -> Appo {
    let mut settings = Settings { k1: 3, k2: 2, k3: 3, ..Settings::default() };
    change(&mut settings);
    Appo::new(settings).unwrap()
}

/// Those whose weights lie between 1 and 1.7.
fn weighting() -> Vec<Box<dyn Algorithm>> {
    let released = Settings { k3: 2, ..Settings::preset(Variant::Released) };
    vec![
        Box::new(Grpo::new(grpo::Settings::default()).unwrap()),
        Box::new(appo(|_| {})),
        Box::new(Appo::new(released).unwrap()),
        Box::new(TwGrpo::new(tw_grpo::Settings::default()).unwrap()),
        Box::new(TwGrpo::new(tw_grpo::Settings::preset(Variant::Released)).unwrap()),
    ]
}

/// Every algorithm, in both readings where there are two.
fn algorithms() -> Vec<Box<dyn Algorithm>> {
    let mut all = weighting();
    let overlong = dapo::Settings { overlong_max: Some(6), overlong_cache: Some(4), ..dapo::Settings::default() };
    all.push(Box::new(Dapo::new(overlong).unwrap()));
    for variant in [Variant::Paper, Variant::Released] {
        let lengths = t_grpo::Settings { length_min: 2, length_max: 5, ..t_grpo::Settings::preset(variant) };
        all.push(Box::new(TGrpo::new(lengths).unwrap()));
        all.push(Box::new(VideoKtr::new(video_ktr::Settings::preset(variant)).unwrap()));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_shift_of_all_rewards_changes_nothing(case in case(), shift in -3.0_f32..3.0) {
        let mut shifted = case.clone();
        shifted.group.rewards += shift;
        for algorithm in algorithms() {
            let (plain, moved) = (case.credit(&*algorithm), shifted.credit(&*algorithm));
            prop_assert!(plain.advantages.iter().zip(&moved.advantages).all(|(a, b)| close(*a, *b, 1e-4)));
            prop_assert_eq!(plain.weights, moved.weights);
        }
    }

    #[test]
    fn permuting_completions_permutes_their_credit(case in case(), seed in 0..120_usize) {
        let mut left: Vec<usize> = (0..case.group.rewards.len()).collect();
        let mut seed = seed;
        let mut order = Vec::new();
        while !left.is_empty() {
            order.push(left.remove(seed % left.len()));
            seed /= left.len() + 1;
        }
        for algorithm in algorithms() {
            let (plain, permuted) = (case.credit(&*algorithm), case.ordered(&order).credit(&*algorithm));
            for (row, from) in order.iter().enumerate() {
                prop_assert!(close(permuted.advantages[row], plain.advantages[*from], 1e-6));
                prop_assert_eq!(permuted.selected.row(row), plain.selected.row(*from));
                let pairs = permuted.weights.row(row).into_iter().zip(plain.weights.row(*from)).collect::<Vec<_>>();
                prop_assert!(pairs.into_iter().all(|(a, b)| close(*a, *b, 1e-5)));
            }
            prop_assert_eq!(permuted.detail("crucial_frames"), plain.detail("crucial_frames"));
        }
    }

    #[test]
    fn columns_of_padding_change_nothing_as_long_as_k3_is_within_the_longest(case in case(), columns in 1..4_usize) {
        let k3 = case.longest().min(3);
        // TW-GRPO scales over padded columns, too.
        let unlike = |algorithm: &dyn Algorithm| !["appo", tw_grpo::NAME].contains(&algorithm.name());
        let short: Box<dyn Algorithm> = Box::new(appo(|settings| settings.k3 = k3));
        for algorithm in algorithms().into_iter().filter(|algorithm| unlike(&**algorithm)).chain([short]) {
            let (plain, padded) = (case.credit(&*algorithm), case.padded(columns).credit(&*algorithm));
            prop_assert_eq!(&plain.advantages, &padded.advantages);
            prop_assert_eq!(&plain.weights, &padded.weights.slice(s![.., ..case.longest()]));
            prop_assert!(padded.weights.slice(s![.., case.longest()..]).iter().all(|weight| *weight == 0.0));
            for (name, value) in plain.details.iter().filter(|(_, value)| value.ndim() == 0) {
                let found = padded.detail(name).unwrap().sum();
                prop_assert!(found == value.sum() || (found.is_nan() && value.sum().is_nan()), "{}", name);
            }
            prop_assert_eq!(plain.detail("crucial_frames"), padded.detail("crucial_frames"));
            let (plain, padded) = (case.factors(&*algorithm), case.padded(columns).factors(&*algorithm));
            prop_assert_eq!(&plain, &padded.slice(s![.., ..case.longest()]));
        }
    }

    #[test]
    fn appo_with_every_token_in_every_group_has_the_weights_of_tw_grpo(
        case in case(), kind in prop::sample::select(vec![Divergence::Kl, Divergence::LogK3]), extra in 0..9_usize,
    ) {
        let whole = appo(|settings| {
            settings.k3 = case.longest() + extra;
            settings.order = RankOrder::Text;
            settings.selection = Selection::All;
            settings.divergence = kind;
        });
        let tw_grpo = TwGrpo::new(tw_grpo::Settings { divergence: kind, ..tw_grpo::Settings::default() }).unwrap();
        let (found, expected) = (case.credit(&whole).weights, case.credit(&tw_grpo).weights);
        prop_assert!(found.iter().zip(&expected).all(|(a, b)| close(*a, *b, 1e-6)), "{found}\n{expected}");
    }

    #[test]
    fn weights_stay_between_one_and_one_plus_alpha_on_tokens(case in case()) {
        for algorithm in weighting() {
            let credit = case.credit(&*algorithm);
            for (weight, token) in credit.weights.iter().zip(&case.group.mask) {
                let range = if *token { 1.0..=1.7 } else { 0.0..=0.0 };
                prop_assert!(range.contains(weight), "weight {}", weight);
            }
        }
    }

    #[test]
    fn a_nan_reward_gives_finite_credit_and_none_to_its_own_completion(case in case(), which in 0..5_usize) {
        let which = which % case.group.rewards.len();
        let mut broken = case;
        broken.group.rewards[which] = f32::NAN;
        broken.group.accuracy[which] = f32::NAN;
        for algorithm in algorithms() {
            let credit = broken.credit(&*algorithm);
            prop_assert!(credit.advantages.iter().all(|advantage| advantage.is_finite()));
            prop_assert!(credit.weights.iter().all(|weight| weight.is_finite()));
            prop_assert_eq!(credit.advantages[which], 0.0);
        }
    }

    #[test]
    fn identical_completions_have_weight_one_everywhere(case in case(), copies in 1..5_usize) {
        let copied = case.copies(copies);
        for algorithm in weighting() {
            let credit = copied.credit(&*algorithm);
            prop_assert!(credit.weights.iter().all(|weight| *weight == 1.0), "{:?}", credit.weights);
            prop_assert!(credit.advantages.iter().all(|advantage| *advantage == 0.0));
        }
    }
}

/// Three completions that see all frames alike.
fn plain() -> Case {
    let mut attention = Array3::from_elem((3, 4, 3), 0.1);
    attention.slice_mut(s![0, 1, 2]).fill(0.5); // token 1 of the right completion looks at frame 2
    let logits = Array3::from_shape_fn((3, 4, 2), |(i, _, v)| if v == 0 { i as f32 } else { 0.0 });
    Case {
        group: ScoredGroup {
            rewards: array![1.0, 0.0, 0.0],
            accuracy: array![1.0, 0.0, 0.0],
            mask: array![[true, true, true, true], [true, true, true, false], [true, true, true, false]],
            truncated: array![false, false, false],
            media: MediaKind::Video,
        },
        attention,
        changed_logits: [logits.clone(), logits.clone()],
        logits,
        logprobs: [-1.0, -2.0, -3.0].map(|logprob| Array2::from_elem((3, 4), logprob)),
        contrast: array![0.0],
    }
}

#[test]
fn flat_divergence_is_grpo_weights() {
    // Every position has the same three distributions, and k3 stays within the shortest completion.
    let credit = plain().credit(&appo(|settings| settings.k3 = 3));
    assert_eq!(credit.weights, plain().group.mask.mapv(|token| if token { 1.0 } else { 0.0 }));
    assert_eq!(credit.detail("frac_groups_with_crucial"), Some(&ndarray::arr0(1.0).into_dyn()));
}

#[test]
fn ties_go_to_the_lowest_index() {
    let credit = plain().credit(&appo(|settings| settings.k3 = 2));
    // Frame 2 has the largest score of completion 0; frames 0 and 1 tie for second.
    assert_eq!(credit.detail("crucial_frames"), Some(&array![0.0, 2.0].into_dyn()));
    assert_eq!(credit.selected.row(1), array![true, true, false, false]);
}

#[test]
fn without_a_right_completion_hard_and_soft_select_nothing_and_the_fallback_selects_the_wrong_ones() {
    let mut case = plain();
    case.group.accuracy.fill(0.0);
    let frames = |change: fn(&mut Settings)| case.credit(&appo(change)).detail("crucial_frames").unwrap().len();
    assert_eq!(frames(|settings| settings.selection = Selection::Soft), 0);
    assert_eq!(frames(|settings| settings.selection = Selection::Hard), 0);
    assert_eq!(frames(|settings| settings.fallback_all = true), 3);
    let credit = case.credit(&appo(|_| {}));
    assert!(credit.weights.iter().zip(&case.group.mask).all(|(weight, token)| *weight == f32::from(u8::from(*token))));
}

#[test]
fn the_variant_decides_who_counts_as_right() {
    let mut case = plain();
    case.group.accuracy = array![0.4, 0.0, 0.0];
    let found = |variant| case.credit(&appo(|s| s.variant = variant)).detail("crucial_frames").unwrap().len();
    assert_eq!((found(Variant::Paper), found(Variant::Released)), (0, 2));
}

#[test]
fn a_question_without_a_video_has_no_crucial_frame() {
    let mut case = plain();
    case.attention = Array3::zeros((3, 4, 0));
    assert_eq!(case.credit(&appo(|_| {})).detail("crucial_frames").unwrap().len(), 0);
}

#[test]
fn a_missing_or_broken_observation_is_an_error_that_names_it() {
    let case = plain();
    let distributions = RecordedDistributions::new(case.logits.clone(), &case.group.mask).unwrap();
    let algorithm = appo(|_| {});
    let error = algorithm.credit(&case.group, &Observations::default()).unwrap_err();
    assert_eq!(error.to_string(), "appo needs frame_attention, which the group lacks");
    let seen = Observations { frame_attention: Some(case.attention.clone()), ..Observations::default() };
    let error = algorithm.credit(&case.group, &seen).unwrap_err();
    assert_eq!(error.to_string(), "appo needs the token distributions (logits), which the group lacks");
    let mut attention = case.attention;
    attention[[1, 2, 0]] = f32::NAN;
    let seen = Observations {
        frame_attention: Some(attention),
        distributions: Some(&distributions),
        ..Observations::default()
    };
    let error = algorithm.credit(&case.group, &seen).unwrap_err();
    assert_eq!(error.to_string(), "frame_attention of completion 1, token 2 is NaN, expected a finite number");
}
