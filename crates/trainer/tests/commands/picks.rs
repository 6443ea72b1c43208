//! Frame selectors: training, resuming, picking, and policies that see what was picked.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use foveate_policy::read_safetensors;
use tch::Kind;

use crate::setup::{
    SAVE_EVERY, STEPS, assert_same_run, column, error, here, lines, program, root, run as run_of, shared, succeed,
    text, train, undisturbed,
};

/// Long scenes of few frames, and a run of refocus on them that nothing disturbed, its groups recorded.
struct Selected {
    folder: PathBuf,
    run: PathBuf,
}

impl Selected {
    fn selector(&self) -> PathBuf {
        self.run.join(format!("checkpoints/step-{STEPS}/policy"))
    }

    fn test(&self) -> PathBuf {
        self.folder.join("scenes/test.jsonl")
    }
}

fn selected() -> &'static Selected {
    static SELECTED: OnceLock<Selected> = OnceLock::new();
    SELECTED.get_or_init(|| {
        let folder = shared().scenes.with_file_name("picks");
        let scenes = folder.join("scenes");
        let sizes = ["--long", "24", "--train", "6", "--test", "4", "--seed", "3"];
        here(&[&["data", "scenes", "--output", text(&scenes)][..], &sizes].concat()).unwrap();
        let run = folder.join("run");
        let selected = Selected { folder, run };
        let said = succeed(&words(&selected.training(&selected.run, &[])));
        assert!(said.contains("held-out accuracy") && said.contains("frames at equal distances"), "{said}");
        selected
    })
}

/// The command line of such a run.
pub(crate) fn training(run: &Path, set: &[&str]) -> Vec<String> {
    selected().training(run, set)
}

impl Selected {
    /// The command line of a run.
    fn training(&self, run: &Path, set: &[&str]) -> Vec<String> {
        let file = |name: &str| self.folder.join("scenes").join(name).display().to_string();
        let settings = [
            format!("model.path={}", root().join("data/tiny-scorer").display()),
            format!("selector.backbone={}", root().join("data/tiny-mamba").display()),
            format!("data.train={}", file("train.jsonl")),
            format!("data.test={}", file("test.jsonl")),
            "selector.picks=[2,3]".into(),
            "rollout.completions=4".into(),
            "rollout.prompts_per_step=2".into(),
            "optim.updates_per_rollout=2".into(),
            "optim.minibatches=2".into(),
            format!("run.steps={STEPS}"),
            format!("run.save_every={SAVE_EVERY}"),
            "run.keep=0".into(),
            format!("run.save_rollouts={STEPS}"),
            "model.threads=1".into(),
        ];
        let demo = root().join("configs/demo/refocus.toml");
        let base = self.folder.join("base.toml");
        if !base.exists() {
            // The demo's settings without the demo: base and own.
            let both = [root().join("configs/demo/base.toml"), demo].map(|file| std::fs::read_to_string(file).unwrap());
            trainer::run::write_atomically(&base, merged(&both).as_bytes()).unwrap();
        }
        let mut args: Vec<String> =
            ["--algo", "refocus", "--config", text(&base), "--output", text(run)].map(str::to_owned).into();
        for setting in settings.into_iter().chain(set.iter().map(|setting| (*setting).to_owned())) {
            args.extend(["--set".to_owned(), setting]);
        }
        args
    }
}

