//! `trainer eval`: the accuracy of a policy on a file of questions.

use std::sync::Arc;

use anyhow::{Context, Result};
use foveate_policy::{LoadOptions, TextProcessor, Trainable, Vlm};
use foveate_reward::Rubric;

use crate::answer::{Examinee, answered};
use crate::cli::EvalArgs;
use crate::config::{Config, resolve_plain};
use crate::error::{UserContext, existing};
use crate::eval::{event, table, write_items};
use crate::run::Stop;
use crate::train::load_options;

/// Answers a file of examples, prints the table and keeps every answer.
///
/// # Errors
/// A user error: the model or the examples cannot be read, or a setting is wrong; or the items cannot be written.
pub fn run(args: &EvalArgs) -> Result<()> {
    let config = resolve_plain(&args.settings.layers(None))?;
    existing("--model", &args.model)?;
    let file = args.input.as_deref().or(config.data.test.as_deref());
    let file = file.context("which examples? name them by --input or data.test").user()?;
    existing("examples", file)?;
    let options = LoadOptions { trainable: Trainable::Nothing, ..load_options(&config)? };
    let policy = Vlm::load(&args.model, &options).user()?;
    let text = Arc::new(TextProcessor::load(&args.model).user()?);
    let examinee = Examinee {
        policy: &policy,
        dir: &args.model,
        text: &text,
        rubric: &Rubric::new(config.reward.clone()).user()?,
        config: &config,
    };
    let answers = examinee.answer(file, &Stop::default(), &answered())?;
    write_items(&args.output, &answers.items)?;
    println!("{}", protocol(&config));
    print!("{}", table(&answers.items));
    if let Some(event) = event(&answers.items) {
        println!("attention on the event's frames: {:.3}, {:.3} if it were uniform", event.mass, event.uniform);
    }
    if !answers.bad.is_empty() {
        println!("{} examples could not be read and are left out", answers.bad.len());
    }
    Ok(())
}

/// Frames, pixels and sampling of an evaluation on one line: without them no two accuracies can be compared.
pub fn protocol(config: &Config) -> String {
    let eval = &config.eval;
    let budget = eval.pixels.budget();
    format!(
        "frames {:?}, {} to {} pixels per frame, temperature {}, top-p {}, top-k {}",
        eval.frames.sampling(),
        budget.min_pixels,
        budget.max_pixels,
        eval.temperature,
        eval.top_p,
        eval.top_k
    )
}
