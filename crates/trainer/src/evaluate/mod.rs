//! `trainer eval`: the accuracy of a policy on a file of questions.

mod described;
mod paired;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use foveate_data::Format;

use crate::answer::{Candidate, Exam, Examinee};
use crate::begun::{Begun, file_state, records_state, weights_state};
use crate::cli::{Ablation, EvalArgs};
use crate::config::{Config, resolve_plain};
use crate::data::Asked;
use crate::error::{UserContext, existing, user_error};
use crate::eval::{Item, event, read_items, table};
use crate::run::{Stop, existing_model, write_lines};

/// Answers a file of examples, prints the table and keeps every answer; or compares two such files.
///
/// # Errors
/// A user error: the model or the examples cannot be read, or a setting is wrong; or the items cannot be written.
pub fn run(args: &EvalArgs) -> Result<()> {
    if let Some([before, after]) = args.compare.as_deref() {
        existing("--compare", before)?;
        existing("--compare", after)?;
        let read = |path| -> Result<_> {
            let items = read_items(path).user()?;
            paired::by_id(&items).with_context(|| path.display().to_string()).user()?;
            Ok(items)
        };
        print!("{}", paired::table(&read(before)?, &read(after)?).user()?);
        return Ok(());
    }
    let (Some(model), Some(output)) = (&args.model, &args.output) else {
        return Err(anyhow::anyhow!("--model and --output are needed")).user();
    };
    let mut config = resolve_plain(&args.settings.layers(args.algo.as_deref()))?;
    config.data.test_format = args.benchmark.or(config.data.test_format);
    config.eval.frames.from = args.frames_from.clone().or(config.eval.frames.from);
    config.eval.frames.picks = args.frames.map_or(config.eval.frames.picks, usize::from);
    existing_model("--model", model)?;
    let file = args.data.as_deref().or(config.data.test.as_deref());
    let file = file.context("which examples? name them by --data or data.test").user()?.to_owned();
    existing("--data", &file)?;
    println!("{}", protocol(&config));
    if args.describe_with.is_none() && config.data.test_format() == Format::TempCompassCaptioning {
        return Err(user_error(
            "tempcompass-captioning: whose captions? name the model that writes them by --describe-with",
        ));
    }
    let stop = Stop::listen()?;
    let asked = Asked::whole(&file);
    let exam = Exam { asked, stop: &stop };
    if args.describe_with.is_some() || args.ablate.is_some() {
        described::distinct(&config, &exam)?;
    }
    let mut kept = Vec::new();
    // Before the other model is loaded: one at a time is in memory.
    let described = match &args.describe_with {
        None => None,
        Some(_) => {
            let file = beside(output, "described");
            let Some(words) = described::describe(args, &config, &exam, &file, &mut kept)? else { return Ok(()) };
            println!("descriptions are in {}", file.display());
            Some(words)
        }
    };
    let asked = Asked { described: described.as_ref(), ..asked };
    let exam = Exam { asked, ..exam };
    let candidate = Candidate::load(model, &config)?;
    let examinee = candidate.examinee(model, &config);
    let Some(whole) = sit(&examinee, &exam, output, &mut kept)? else { return Ok(()) };
    print!("{}", table(&whole));
    if let Some(event) = event(&whole) {
        println!("attention on the event's frames: {:.3}, {:.3} if it were uniform", event.mass, event.uniform);
    }
    if let Some(ablation) = args.ablate {
        let path = beside(output, word(ablation));
        let Some(less) =
            sit(&examinee, &Exam { asked: Asked { ablation: Some(ablation), ..asked }, ..exam }, &path, &mut kept)?
        else {
            return Ok(());
        };
        println!("\nwhat the media are worth (before: {}; after: as they are)", word(ablation));
        print!("{}", paired::table(&less, &whole).user()?);
    }
    kept.into_iter().try_for_each(Begun::remove)
}

/// Answers the file, from where an earlier evaluation was stopped; `None` if this one is stopped too. What it goes on from
/// is added to `kept`, to be removed once all that was asked is done.
fn sit(
    examinee: &Examinee<'_>,
    exam: &Exam<'_>,
    output: &Path,
    kept: &mut Vec<Begun<Item>>,
) -> Result<Option<Vec<Item>>> {
    let mut begun = Begun::beside(output, &asked(examinee, exam)?)?;
    let answers = examinee.answer(exam, Some(&mut begun))?;
    kept.push(begun);
    if exam.stop.requested() {
        println!("stopped after {} answers; the same command goes on from there", answers.items.len());
        return Ok(None);
    }
    if answers.bad > 0 {
        println!("{} examples could not be read and are left out", answers.bad);
    }
    write_lines(output, &answers.items)?;
    Ok(Some(answers.items))
}

/// What two evaluations must share for one to go on with the other's answers: files and settings.
fn asked(examinee: &Examinee<'_>, exam: &Exam<'_>) -> Result<String> {
    let config = examinee.config;
    let prompt = Path::new(&config.data.prompt);
    let selector = config.eval.frames.from.as_deref().map(weights_state);
    let files = (weights_state(examinee.dir), file_state(prompt));
    let records = records_state(exam.asked.file, config.data.test_format())?;
    // In the order of their names, so that the same words are the same text.
    let described: Option<BTreeMap<_, _>> = exam.asked.described.map(|words| words.iter().collect());
    let described = described.map(|words| fingerprint(&words));
    let model = &config.model;
    let settings = (
        config.data.alike(),
        config.eval.protocol(),
        &config.reward,
        model.dtype,
        config.eval_tokens(),
        config.run.seed,
    );
    Ok(serde_json::to_string(&(files, records, selector, settings, exam.asked.ablation.map(word), described))?)
}

fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn word(ablation: Ablation) -> &'static str {
    match ablation {
        Ablation::Blind => "blind",
        Ablation::Shuffle => "shuffle",
        Ablation::FirstFrame => "first-frame",
        Ablation::OtherVideo => "other-video",
    }
}

/// Where other answers to the same questions go: `items.jsonl` to `items.blind.jsonl`.
fn beside(output: &Path, what: &str) -> PathBuf {
    let name = output.to_string_lossy();
    let stem = name.strip_suffix(".jsonl").unwrap_or(&name);
    format!("{stem}.{what}.jsonl").into()
}

/// Frames, pixels and sampling of an evaluation on one line: without them no two accuracies can be compared.
pub fn protocol(config: &Config) -> String {
    let eval = &config.eval;
    let budget = eval.pixels.budget();
    let frames = match &eval.frames.from {
        Some(selector) => format!("{} picked by {}", eval.frames.picks, selector.display()),
        None => format!("{:?}", eval.frames.sampling()),
    };
    format!(
        "prompt {}, frames {frames}, {} to {} pixels per frame, temperature {}, top-p {}, top-k {}, repetition penalty {}",
        config.data.prompt,
        budget.min_pixels,
        budget.max_pixels,
        eval.temperature,
        eval.top_p,
        eval.top_k,
        eval.repetition_penalty
    )
}
