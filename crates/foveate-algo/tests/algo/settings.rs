//! What an `[algo]` table says and what it resolves to.

use foveate_algo::{AlgoConfig, Divergence, Layers, MediaKind, NAMES, appo};
use serde_json::{Value, json};

fn parse(name: &str, table: Value) -> Result<AlgoConfig, String> {
    AlgoConfig::parse(name, table).map_err(|error| error.to_string())
}

#[test]
fn every_name_parses_to_the_algorithm_of_that_name_and_back() {
    for name in NAMES {
        let config = parse(name, json!({})).unwrap();
        assert_eq!(config.algorithm().unwrap().name(), *name);
        let table = serde_json::to_value(&config).unwrap();
        assert_eq!(table["name"], *name);
        assert_eq!(serde_json::from_value::<AlgoConfig>(table).unwrap(), config);
    }
}

#[test]
fn a_preset_fills_only_what_is_unset() {
    let AlgoConfig::Appo(settings) = parse("appo", json!({"variant": "released", "k3": 6})).unwrap() else {
        panic!("not appo");
    };
    assert_eq!((settings.k3, settings.fallback_all), (6, true));
    assert_eq!((settings.divergence, settings.order), (Divergence::LogK3, appo::RankOrder::Text));
    assert_eq!(parse("appo", json!({})).unwrap(), AlgoConfig::Appo(appo::Settings::default()));
}

#[test]
fn the_released_presets_are_those_of_the_released_code() {
    for (name, given, expected) in [
        ("tw-grpo", json!({}), json!({"divergence": "log-k3", "weight_inside_min": false, "clip_high": 0.28_f32})),
        ("tw-grpo", json!({"clip_high": 0.5}), json!({"divergence": "log-k3", "clip_high": 0.5_f32})),
        ("t-grpo", json!({}), json!({"variant": "released", "beta": 0.04_f32, "length_min": 320})),
        (
            "video-ktr",
            json!({"ratio": 0.1}),
            json!({"ratio": 0.1, "beta": 0.04_f32, "visual_mask": "hide-tokens", "normalizer": "selected"}),
        ),
    ] {
        let mut table = given;
        table["variant"] = json!("released");
        let resolved = serde_json::to_value(parse(name, table).unwrap()).unwrap();
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&resolved[key], value, "{name} {key}");
        }
    }
    let paper = serde_json::to_value(parse("video-ktr", json!({})).unwrap()).unwrap();
    assert_eq!((&paper["beta"], &paper["visual_mask"]), (&json!(0.4_f32), &json!("zero-features")));
}

#[test]
fn every_algorithm_takes_what_all_have() {
    let shared = json!({"entropy_coef": 0.01, "mask_zero_std": true, "mask_truncated": true, "clip_low": 0.1});
    for name in NAMES {
        let mut shared = shared.clone();
        if *name == "refocus" {
            assert_eq!(parse(name, shared.clone()).unwrap().algorithm().unwrap().objective().clip, None);
            shared["clip"] = json!(true);
        }
        let objective = parse(name, shared).unwrap().algorithm().unwrap().objective();
        assert!(objective.mask_zero_std && objective.mask_truncated, "{name}");
        assert_eq!((objective.entropy_coef, objective.clip.unwrap().low), (0.01, 0.1), "{name}");
    }
}

#[test]
fn resolved_settings_are_complete() {
    let table = serde_json::to_value(parse("appo", json!({"variant": "released"})).unwrap()).unwrap();
    assert_eq!(
        table,
        json!({
            "name": "appo", "variant": "released", "selection": "soft", "fallback_all": true, "k1": 15, "k2": 3, "k3": 30,
            "alpha": 0.7_f32, "divergence": "log-k3", "order": "text", "layers": "last:3", "clip_low": 0.2_f32,
            "clip_high": 0.28_f32, "token_mean_over": "group", "entropy_coef": 0.0_f32, "mask_zero_std": false,
            "mask_truncated": false,
        })
    );
}

#[test]
fn an_unknown_name_key_or_value_is_an_error_with_the_known_ones() {
    let error = parse("grop", json!({})).unwrap_err();
    assert!(error.contains("`grop`") && error.contains("`grpo`"), "{error}");
    let error = parse("appo", json!({"k4": 1})).unwrap_err();
    assert!(error.contains("`k4`") && error.contains("`k3`"), "{error}");
    let error = parse("grpo", json!({"k3": 1})).unwrap_err();
    assert!(error.contains("`k3`") && error.contains("`beta`"), "{error}");
    let error = parse("appo", json!({"selection": "sfot"})).unwrap_err();
    assert!(error.contains("`soft`"), "{error}");
    let error = parse("video-ktr", json!({"signals": ["visaul"]})).unwrap_err();
    assert!(error.contains("`visual`"), "{error}");
    let error = parse("appo", json!({"layers": "last:0"})).unwrap_err();
    assert!(error.contains("last:N"), "{error}");
}

#[test]
fn a_value_out_of_range_is_an_error_with_the_range() {
    for (name, table, expected) in [
        ("appo", json!({"k1": 0}), "k1 is 0, expected at least 1"),
        ("appo", json!({"k3": 0}), "k3 is 0, expected at least 1"),
        ("appo", json!({"alpha": -1.0}), "alpha is -1, expected a number of at least 0"),
        ("grpo", json!({"beta": -0.5}), "beta is -0.5, expected a number of at least 0"),
        ("grpo", json!({"clip_low": 1.5}), "clip_low is 1.5, expected a number from 0 to 1"),
        ("grpo", json!({"constant_length": 0}), "constant_length is 0, expected at least 1"),
        ("dapo", json!({"entropy_coef": -1.0}), "entropy_coef is -1, expected a number of at least 0"),
        (
            "dapo",
            json!({"overlong_max": 512}),
            "overlong_max is 512, expected overlong_max and overlong_cache together, or neither",
        ),
        ("dapo", json!({"overlong_max": 5, "overlong_cache": 6}), "overlong_cache is 6, expected at most overlong_max"),
        ("dapo", json!({"overlong_max": 5, "overlong_cache": 0}), "overlong_cache is 0, expected at least 1"),
        ("t-grpo", json!({"length_min": 600}), "length_min is 600, expected at most length_max"),
        ("t-grpo", json!({"bonus": -0.1}), "bonus is -0.1, expected a number of at least 0"),
        ("tw-grpo", json!({"alpha": -0.1}), "alpha is -0.1, expected a number of at least 0"),
        ("video-ktr", json!({"ratio": 1.5}), "ratio is 1.5, expected a number from 0 to 1"),
        ("video-ktr", json!({"signals": []}), "signals is [], expected at least one of entropy, visual, temporal"),
    ] {
        assert_eq!(parse(name, table).unwrap().algorithm().unwrap_err().to_string(), expected);
    }
}

#[test]
fn layers_are_written_as_they_are_read() {
    for text in ["all", "last:3"] {
        assert_eq!(text.parse::<Layers>().unwrap().to_string(), text);
    }
    assert!("last:".parse::<Layers>().is_err() && "3".parse::<Layers>().is_err());
}

#[test]
fn grpo_needs_a_reference_only_with_a_kl_term() {
    let needs = |beta: f32| parse("grpo", json!({"beta": beta})).unwrap().algorithm().unwrap().needs(MediaKind::Video);
    assert!(needs(0.04).reference && !needs(0.0).reference);
}
