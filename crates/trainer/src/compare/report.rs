//! The report of a comparison, in Markdown.

use std::env;
use std::path::Path;
use std::thread::available_parallelism;

use anyhow::Result;

use super::outcome::Outcome;
use super::plan::Plan;
use super::tables::{accuracy, attention, curves, kinds};
use crate::cli::CompareArgs;
use crate::config::Config;
use crate::evaluate::protocol;

/// A run that did not come to its end.
#[derive(Debug)]
pub(super) struct Failure {
    /// Its name.
    pub(super) run: String,
    /// The last line that it printed.
    pub(super) reason: String,
}

/// What a report is made of.
#[derive(Debug)]
pub(super) struct Report<'a> {
    /// What was to be trained.
    pub(super) plan: &'a Plan,
    /// The command line.
    pub(super) args: &'a CompareArgs,
    /// The settings of each row, with its first seed.
    pub(super) configs: Vec<&'a Config>,
    /// The finished runs of each row.
    pub(super) rows: Vec<Vec<Outcome>>,
    /// The runs that failed.
    pub(super) failures: &'a [Failure],
}

impl Report<'_> {
    /// The report.
    ///
    /// # Errors
    /// A run's algorithm cannot be made from its settings.
    pub(super) fn text(&self) -> Result<String> {
        let mut parts = vec![format!("# {}", self.plan.title)];
        parts.extend(Some(self.plan.text.trim().to_owned()).filter(|text| !text.is_empty()));
        parts.push(format!("Made by `{}`.", command(self.args)));
        parts.extend(self.failed());
        parts.push(self.trained());
        let labelled: Vec<(&str, &[Outcome])> =
            self.plan.rows.iter().map(|row| row.label.as_str()).zip(self.rows.iter().map(Vec::as_slice)).collect();
        if self.rows.iter().any(|row| !row.is_empty()) {
            parts.push(accuracy(&labelled)?);
            parts.push(kinds(&labelled));
            parts.extend(attention(&labelled));
            parts.push(curves(&labelled));
        }
        Ok(parts.join("\n\n") + "\n")
    }

    /// A setting of all rows; where they differ, every value with the rows that have it.
    fn all(&self, of: &dyn Fn(&Config) -> String) -> String {
        let mut values: Vec<(String, Vec<&str>)> = Vec::new();
        for (row, config) in self.plan.rows.iter().zip(&self.configs) {
            let value = of(config);
            match values.iter_mut().find(|(known, _)| *known == value) {
                Some((_, labels)) => labels.push(&row.label),
                None => values.push((value, vec![&row.label])),
            }
        }
        match values.as_slice() {
            [(value, _)] => value.clone(),
            _ => values
                .iter()
                .map(|(value, labels)| format!("{value} ({})", labels.join(", ")))
                .collect::<Vec<_>>()
                .join("; "),
        }
    }

    /// The runs that are missing from the tables.
    fn failed(&self) -> Option<String> {
        let lines = self.failures.iter().map(|failure| format!("- {}: `{}`", failure.run, failure.reason));
        let lines: Vec<String> = lines.collect();
        let all = self.configs.len() as u64 * self.args.seeds;
        let head = format!("**{} of {all} runs failed and are missing from all tables:**", lines.len());
        (!lines.is_empty()).then(|| format!("{head}\n\n{}", lines.join("\n")))
    }

    fn trained(&self) -> String {
        let file = |path: &Option<std::path::PathBuf>| path.as_deref().map_or_else(|| "none".to_owned(), shortened);
        let held_out = |config: &Config| match config.eval.limit {
            0 => format!("`{}`, all of it", file(&config.data.test)),
            limit => format!("`{}`, at most the first {limit}", file(&config.data.test)),
        };
        let sampled = |config: &Config| {
            let rollout = &config.rollout;
            format!(
                "{} prompts x {} completions of at most {} tokens, temperature {}",
                rollout.prompts_per_step, rollout.completions, rollout.max_new_tokens, rollout.temperature
            )
        };
        let answers = |config: &Config| format!("{}, at most {} tokens", protocol(config), config.eval_tokens());
        let all = |of: &dyn Fn(&Config) -> String| self.all(of);
        let seeds: Vec<String> = (0..self.args.seeds).map(|seed| seed.to_string()).collect();
        let threads = all(&|config| config.model.threads.to_string());
        let cores = available_parallelism().map_or_else(|_| "unknown".to_owned(), |cores| cores.to_string());
        let lines = [
            format!("model: {}", all(&|config| format!("`{}`", file(&config.model.path)))),
            format!("trained on: {}", all(&|config| format!("`{}`", file(&config.data.train)))),
            format!("held out: {}", all(&held_out)),
            format!("held-out answers: {}", all(&answers)),
            format!("steps: {}", all(&|config| config.run.steps.to_string())),
            format!("each step trains on: {}", all(&sampled)),
            format!("optimizer: {}", all(&optimizer)),
            format!("seeds (`run.seed`): {}", seeds.join(", ")),
            format!("machine: {cores} CPU cores, {} runs side by side, threads of a run: {threads}", self.args.jobs),
        ];
        format!(
            "## What was trained\n\n- {}\n\n\
            Every row starts from the same model. The order of the examples and all random numbers follow from \
            `run.seed`: with the same seed all rows read the same examples in the same order, and train on the same \
            number of completions a step unless the list above has more than one number. A row that drops groups \
            (refills) reads on further instead, and trains on fewer where it runs out of refills. Settings of a row: \
            the plan, and `config.toml` in the folder of each run.",
            lines.join("\n- ")
        )
    }
}

/// What a step of the optimizer depends on.
fn optimizer(config: &Config) -> String {
    let optim = &config.optim;
    format!(
        "learning rate {:e}, {:?} after {} steps, weight decay {}, gradient norm at most {}",
        optim.lr, optim.schedule, optim.warmup_steps, optim.weight_decay, optim.grad_clip
    )
    .to_lowercase()
}

/// The command line, from the root of a checkout.
fn command(args: &CompareArgs) -> String {
    let mut words = vec!["cargo run -p trainer -- compare".to_owned(), quoted(&args.plan.display().to_string())];
    let mut option = |name: &str, value: String| words.push(format!("{name} {}", quoted(&value)));
    option("--seeds", args.seeds.to_string());
    option("--jobs", args.jobs.to_string());
    let paths = [("--config", &args.settings.config), ("--output", &args.output), ("--report", &args.report)];
    for (name, path) in paths {
        path.iter().for_each(|path| option(name, path.display().to_string()));
    }
    args.settings.set.iter().for_each(|set| option("--set", set.clone()));
    words.join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// The path as seen from the current folder, if it is in there.
fn shortened(path: &Path) -> String {
    let here = env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_a_shell_needs_it() {
        assert_eq!(quoted("algo.k3=6"), "algo.k3=6");
        assert_eq!(quoted("algo.signals=[\"it's\"]"), "'algo.signals=[\"it'\\''s\"]'");
    }

    #[test]
    fn paths_are_told_as_from_here() {
        let here = env::current_dir().unwrap();
        assert_eq!(shortened(&here.join("data/tiny-vlm")), "data/tiny-vlm");
        assert_eq!(shortened(Path::new("/elsewhere/model")), "/elsewhere/model");
    }
}
