//! `trainer eval`: the accuracy of a policy on a file of questions.

mod begun;
mod paired;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use foveate_policy::{LoadOptions, TextProcessor, Trainable, Vlm};
use foveate_reward::Rubric;

use crate::answer::{Exam, Examinee, answered};
use crate::cli::{Ablation, EvalArgs};
use crate::config::{Config, resolve_plain};
use crate::error::{UserContext, existing};
use crate::eval::{Item, event, read_items, table, write_items};
use crate::run::Stop;
use crate::train::load_options;
use begun::Begun;

/// Answers a file of examples, prints the table and keeps every answer; or compares two such files.
///
/// # Errors
/// A user error: the model or the examples cannot be read, or a setting is wrong; or the items cannot be written.
pub fn run(args: &EvalArgs) -> Result<()> {
    if let Some([before, after]) = args.compare.as_deref() {
        existing("--compare", before)?;
        existing("--compare", after)?;
        let (before, after) = (read_items(before).user()?, read_items(after).user()?);
        print!("{}", paired::table(&before, &after).user()?);
        return Ok(());
    }
    let (Some(model), Some(output)) = (&args.model, &args.output) else {
        return Err(anyhow::anyhow!("--model and --output are needed")).user();
    };
    let mut config = resolve_plain(&args.settings.layers(None))?;
    config.data.test_format = args.benchmark.or(config.data.test_format);
    existing("--model", model)?;
    let file = args.data.as_deref().or(config.data.test.as_deref());
    let file = file.context("which examples? name them by --data or data.test").user()?.to_owned();
    existing("--data", &file)?;
    let options = LoadOptions { trainable: Trainable::Nothing, ..load_options(&config)? };
    let policy = Vlm::load(model, &options).user()?;
    let text = Arc::new(TextProcessor::load(model).user()?);
    let rubric = Rubric::new(config.reward.clone()).user()?;
    let examinee = Examinee { policy: &policy, dir: model, text: &text, rubric: &rubric, config: &config };

    println!("{}", protocol(&config));
    let stop = Stop::listen()?;
    let Some(whole) = sit(&examinee, &file, None, output, &stop)? else { return Ok(()) };
    print!("{}", table(&whole));
    if let Some(event) = event(&whole) {
        println!("attention on the event's frames: {:.3}, {:.3} if it were uniform", event.mass, event.uniform);
    }
    if let Some(ablation) = args.ablate {
        let word = word(ablation);
        let path = output.with_extension(format!("{word}.jsonl"));
        let Some(less) = sit(&examinee, &file, Some(ablation), &path, &stop)? else { return Ok(()) };
        println!("\nwhat the media are worth (before: {word}; after: as they are)");
        print!("{}", paired::table(&less, &whole).user()?);
    }
    Ok(())
}

/// Answers the file, from where an earlier evaluation was stopped; `None` if this one is stopped too.
fn sit(
    examinee: &Examinee<'_>,
    file: &Path,
    ablation: Option<Ablation>,
    output: &Path,
    stop: &Stop,
) -> Result<Option<Vec<Item>>> {
    let asked = asked(examinee, file, ablation);
    let mut begun = Begun::open(&partial(output), &asked)?;
    let exam = Exam { file, ablation, stop };
    let answers = examinee.answer(&exam, &mut begun, &answered())?;
    if stop.requested() {
        println!("stopped after {} answers; the same command goes on from there", answers.items.len());
        return Ok(None);
    }
    if !answers.bad.is_empty() {
        println!("{} examples could not be read and are left out", answers.bad.len());
    }
    write_items(output, &answers.items)?;
    begun.remove()?;
    Ok(Some(answers.items))
}

/// What two evaluations must share for one to go on with the other's answers.
fn asked(examinee: &Examinee<'_>, file: &Path, ablation: Option<Ablation>) -> String {
    let config = examinee.config;
    let ablated = ablation.map_or("", word);
    let (data, reward) = (&config.data, &config.reward);
    format!(
        "{} | {} | {:?} | {} | {} | {} | {reward:?} | {ablated}",
        examinee.dir.display(),
        file.display(),
        data.test_format.unwrap_or(data.format),
        data.prompt,
        config.run.seed,
        protocol(config)
    )
}

fn word(ablation: Ablation) -> &'static str {
    match ablation {
        Ablation::Blind => "blind",
        Ablation::Shuffle => "shuffle",
        Ablation::FirstFrame => "first-frame",
        Ablation::OtherVideo => "other-video",
    }
}

fn partial(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Frames, pixels and sampling of an evaluation on one line: without them no two accuracies can be compared.
pub fn protocol(config: &Config) -> String {
    let eval = &config.eval;
    let budget = eval.pixels.budget();
    format!(
        "frames {:?}, {} to {} pixels per frame, temperature {}, top-p {}, top-k {}, repetition penalty {}",
        eval.frames.sampling(),
        budget.min_pixels,
        budget.max_pixels,
        eval.temperature,
        eval.top_p,
        eval.top_k,
        eval.repetition_penalty
    )
}