/// TOML files put together, later ones winning, table by table.
fn merged(texts: &[String; 2]) -> String {
    let [mut base, own] = texts.each_ref().map(|text| text.parse::<toml::Table>().unwrap());
    for (name, table) in own {
        match (base.get_mut(&name).and_then(toml::Value::as_table_mut), table) {
            (Some(known), toml::Value::Table(table)) => known.extend(table),
            (_, table) => drop(base.insert(name, table)),
        }
    }
    toml::to_string(&base).unwrap()
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn a_selector_trains_by_its_curriculum_and_says_what_it_does() {
    let run = &selected().run;
    assert_eq!(column(run, "refocus/picks"), [2.0, 2.0, 2.0, 3.0, 3.0, 3.0]);
    assert_eq!(column(run, "refocus/candidates"), [24.0; STEPS as usize]);
    assert!(column(run, "sampling/logp_difference_mean").iter().all(|gap| *gap < 1e-5));
    assert!(column(run, "grad_norm").iter().all(|norm| *norm > 0.0));
    // At most ln 24, the less the more are taken.
    assert!(column(run, "entropy").iter().all(|entropy| (0.0..24.0_f64.ln()).contains(entropy)));
    for line in lines(&run.join(format!("completions/step-{STEPS}.jsonl"))) {
        let mut picks: Vec<u64> = line["picks"].as_array().unwrap().iter().map(|pick| pick.as_u64().unwrap()).collect();
        picks.sort_unstable();
        picks.dedup();
        assert_eq!(picks.len(), 3, "no frame twice: {line:?}");
        assert!(line["reward"].as_f64().unwrap().abs() <= 1.0);
    }
}

#[test]
fn what_training_recorded_is_what_explain_reads() {
    let selected = selected();
    let kept = lines(&selected.run.join(format!("completions/step-{STEPS}.jsonl")));
    let output = selected.folder.join("explained.safetensors");
    for group in 0..2 {
        let recorded = selected.run.join(format!("rollouts/step-{STEPS}/group-{group}.safetensors"));
        let config = selected.run.join("config.toml");
        let files = ["--rollouts", text(&recorded), "--config", text(&config), "--output", text(&output)];
        here(&[&["explain", "--algo", "refocus"][..], &files].concat()).unwrap();
        let found = read_safetensors(&output).unwrap();
        let of_group = kept.iter().filter(|line| line["group"] == group);
        let expected: Vec<f64> = of_group.map(|line| line["advantage"].as_f64().unwrap()).collect();
        let advantages = Vec::<f64>::try_from(found["advantages"].to_kind(Kind::Double)).unwrap();
        assert!(advantages.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{advantages:?}, {expected:?}");
        assert!(found["entropy"].max().double_value(&[]) <= 24.0_f64.ln() + 1e-6);
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_one_gone_on_with_is_the_undisturbed_one() {
    let selected = selected();
    let again = selected.folder.join("again");
    succeed(&words(&selected.training(&again, &[])));
    assert_same_run(&again, &selected.run);
    for step in [SAVE_EVERY * 2, STEPS] {
        std::fs::remove_dir_all(again.join(format!("checkpoints/step-{step}"))).unwrap();
    }
    std::fs::remove_file(again.join("eval/after.jsonl")).unwrap();
    succeed(&["--resume", text(&again)]);
    assert_same_run(&again, &selected.run);
}

#[test]
fn frames_are_picked_and_shown() {
    let selected = selected();
    let record = &lines(&selected.test())[0];
    let video = selected.folder.join("scenes").join(record["video"].as_str().unwrap());
    let (selector, output) = (selected.selector(), selected.folder.join("picked"));
    let asked = ["--question", record["question"].as_str().unwrap(), "--options", "A.red", "B.blue"];
    let files = ["select", "--model", text(&selector), "--video", text(&video)];
    let said = succeed(&[&files[..], &asked, &["--frames", "5", "--sets", "8", "--output", text(&output)]].concat());
    assert!(said.contains("probability") && said.contains("sheet.png"), "{said}");
    let table = std::fs::read_to_string(output.join("picks.csv")).unwrap();
    let mut frames: Vec<usize> =
        table.lines().skip(1).map(|row| row.split(',').nth(1).unwrap().parse().unwrap()).collect();
    frames.sort_unstable();
    frames.dedup();
    assert!(frames.len() == 5 && frames.iter().all(|frame| *frame < 24), "{frames:?}");
    let sheet = image::open(output.join("sheet.png")).unwrap();
    assert!(sheet.width() > 1000 && sheet.height() > 200);
    // More than there are: all of them.
    let all = succeed(&[&files[..], &asked, &["--frames", "99"]].concat());
    assert_eq!(all.lines().filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit())).count(), 24);
    let model = root().join("data/tiny-vlm");
    let other = ["select", "--model", text(&model), "--video", text(&video), "--question", "what ?"];
    assert!(error(&other, 2).contains("expected a frame selector"));
}

#[test]
fn a_policy_answers_and_trains_on_picked_frames() {
    let selected = selected();
    let (selector, test) = (selected.selector(), selected.test());
    let shared = shared();
    let output = selected.folder.join("items.jsonl");
    let base = ["eval", "--model", text(&shared.model), "--config", text(&shared.config), "--data", text(&test)];
    let picked = ["--frames-from", text(&selector), "--frames", "6", "--output", text(&output)];
    let said = succeed(&[&base[..], &picked].concat());
    assert!(said.contains("frames 6 picked by"), "{said}");
    let items = lines(&output);
    assert_eq!(items.len(), 6, "eval.limit");
    assert!(items.iter().all(|item| item["shapes"][0][0] == 6), "{:?}", items[0]);
    let missing = ["--frames-from", "/no/such", "--output", text(&output)];
    assert!(error(&[&base[..], &missing].concat(), 2).contains("frames.from: /no/such does not exist"));

    let run = selected.folder.join("on-picks");
    let from = format!("data.frames.from={}", selector.display());
    let examples = format!("data.train={}", selected.folder.join("scenes/train.jsonl").display());
    let set = ["data.frames.picks=4", "run.steps=2", "eval.at_ends=false"];
    let set = [&set[..], &[&from[..], &examples]].concat();
    succeed(&train("grpo", &run, &set).args());
    assert_eq!(column(&run, "prompts/mean_frames"), [2.0, 2.0], "two temporal grids of two frames");
}

#[test]
fn a_question_that_cannot_be_rewarded_or_put_is_passed_over() {
    let selected = selected();
    let scenes = selected.folder.join("scenes");
    let mut records = lines(&scenes.join("train.jsonl"));
    records.truncate(4);
    records[0].insert("answer".into(), "A,B".into()); // no margin
    records[1].insert("question".into(), "what ? ".repeat(3000).into()); // longer than the models
    let file = scenes.join("bad.jsonl");
    trainer::run::write_lines(&file, &records).unwrap();
    let (run, train) = (selected.folder.join("bad"), format!("data.train={}", file.display()));
    let set = [&train, "run.steps=3", "eval.at_ends=false"];
    succeed(&words(&selected.training(&run, &set)));
    assert_eq!(column(&run, "data/skipped_total").last(), Some(&1.0));
    assert!(column(&run, "data/left_out").iter().sum::<f64>() > 0.0);
    let stopped =
        selected.training(&selected.folder.join("stopped"), &[&set[..], &["data.on_bad_example=stop"]].concat());
    assert!(!run_of(&words(&stopped)).status.success());
}

#[test]
fn studies_are_put_into_a_page() {
    let selected = selected();
    let page = selected.folder.join("results.md");
    let study = |name: &str, more: &[&str]| {
        succeed(&[&["study", name, text(&selected.run), "--report", text(&page)][..], more].concat())
    };
    assert!(study("gate", &[]).contains("one of the event"));
    study("accuracy", &["--picks", "2,4"]);
    study("needle", &["--lengths", "16,24", "--depths", "0,1", "--count", "2"]);
    study("likelihood", &["--sets", "8"]);
    study("spread", &[]);
    study("questions", &["--sets", "8"]);
    study("accuracy", &["--picks", "3"]);
    let written = std::fs::read_to_string(&page).unwrap();
    assert_eq!(written.matches("\n## ").count(), 6, "{written}");
    assert!(written.contains("| 3 |") && !written.contains("| 2 | "), "{written}");
    assert!(error(&["study", "gate", text(&selected.run), "--step", "5"], 2).contains("steps 2, 4, 6"));
    for picture in ["needle-picked", "needle-uniform", "likelihood", "spread"] {
        assert!(selected.folder.join(format!("results-{picture}.png")).is_file(), "{picture}");
    }
}

#[test]
fn what_cannot_be_picked_from_is_an_error() {
    let selected = selected();
    let run = selected.folder.join("wrong");
    let wrong = |set: &[&str]| error(&words(&selected.training(&run, set)), 2);
    assert!(wrong(&["selector.picks=[]"]).contains("selector.picks"));
    assert!(wrong(&["selector.backbone=/no/such"]).contains("selector.backbone: /no/such does not exist"));
    let selector = format!("model.path={}", selected.selector().display());
    assert!(wrong(&[&selector]).contains("scorer.path"));
    assert!(error(&["analyze", text(&selected.run)], 2).contains("trainer study"));
    assert!(wrong(&["scorer.prompt=scnes"]).contains("did you mean scenes?"));
    assert!(!run.exists(), "what cannot start leaves no folder behind");
    let tokens = undisturbed();
    assert!(error(&["study", "gate", text(tokens)], 2).contains("expected a run of refocus"));
    let dry = program(&[&words(&selected.training(&run, &[]))[..], &["--dry-run"]].concat()).output().unwrap();
    let said = String::from_utf8(dry.stdout).unwrap();
    assert!(said.contains("6 steps of 2 questions x 4 sets of 2, then 3 frames"), "{said}");
}
