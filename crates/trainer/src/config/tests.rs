use std::path::{Path, PathBuf};

use anyhow::Result;
use foveate_algo::AlgoConfig;
use foveate_data::Format;

use super::*;
use crate::error::{exit_code, one_line};
use crate::run::write_atomically;

fn layers(algo: Option<&str>, set: &[&str]) -> Layers {
    let paths = ["model.path=/m", "data.train=t.jsonl"];
    Layers {
        algo: algo.map(str::to_owned),
        config: None,
        set: paths.iter().chain(set).map(|text| (*text).to_owned()).collect(),
    }
}

fn config(set: &[&str]) -> Config {
    resolve(&layers(None, set)).unwrap().config
}

fn error_of(result: Result<Resolved>) -> String {
    let error = result.unwrap_err();
    assert_eq!(exit_code(&error), 2, "{error:#}");
    one_line(&error)
}

fn error(set: &[&str]) -> String {
    error_of(resolve(&layers(None, set)))
}

/// A file of settings and the layers that name it.
fn with_file(text: &str, set: &[&str]) -> (tempfile::TempDir, Layers) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    write_atomically(&path, text.as_bytes()).unwrap();
    let layers = Layers { config: Some(path), ..layers(None, set) };
    (folder, layers)
}

#[test]
fn a_mistyped_key_is_named_with_its_source_and_the_nearest_key() {
    assert_eq!(
        error(&["rollout.temprature=0.5"]),
        "--set rollout.temprature=0.5: unknown key \"rollout.temprature\"; did you mean \"rollout.temperature\"?"
    );
    assert_eq!(
        error(&["data.frames.cuont=3"]),
        "--set data.frames.cuont=3: unknown key \"data.frames.cuont\"; did you mean \"data.frames.count\"?"
    );
    assert!(error(&["optimm.lr=3"]).ends_with("unknown key \"optimm\"; did you mean \"optim\"?"));
    assert!(error(&["algo.bta=3"]).ends_with("unknown key \"algo.bta\"; did you mean \"algo.beta\"?"));
}

#[test]
fn a_typo_is_told_before_a_model_is_looked_for() {
    let layers = Layers { set: vec!["run.stepz=3".into()], ..Layers::default() };
    assert!(error_of(resolve(&layers)).ends_with("did you mean \"run.steps\"?"));
}

#[test]
fn a_key_of_another_table_is_named_with_its_table() {
    assert!(error(&["lr=1"]).ends_with("unknown key \"lr\"; did you mean \"optim.lr\"?"));
}

#[test]
fn a_typo_in_a_file_names_the_file() {
    let (folder, layers) = with_file("[run]\nstepz = 3\n", &[]);
    assert_eq!(
        error_of(resolve(&layers)),
        format!("{}/mine.toml: unknown key \"run.stepz\"; did you mean \"run.steps\"?", folder.path().display())
    );
    let (_folder, layers) = with_file("[run]\nsteps = \n", &[]);
    assert!(error_of(resolve(&layers)).contains("mine.toml:2: "));
    let missing = Layers { config: Some(PathBuf::from("/no/such.toml")), ..Layers::default() };
    assert!(error_of(resolve(&missing)).contains("/no/such.toml"));
}

#[test]
fn a_wrong_type_or_word_names_the_key_and_what_was_expected() {
    assert_eq!(
        error(&["run.steps=many"]),
        "--set run.steps=many: run.steps: invalid type: string \"many\", expected u64"
    );
    assert!(
        error(&["optim.schedule=linaer"]).ends_with("optim.schedule cannot be \"linaer\"; did you mean \"linear\"?")
    );
    assert!(error(&["algo.beta=much"]).contains("algo.beta: invalid type: string \"much\""));
}

#[test]
fn an_unknown_algorithm_is_named_with_the_nearest_one() {
    assert_eq!(
        error_of(resolve(&layers(Some("apo"), &[]))),
        "--algo: unknown algorithm \"apo\"; did you mean \"appo\"?"
    );
    assert!(error(&["algo.name=grop"]).contains("unknown algorithm \"grop\"; did you mean \"grpo\"?"));
}

