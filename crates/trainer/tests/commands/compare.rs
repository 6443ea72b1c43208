//! Comparisons: what is trained, what is not trained again, and whether the report says what the runs' folders say.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use trainer::run::write_atomically;

use crate::setup::{STEPS, column, error, lines, metrics, program, root, run, shared, succeed, text, undisturbed};

/// A plan in a folder of its own.
struct Plan {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Plan {
    fn new(rows: &[(&str, &str, &[&str])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let mut plan = "name = \"mine\"\ntitle = \"Mine\"\ntext = \"Two of them.\"\n".to_owned();
        for (label, algo, set) in rows {
            plan += &format!("[[rows]]\nlabel = \"{label}\"\nalgo = \"{algo}\"\nset = {set:?}\n");
        }
        write_atomically(&path, plan.as_bytes()).unwrap();
        Self { folder, path }
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("runs")
    }

    fn args<'a>(&'a self, output: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let base = ["compare", text(&self.path), "--config", text(&shared().config), "--output", text(output)];
        [&base, more].concat()
    }
}

/// The cells of a row in the report's table of this headline.
fn cells(report: &str, table: &str, label: &str) -> Vec<String> {
    let section = report.split("## ").find(|section| section.starts_with(table)).unwrap();
    let start = format!("| {label} |");
    let line =
        section.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| unreachable!("{start}: {section}"));
    line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Accuracy in percent of an evaluation, of questions of that kind or of all.
fn accuracy(run: &Path, end: &str, kind: Option<&str>) -> f64 {
    let items = lines(&run.join(format!("eval/{end}.jsonl")));
    let of_kind = items.iter().filter(|item| kind.is_none_or(|kind| item["kind"] == kind));
    100.0 * mean(&of_kind.map(|item| item["accuracy"].as_f64().unwrap()).collect::<Vec<_>>())
}

/// A number of the attention to the event, of every answer of an evaluation whose event is known.
fn events(run: &Path, end: &str, of: &str) -> Vec<f64> {
    let items = lines(&run.join(format!("eval/{end}.jsonl")));
    items.iter().filter_map(|item| item["event"][of].as_f64()).collect()
}

#[test]
fn a_report_says_what_the_folders_of_its_runs_say_and_nothing_is_run_twice() {
    let plan = Plan::new(&[("GRPO", "grpo", &["algo.beta=0.0"]), ("T-GRPO, own", "t-grpo", &["algo.beta=0.1"])]);
    let (output, report) = (plan.output(), plan.folder.path().join("results/mine.md"));
    // As in the demo all rows are evaluated alike, whatever their papers do.
    let greedy = ["eval.temperature=0", "eval.top_p=1", "eval.top_k=0", "eval.repetition_penalty=1"];
    let set = ["run.steps=2", "optim.lr=2e-3", "eval.pixels.max=1024", "eval.frames.max=16"];
    let set = set.iter().chain(&greedy).flat_map(|setting| ["--set", setting]);
    let settings: Vec<_> = ["--seeds", "2", "--report", text(&report)].into_iter().chain(set).collect();
    let said = succeed(&plan.args(&output, &settings));
    let written = std::fs::read_to_string(&report).unwrap();
    assert!(said.contains(&written), "{said}");
    assert!(written.starts_with("# Mine\n\nTwo of them.\n\nMade by `cargo run -p trainer -- compare "), "{written}");
    assert!(
        written.contains("constant after 0 steps, weight decay 0") && written.contains(" (T-GRPO, own)\n"),
        "{written}"
    );
    assert!(written.contains("- steps: 2\n") && written.contains("(`run.seed`): 0, 1\n"), "{written}");

    let runs = ["grpo", "t-grpo-own"].map(|row| [0, 1].map(|seed| output.join(format!("{row}/seed-{seed}"))));
    let step_time =
        |runs: &[PathBuf]| mean(&runs.iter().map(|run| mean(&column(run, "step_time"))).collect::<Vec<_>>());
    for (label, runs, completions, extra) in [
        ("GRPO", &runs[0], "16", "none"),
        ("T-GRPO, own", &runs[1], "16 + 8", "reference log-probs + 2 contrast completions"),
    ] {
        let [before, after] =
            ["before", "after"].map(|end| runs.iter().map(|run| accuracy(run, end, None)).collect::<Vec<_>>());
        let half = 12.7062 * (after[0] - after[1]).abs() / 2.0; // Student's t, one degree of freedom
        let seconds = mean(&runs.iter().map(|run| column(run, "step_time").iter().sum()).collect::<Vec<_>>());
        let length = mean(&runs.iter().map(|run| column(run, "completions/mean_length")[1]).collect::<Vec<_>>());
        let (low, high) = ((mean(&after) - half).max(0.0), (mean(&after) + half).min(100.0));
        let expected = [
            label.to_owned(),
            format!("{:.1}", mean(&before)),
            format!("{:.1} ({low:.1} to {high:.1})", mean(&after)),
            format!("{:+.1}", mean(&after) - mean(&before)),
            format!("{:.1}, {:.1}", after[0], after[1]),
            format!("{seconds:.1}"),
            format!("{:.2}", step_time(runs) / step_time(&["grpo/seed-0", "grpo/seed-1"].map(|run| output.join(run)))),
            extra.to_owned(),
            completions.to_owned(),
            format!("{length:.1}"),
        ];
        assert_eq!(cells(&written, "Held-out accuracy", label), expected);

        let kinds = cells(&written, "By type of question", "");
        let found = cells(&written, "By type of question", label);
        for (kind, found) in kinds.iter().zip(&found).skip(1) {
            let expected = mean(&runs.iter().map(|run| accuracy(run, "after", Some(kind))).collect::<Vec<_>>());
            assert_eq!(*found, format!("{expected:.1}"), "{kind}");
        }
        let at = |name: &str, step: usize| mean(&runs.iter().map(|run| column(run, name)[step]).collect::<Vec<_>>());
        let event = |end: &str, of: &str| mean(&runs.iter().map(|run| mean(&events(run, end, of))).collect::<Vec<_>>());
        let found = cells(&written, "Attention on the event", label);
        assert_eq!(found[1], format!("{:.3}", event("before", "mass")));
        assert!(found[2].starts_with(&format!("{:.3} (", event("after", "mass"))), "{}", found[2]);
        assert_eq!(found[3..5], ["before", "after"].map(|end| format!("{:.3}", event(end, "auc"))));
        let uniform: f64 = found[5].parse().unwrap();
        assert!((0.125..0.5).contains(&uniform), "an event takes one of 8 frames or a few: {uniform}");
        let found = cells(&written, "Over training", label);
        assert_eq!(found[1..3], [0, 1].map(|step| format!("{:.3}", at("reward_std", step))));
        assert_eq!(found[5..7], [0, 1].map(|step| format!("{:.3}", at("entropy", step))));
    }

    // What training begins from is evaluated once, and a seed reads the same examples under both algorithms.
    let read = |run: &Path, file: &str| std::fs::read(run.join(file)).unwrap();
    assert!(runs.iter().flatten().all(|run| read(run, "eval/before.jsonl") == read(&runs[0][0], "eval/before.jsonl")));
    let evaluated: Vec<_> = runs.iter().flatten().filter(|run| run.with_extension("before.toml").exists()).collect();
    assert_eq!(evaluated, [&runs[0][0]]);
    let asked =
        |run: &Path| lines(&run.join("completions/step-2.jsonl")).iter().map(|l| l["id"].clone()).collect::<Vec<_>>();
    assert_eq!(asked(&runs[0][1]), asked(&runs[1][1]));
    assert_ne!(asked(&runs[0][1]), asked(&runs[0][0]));

    let logs = || runs.iter().flatten().map(|run| std::fs::read(run.join("run.log")).unwrap()).collect::<Vec<_>>();
    let before = logs();
    succeed(&plan.args(&output, &settings));
    assert!(logs() == before, "a finished run was run again");
    assert_eq!(std::fs::read_to_string(&report).unwrap(), written);
    let line = error(&plan.args(&output, &[&settings[..], &["--set", "run.steps=3"]].concat()), 2);
    assert!(line.contains("has run.steps = 2, not 3: take another --output"), "{line}");
}

#[test]
fn a_mistake_in_a_plan_is_told_before_anything_is_trained() {
    let refused = |plan: &Plan, more: &[&str]| {
        let line = error(&plan.args(&plan.output(), more), 2);
        assert!(!plan.output().exists(), "{line}");
        line
    };
    let line = refused(&Plan::new(&[("GRPO", "grpo", &[]), ("Mine", "apo", &[])]), &[]);
    assert!(line.ends_with("row \"Mine\": --algo: unknown algorithm \"apo\"; did you mean \"appo\"?"), "{line}");
    let line = refused(&Plan::new(&[("Mine", "appo", &["algo.k=1"])]), &[]);
    assert!(line.contains("row \"Mine\": --set algo.k=1: unknown key \"algo.k\"; did you mean \"algo.k"), "{line}");
    let line = refused(&Plan::new(&[("Mine", "grpo", &[])]), &["--set", "eval.at_ends=false"]);
    assert!(line.ends_with("a comparison needs data.test, and eval.at_ends = true"), "{line}");

    let plan = Plan::new(&[("Mine", "grpo", &[])]);
    let whole = std::fs::read_to_string(&plan.path).unwrap();
    write_atomically(&plan.path, whole.replace("label", "lable").as_bytes()).unwrap();
    let line = refused(&plan, &[]);
    assert!(line.ends_with("mine.toml: unknown key \"rows[0].lable\"; did you mean \"rows[0].label\"?"), "{line}");

    let missing = root().join("configs/ablations/appo-kk.toml");
    let line = error(&["compare", text(&missing)], 2);
    assert!(line.contains("is not there; did you mean appo-k?; known there: appo-k, appo-layers, "), "{line}");
}

#[test]
fn a_run_that_fails_is_named_with_its_reason_and_the_others_are_compared() {
    let plan = Plan::new(&[("GRPO", "grpo", &[]), ("No model", "grpo", &["model.path=/nonexistent/model"])]);
    let output = plan.output();
    let settings = ["--seeds", "1", "--set", "run.steps=1", "--set", "eval.limit=3", "--set", "algo.beta=0.0"];
    let failed = run(&plan.args(&output, &settings));
    let said = String::from_utf8(failed.stderr).unwrap();
    assert_eq!(failed.status.code(), Some(1), "{said}");
    let reason = "error: model.path: /nonexistent/model does not exist";
    assert!(said.ends_with(&format!("error: 1 of 2 runs failed, first No model, seed 0: {reason}\n")), "{said}");
    let report = std::fs::read_to_string(output.join("report.md")).unwrap();
    assert!(
        report.contains(&format!(
            "1 of 2 runs failed and are missing from all tables:**\n\n- No model, seed 0: `{reason}`"
        )),
        "{report}"
    );
    // Of one run: Wilson's interval, over 3 answers never the accuracy alone.
    assert!(cells(&report, "Held-out accuracy", "GRPO")[2].contains(" to "), "{report}");
    assert_eq!(cells(&report, "Held-out accuracy", "No model")[1..6], ["-"; 5]);
}

#[test]
fn a_comparison_that_is_stopped_goes_on_where_its_runs_were() {
    let plan = Plan::new(&[("APPO", "appo", &["algo.k1=4", "algo.k2=2", "algo.k3=6"])]);
    let (output, seeds) = (plan.output(), ["--seeds", "1"]);
    let path = output.join("appo/seed-0");
    let mut command = program(&plan.args(&output, &seeds));
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    let wait = |done: &dyn Fn() -> bool| {
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(120), "the run does not get on");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // While the run is being prepared, which takes longer than to be told so.
    wait(&|| path.with_extension("log").exists());
    let line = error(&plan.args(&output, &seeds), 2);
    assert!(line.contains("a comparison is under way there"), "{line}");
    wait(&|| std::fs::read_to_string(path.join("metrics.jsonl")).is_ok_and(|text| text.contains('\n')));
    let kill = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap();
    assert!(kill.success());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.ends_with("error: stopped with 0 of 1 runs finished; the same command goes on with them\n"), "{said}");
    let done = metrics(&path).len();
    assert!((1..STEPS as usize).contains(&done), "{done} steps");
    assert!(path.join(format!("checkpoints/step-{done}/state.json")).is_file(), "no checkpoint of step {done}");
    assert!(!output.join("report.md").exists());
    succeed(&plan.args(&output, &seeds));
    assert_eq!(metrics(&path), metrics(undisturbed()));
    assert!(output.join("report.md").is_file());
}
