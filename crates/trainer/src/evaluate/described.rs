//! Perception and reasoning apart: one model says what it sees, another answers from its words alone (APPO,
//! arXiv 2602.23823, figure 2).

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result};
use foveate_reward::RubricConfig;

use super::sit;
use crate::answer::{Candidate, Exam, Examinee};
use crate::begun::Begun;
use crate::cli::EvalArgs;
use crate::config::{Config, prompts};
use crate::data::first;
use crate::error::user_error;
use crate::eval::Item;
use crate::run::existing_model;

/// Has the model of `--describe-with` say what the media of every example show, kept in `file`: the words by the example's
/// name. `None` if it was stopped meanwhile.
///
/// # Errors
/// A user error: the model cannot be read, or a setting is wrong.
pub(super) fn describe(
    args: &EvalArgs,
    config: &Config,
    exam: &Exam<'_>,
    file: &Path,
    kept: &mut Vec<Begun<Item>>,
) -> Result<Option<HashMap<String, String>>> {
    let describer = args.describe_with.as_deref().context("--describe-with is not given")?;
    existing_model("--describe-with", describer)?;
    prompts("--describe-prompt", &args.describe_prompt)?;
    let mut config = config.clone();
    config.data.prompt = args.describe_prompt.clone();
    config.eval.max_new_tokens = args.describe_tokens as usize;
    config.reward = RubricConfig::default(); // a description is the same whatever answers earn: one that was begun goes on
    let candidate = Candidate::load(describer, &config)?;
    let examinee = Examinee { rubric: None, ..candidate.examinee(describer, &config) };
    let items = sit(&examinee, exam, file, kept)?;
    Ok(items.map(|items| items.into_iter().map(|item| (item.id, item.completion)).collect()))
}

/// An error if two of the examples have one name, so that words could be taken for those of another.
pub(super) fn distinct(config: &Config, exam: &Exam<'_>) -> Result<()> {
    let records = config.data.test_records(exam.asked.file)?;
    let mut known = HashSet::new();
    for example in (0..first(records.len(), config.eval.limit)).filter_map(|index| records.get(index).ok()) {
        if let Some(twice) = known.replace(example.id) {
            return Err(user_error(format!("{}: two examples are called {twice:?}", exam.asked.file.display())));
        }
    }
    Ok(())
}