#[test]
fn later_layers_win_key_by_key() {
    let text = "[optim]\nlr = 2e-6\nweight_decay = 0.1\n[rollout]\ncompletions = 4\n";
    let (_folder, layers) = with_file(text, &["optim.lr=3e-6"]);
    let config = resolve(&layers).unwrap().config;
    assert_eq!(config.optim.lr, 3e-6); // --set over the file
    assert_eq!(config.optim.weight_decay, 0.1); // the file over the default
    assert_eq!(config.rollout.completions, 4); // the file over the algorithm's
    assert_eq!(config.data.frames.sampling, SamplingMode::Uniform); // the algorithm's over the default
    assert_eq!(config.optim.eps, 1e-8); // the default
}

#[test]
fn the_command_line_chooses_the_algorithm_before_the_file_does() {
    let (_folder, mut layers) = with_file("[algo]\nname = \"grpo\"\n", &[]);
    assert!(matches!(resolve(&layers).unwrap().config.algo, AlgoConfig::Grpo(_)));
    layers.algo = Some("appo".into());
    let config = resolve(&layers).unwrap().config;
    assert!(matches!(config.algo, AlgoConfig::Appo(_)));
    assert_eq!(config.name(), "appo");
    let refused = |layers: &Layers| one_line(&resolve(layers).unwrap_err());
    layers.set = vec!["algo.name=grpo".into()];
    assert_eq!(refused(&layers), "--algo appo beside --set algo.name=grpo: expected one algorithm");
    let (_folder, mut other) = with_file("[algo]\nname = \"tw-grpo\"\npositions = \"none\"\n", &[]);
    other.algo = Some("appo".into());
    let told = refused(&other);
    assert!(told.contains("algo.positions") && told.ends_with("for algorithm \"tw-grpo\", not \"appo\""), "{told}");
}

#[test]
fn a_named_configuration_of_an_algorithm_is_chosen_like_an_algorithm_and_names_its_runs() {
    let (_folder, in_file) = with_file("[algo]\nname = \"gspo\"\nclip_high = 0.1\n", &[]);
    for layers in [layers(Some("gspo"), &["algo.clip_high=0.1"]), in_file] {
        let config = resolve(&layers).unwrap().config;
        let AlgoConfig::Grpo(settings) = &config.algo else { unreachable!("{:?}", config.algo) };
        assert_eq!((settings.ratio, settings.clip_high), (foveate_algo::Ratio::Sequence, 0.1));
        assert_eq!((config.name(), config.algorithm_name()), ("gspo", "gspo"));
    }
    let own = config(&["run.name=my-first"]);
    assert_eq!((own.name(), own.algorithm_name()), ("my-first", "grpo"));
    assert_eq!(config(&["run.name=appo"]).algorithm_name(), "grpo", "a name of one's own");
    let relabelled = resolve(&layers(Some("gspo"), &["run.name=mine"])).unwrap().config;
    assert_eq!((relabelled.name(), relabelled.algorithm_name()), ("mine", "gspo"));
    for (algo, other) in [("grpo", "gspo"), ("gspo", "dr-grpo")] {
        let refused = one_line(&resolve(&layers(Some(algo), &[&format!("algo.name={other}")])).unwrap_err());
        assert!(refused.ends_with("expected one algorithm"), "{refused}");
    }
    let restated = resolve(&layers(Some("gspo"), &["algo.name=grpo"])).unwrap().config;
    assert_eq!(restated.algorithm_name(), "gspo");
    assert!(error(&["run.name=../up"]).starts_with("run.name must be made of letters"));
}

#[test]
fn values_need_no_quotes_and_keep_their_types() {
    let config = config(&[
        "data.prompt=tw-grpo",
        "run.output=my runs",
        "model.train_vision=true",
        "optim.betas=[0.8, 0.9]",
        "run.seed=7",
    ]);
    assert_eq!((config.data.prompt.as_str(), config.run.output.as_path()), ("tw-grpo", Path::new("my runs")));
    assert!(config.model.train_vision);
    assert_eq!(config.optim.betas, [0.8, 0.9]);
    assert_eq!(config.run.seed, 7);
    assert!(error(&["steps"]).contains("expected key=value"));
}

#[test]
fn evaluation_takes_frames_and_pixels_from_data_unless_stated() {
    let config = config(&["data.frames.count=7", "eval.pixels.max=200000"]);
    assert_eq!(config.eval.frames, config.data.frames);
    assert_eq!(config.eval.pixels.min, config.data.pixels.min);
    assert_eq!((config.eval.pixels.max, config.data.pixels.max), (200_000, 50_176));
}

