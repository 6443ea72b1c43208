//! `trainer data convert`, `invert`, `filter` and `inspect`: what is done to files of records before anything is trained.

mod filter;
mod inspect;
mod probe;
mod rewrite;

use anyhow::Result;
use foveate_data::{Example, Inversion, Records};

use crate::cli::{ConvertArgs, InvertArgs, SourceArgs};
use crate::error::{UserContext, existing};

pub use filter::run as filter;
pub use inspect::run as inspect;

/// Opens the records that a command is about.
fn records(source: &SourceArgs) -> Result<Records> {
    existing("--input", &source.input)?;
    Records::open(&source.input, source.format, source.media_root.as_deref()).user()
}

/// Words of question and options.
fn words(example: &Example) -> usize {
    let texts = example.options.iter().chain([&example.question]);
    texts.map(|text| text.split_whitespace().count()).sum()
}

/// Says where the media of what was written lie.
fn named(records: &Records) {
    println!("media are named relative to {0}: data.media_root={0}", records.media_root().display());
}

/// Writes a data set as foveate's own records.
///
/// # Errors
/// A user error: the records cannot be read; or the file cannot be written.
pub fn convert(args: &ConvertArgs) -> Result<()> {
    let records = records(&args.source)?;
    let counts = rewrite::rewrite(&records, &args.output, |_, example| Some(example))?;
    println!("{counts} in {}", args.output.display());
    named(&records);
    Ok(())
}

/// Negates questions and inverts their answers.
///
/// # Errors
/// A user error: the records cannot be read, or the probability is none; or the file cannot be written.
pub fn invert(args: &InvertArgs) -> Result<()> {
    let records = records(&args.source)?;
    let inversion =
        Inversion { style: args.style, probability: args.probability, as_released: args.as_released, seed: args.seed };
    let mut negated = 0;
    let counts = rewrite::rewrite(&records, &args.output, |number, example: Example| {
        let example = inversion.apply(example, number as u64);
        negated += usize::from(example.negated == Some(true));
        Some(example)
    })?;
    println!("{counts}, {negated} of them inverted, in {}", args.output.display());
    named(&records);
    Ok(())
}
