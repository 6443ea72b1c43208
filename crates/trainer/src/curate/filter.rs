//! `trainer data filter`: which records are worth training on.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use foveate_data::{Example, Medium};

use super::{named, records, rewrite::rewrite, words};
use crate::cli::{Criterion, FilterArgs};
use crate::difficulty::Difficulty;
use crate::error::{UserContext, user_error};
use crate::frame_sets::Sensitivity;
use crate::run::Stop;

/// Writes the records that are kept.
///
/// # Errors
/// A user error: the records cannot be read, or what the criterion needs is not given; or the file cannot be written.
pub fn run(args: &FilterArgs) -> Result<()> {
    let records = Arc::new(records(&args.source)?);
    let counts = match args.by {
        Criterion::Duplicates => {
            let mut seen = HashSet::new();
            rewrite(&records, &args.output, |_, example| seen.insert(asked(&example)).then_some(example))?
        }
        Criterion::Length => {
            let (least, most) = (args.min_words, args.max_words);
            if least > most {
                return Err(user_error(format!("--min-words {least} is above --max-words {most}")));
            }
            rewrite(&records, &args.output, |_, example| (least..=most).contains(&words(&example)).then_some(example))?
        }
        Criterion::Kind => {
            if args.kinds.is_empty() {
                return Err(user_error("--kind is needed: which ones? `data inspect` lists them"));
            }
            rewrite(&records, &args.output, |_, example| args.kinds.contains(&example.kind).then_some(example))?
        }
        Criterion::Difficulty => {
            let model = model(args)?;
            let Some(solved) = Difficulty::measure(&records, model, args, &Stop::listen()?)? else { return Ok(()) };
            let counts = rewrite(&records, &args.output, |record, example| solved.keeps(record).then_some(example))?;
            solved.done()?;
            counts
        }
        Criterion::FrameSensitivity => {
            let beside = || args.output.with_extension("margins.jsonl");
            let margins = args.margins.clone().unwrap_or_else(beside);
            let Some(seen) = Sensitivity::measure(&records, model(args)?, &margins, args, &Stop::listen()?)? else {
                return Ok(());
            };
            println!("margins in {}", margins.display());
            let counts = rewrite(&records, &args.output, |record, example| seen.keeps(record).then_some(example))?;
            seen.done()?;
            counts
        }
    };
    println!("{counts} in {}", args.output.display());
    named(&records);
    Ok(())
}

/// The model that judges.
fn model(args: &FilterArgs) -> Result<&Path> {
    args.model.as_deref().context("--model is needed: by whose answers?").user()
}

/// What two records must share to ask the same: what is shown, question and options, whatever their letter case and blanks.
fn asked(example: &Example) -> u64 {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let mut options: Vec<String> = example.options.iter().map(|option| plain(option)).collect();
    options.sort();
    let mut hasher = DefaultHasher::new();
    (plain(&example.question), options, &example.description).hash(&mut hasher);
    for medium in &example.media {
        medium.path().hash(&mut hasher);
        if let Medium::Video { clip, .. } = medium {
            clip.map(|ends| ends.map(f64::to_bits)).hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_ask_the_same_if_only_blanks_case_and_order_of_options_differ() {
        let example = |question: &str, options: &[&str]| Example {
            question: question.into(),
            options: options.iter().map(|text| (*text).into()).collect(),
            ..Example::default()
        };
        let first = asked(&example("What falls?", &["a cup", "a book"]));
        assert_eq!(first, asked(&example(" what  FALLS?", &["A book", "a cup"])));
        assert_ne!(first, asked(&example("What falls?", &["a cup"])));
        assert_ne!(first, asked(&example("What rises?", &["a cup", "a book"])));
        let part = |end: f64| {
            let media = vec![Medium::Video { path: "a.mp4".into(), clip: Some([1.0, end]) }];
            asked(&Example { media, ..example("What falls?", &[]) })
        };
        assert_ne!(part(2.0), part(3.0));
        assert_eq!(words(&example("What falls?", &["a cup", "a book"])), 6);
    }
}