#[test]
fn values_out_of_range_are_refused() {
    assert_eq!(error(&["rollout.completions=0"]), "rollout.completions must be at least 1, found 0");
    assert_eq!(error(&["rollout.top_p=1.5"]), "rollout.top_p must be above 0 and at most 1, found 1.5");
    assert!(error(&["data.frames.sampling=fps", "data.frames.min=9", "data.frames.max=3"]).contains("min 9 and max 3"));
    assert!(error(&["data.prompt=tw-gpro"]).contains("did you mean tw-grpo?"));
    assert!(error(&["algo.clip_low=-1"]).contains("clip_low"));
}

#[test]
fn a_model_without_data_and_data_without_a_model_are_refused() {
    let only = |text: &str| Layers { set: vec![text.to_owned()], ..Layers::default() };
    assert!(error_of(resolve(&only("model.path=/m"))).contains("data.train is not"));
    assert!(error_of(resolve(&only("data.train=/t"))).contains("model.path is not"));
}

#[test]
fn the_resolved_configuration_is_read_back_as_it_was() {
    for name in algorithm_names() {
        let config = resolve(&layers(Some(name), &["run.steps=3"])).unwrap().config;
        let text = config.to_toml().unwrap();
        let (folder, _) = with_file(&text, &[]);
        let path = folder.path().join("mine.toml");
        assert_eq!(load_run(&path, &[]).unwrap(), config, "{text}");
        assert_eq!(load_run(&path, &["run.steps=9".into()]).unwrap().run.steps, 9);
    }
}

#[test]
fn every_demo_configuration_is_valid() {
    for name in algorithm_names() {
        for (source, text) in embedded::demo(name).unwrap() {
            let (_folder, mut layers) = with_file(text, &[]);
            layers.algo = Some((*name).to_owned());
            assert!(resolve(&layers).is_ok(), "{source}");
        }
    }
}

#[test]
fn what_the_task_files_state_is_taken_over_an_algorithms_own() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/tasks");
    let of =
        |name: &str| resolve(&Layers { config: Some(folder.join(name)), ..layers(Some("appo"), &[]) }).unwrap().config;
    let grounding = of("appo-grounding.toml");
    assert_eq!((grounding.data.prompt.as_str(), grounding.name()), ("appo-grounding", "appo"));
    assert_eq!(grounding.reward.accuracy.unwrap().weight, 1.0);
    assert!(grounding.reward.temporal_iou.is_some() && grounding.reward.soft_choice.is_none());
    let when = of("charades-sta.toml");
    assert_eq!((when.data.prompt.as_str(), when.data.format), ("when", Format::CharadesSta));
    assert_eq!((when.reward.accuracy.unwrap().weight, when.reward.format.unwrap().weight), (0.0, 0.0));
    assert_eq!(when.reward.temporal_iou.unwrap().weight, 1.0);
    assert_eq!(fs_err::read_dir(folder).unwrap().count(), 2, "all of them");
}

#[test]
fn refocus_has_the_papers_settings_and_a_demo_of_its_own() {
    let plain = |name: &str| resolve_plain(&Layers { algo: Some(name.to_owned()), ..Layers::default() });
    let config = plain("refocus").unwrap();
    assert!(config.algo.picks_frames());
    assert_eq!((config.rollout.completions, config.data.frames.max), (16, 512));
    let (folder, _) = with_file(&config.to_toml().unwrap(), &[]);
    assert_eq!(load_run(&folder.path().join("mine.toml"), &[]).unwrap(), config);
    assert_eq!((config.selector.picks.as_slice(), config.selector.head_lr_scale), (&[32][..], 10.0));
    let demo = resolve(&Layers { algo: Some("refocus".into()), ..Layers::default() }).unwrap();
    assert!(demo.demo.is_some_and(|demo| demo.is_long()));
    assert!(demo.config.selector.backbone.is_some_and(|path| path.ends_with("data/tiny-mamba")));
    assert!(demo.config.model.path.is_some_and(|path| path.ends_with("data/tiny-scorer")));
    assert!(one_line(&plain("refocsu").unwrap_err()).contains("did you mean \"refocus\"?"));
}
