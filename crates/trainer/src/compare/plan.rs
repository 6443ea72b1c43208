//! A plan: what a comparison trains, a row each.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::Deserialize;

use crate::config::read_toml;
use crate::error::{nearest, user_error};

/// What a comparison trains.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// What its folder is called after.
    pub(super) name: String,
    /// Headline of the report.
    pub(super) title: String,
    /// What it is about, as Markdown.
    #[serde(default)]
    pub(super) text: String,
    /// What is trained; times are relative to the first row's.
    pub(super) rows: Vec<Row>,
}

/// What is trained with each seed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// What the report calls it.
    pub(super) label: String,
    /// `--algo`.
    pub(super) algo: String,
    /// Each `--set`.
    #[serde(default)]
    pub(super) set: Vec<String>,
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// A user error: no such file, an unknown or missing key, no rows, or two rows whose folders would be one.
    pub(super) fn read(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Err(unknown(path));
        }
        let plan: Self = read_toml("plan", path)?;
        let source = path.display();
        if plan.rows.is_empty() {
            return Err(user_error(format!("{source}: expected at least one of [[rows]], found none")));
        }
        if plan.slug().is_empty() {
            return Err(user_error(format!("{source}: name must have a letter or a digit, found \"{}\"", plan.name)));
        }
        let mut folders = BTreeMap::new();
        for Row { label, .. } in &plan.rows {
            let folder = slug(label);
            if folder.is_empty() {
                return Err(user_error(format!("{source}: a label must have a letter or a digit, found \"{label}\"")));
            }
            if let Some(other) = folders.insert(folder, label) {
                return Err(user_error(format!("{source}: the labels \"{other}\" and \"{label}\" are too much alike")));
            }
        }
        Ok(plan)
    }

    /// The name as part of a folder's.
    pub(super) fn slug(&self) -> String {
        slug(&self.name)
    }
}

impl Row {
    /// The label as a folder's name.
    pub(super) fn slug(&self) -> String {
        slug(&self.label)
    }
}

/// Letters and digits in lower case and dots between digits; what stands between is one `-`. (`T 0.5, G 4`: `t-0.5-g-4`.)
fn slug(text: &str) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { ' ' };
    let words: String = text.chars().map(kept).collect();
    let words = words.split_whitespace().map(|word| word.trim_matches('.')).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// The error for a plan that is not there, with those that are.
fn unknown(path: &Path) -> anyhow::Error {
    let folder = if path.is_dir() { Some(path) } else { path.parent() };
    let listing = folder.and_then(|folder| std::fs::read_dir(folder).ok());
    let files = listing.into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut known: Vec<_> = files.filter_map(|file| Some(file.to_str()?.strip_suffix(".toml")?.to_owned())).collect();
    known.sort();
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let hint = nearest(&name, known.iter().map(String::as_str)).map(|near| format!("; did you mean {near}?"));
    let known = if known.is_empty() { String::new() } else { format!("; known there: {}", known.join(", ")) };
    user_error(format!("plan: {} is not there{}{known}", path.display(), hint.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Demo, Layers, resolve};
    use crate::error::one_line;
    use crate::run::write_atomically;

    fn refused(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.toml");
        write_atomically(&path, text.as_bytes()).unwrap();
        one_line(&Plan::read(&path).unwrap_err())
    }

    #[test]
    fn labels_become_folders() {
        assert_eq!(slug("T-GRPO (released)"), "t-grpo-released");
        assert_eq!(slug("G 8, T 0.5."), "g-8-t-0.5");
        assert_eq!(slug("../.."), "");
    }

    #[test]
    fn a_plan_without_rows_and_labels_that_share_a_folder_are_refused() {
        let head = "name = \"n\"\ntitle = \"t\"\n";
        assert!(refused(&format!("{head}rows = []")).ends_with("expected at least one of [[rows]], found none"));
        let row = |label| format!("[[rows]]\nlabel = \"{label}\"\nalgo = \"grpo\"\n");
        let line = refused(&format!("{head}{}{}", row("K1 4"), row("k1, 4")));
        assert!(line.ends_with("the labels \"K1 4\" and \"k1, 4\" are too much alike"), "{line}");
        assert!(refused(&format!("{head}{}", row("-"))).contains("must have a letter or a digit"));
        assert!(refused(&format!("{head}[[rows]]\nalgo = \"grpo\"")).contains("missing field `label`"));
    }

    #[test]
    fn every_row_of_every_plan_of_the_checkout_can_be_trained_and_is_evaluated_alike() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let mut plans = 0;
        for folder in ["compare", "ablations"] {
            for entry in fs_err::read_dir(configs.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                let plan = Plan::read(&path).unwrap();
                assert_eq!(Some(plan.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
                let mut first = None;
                for row in &plan.rows {
                    let layers = Layers { algo: Some(row.algo.clone()), config: None, set: row.set.clone() };
                    let config = resolve(&layers).unwrap_or_else(|error| unreachable!("{path:?}: {error:#}")).config;
                    assert!(Demo::find(false).unwrap().trains(&config), "{path:?}: {}", row.label);
                    let first = first.get_or_insert_with(|| config.clone());
                    assert_eq!(config.eval, first.eval, "{path:?}: {}", row.label);
                    assert_eq!((&config.model, &config.data), (&first.model, &first.data), "{path:?}: {}", row.label);
                }
                plans += 1;
            }
        }
        assert!(plans >= 11, "{plans} plans");
    }
}
