//! Perception and reasoning apart: one model says what it sees, another answers from its words alone (APPO,
//! arXiv 2602.23823, figure 2).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result};
use foveate_reward::RubricConfig;

use super::{Begun, said};
use crate::answer::{Candidate, Exam};
use crate::cli::EvalArgs;
use crate::config::{Config, prompts};
use crate::error::{existing, user_error};
use crate::eval::Item;
use crate::run::write_lines;

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
    kept: &mut Vec<Begun>,
) -> Result<Option<HashMap<String, String>>> {
    let describer = args.describe_with.as_deref().context("--describe-with is not given")?;
    existing("--describe-with", describer)?;
    prompts("--describe-prompt", &args.describe_prompt)?;
    let mut config = config.clone();
    config.data.prompt = args.describe_prompt.clone();
    config.eval.max_new_tokens = args.describe_tokens as usize;
    // A description is not judged: what these scorers say of it is not kept.
    config.reward = RubricConfig::default();
    let candidate = Candidate::load(describer, &config)?;
    let Some(items) = said(&candidate.examinee(describer, &config), exam, file, kept)? else { return Ok(None) };
    let unjudged = |item: Item| Item {
        given: String::new(),
        accuracy: f32::NAN,
        reward: f32::NAN,
        scores: BTreeMap::new(),
        ..item
    };
    let items: Vec<Item> = items.into_iter().map(unjudged).collect();
    write_lines(file, &items)?;
    Ok(Some(items.into_iter().map(|item| (item.id, item.completion)).collect()))
}

/// An error if two of the examples have one name, so that words could be taken for those of another.
pub(super) fn distinct(config: &Config, exam: &Exam<'_>) -> Result<()> {
    let records = config.data.test_records(exam.asked.file)?;
    let count = if config.eval.limit == 0 { records.len() } else { records.len().min(config.eval.limit) };
    let mut known = HashSet::new();
    for example in (0..count).filter_map(|index| records.get(index).ok()) {
        if let Some(twice) = known.replace(example.id) {
            return Err(user_error(format!("{}: two examples are called {twice:?}", exam.asked.file.display())));
        }
    }
    Ok(())
}
