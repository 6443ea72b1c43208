//! `trainer study`: what a frame selector has learnt, as the paper shows it (ReFoCUS, arXiv 2506.01274).
//!
//! Each study is one command on a run of `trainer --algo refocus`; with `--report` it takes the place of its section in a page
//! of results. How each is defined is on the page `docs/algorithms/refocus.md`.

mod accuracy;
mod likelihood;
mod needle;
mod questions;
mod report;
mod spread;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cli::{Study, StudyArgs};
use crate::config::{Config, load_run};
use crate::error::{UserContext, existing, user_error};
use crate::eval::Share;
use crate::figures::{Picture, Table};
use crate::frame_sets::{FrameScorer, Framed, FramedExamples, Part, Picker};
use crate::run::RunFolder;
use crate::train::{POLICY, load_options};

/// Makes the study, prints it, and puts it into the page of results.
///
/// # Errors
/// A user error: there is no such run, or nothing in it to study; or the page cannot be written.
pub fn run(args: &StudyArgs) -> Result<()> {
    let subject = Subject::open(args)?;
    let mut found = match args.study {
        Study::Gate => accuracy::gate(&subject)?,
        Study::Accuracy => accuracy::accuracy(&subject)?,
        Study::Needle => needle::needle(&subject)?,
        Study::Likelihood => likelihood::likelihood(&subject)?,
        Study::Spread => spread::spread(&subject)?,
        Study::Questions => questions::questions(&subject)?,
    };
    if args.study != Study::Spread {
        found.text.push(format!("The selector is that after step {}.", subject.step));
    }
    print!("{}", found.text());
    match &args.report {
        Some(page) => report::put(page, args.study, &found).user(),
        None => Ok(()),
    }
}

/// What came out of a study.
#[derive(Debug)]
struct Found {
    title: &'static str,
    /// What was done, a paragraph each.
    text: Vec<String>,
    tables: Vec<Table>,
    /// Pictures, each with what the end of its file's name says.
    pictures: Vec<(&'static str, Picture)>,
}

impl Found {
    /// For people at a terminal.
    fn text(&self) -> String {
        let tables: String = self.tables.iter().map(|table| format!("\n{}", table.text())).collect();
        format!("{}\n\n{}\n{tables}", self.title, self.text.join("\n\n"))
    }
}

/// A run whose selector is studied.
struct Subject<'a> {
    args: &'a StudyArgs,
    folder: RunFolder,
    /// The selector's.
    step: u64,
    config: Config,
    scorer: FrameScorer,
    picker: Picker,
}

impl<'a> Subject<'a> {
    fn open(args: &'a StudyArgs) -> Result<Self> {
        let folder = RunFolder::open(&args.run)?;
        let config = load_run(&folder.config(), &args.set)?;
        if !config.algo.picks_frames() {
            let name = config.name();
            return Err(user_error(format!("{}: expected a run of refocus, found one of {name}", args.run.display())));
        }
        let checkpoints = folder.complete()?;
        let wanted = |(step, _): &&(u64, PathBuf)| args.step.is_none_or(|wanted| wanted == *step);
        let Some((step, checkpoint)) = checkpoints.iter().rev().find(wanted) else {
            let known: Vec<String> = checkpoints.iter().map(|(step, _)| step.to_string()).collect();
            let known = if known.is_empty() { "it has none".to_owned() } else { format!("steps {}", known.join(", ")) };
            return Err(user_error(format!("{}: no such checkpoint; {known}", args.run.display())));
        };
        let picker = Picker::trained(&checkpoint.join(POLICY), &load_options(&config)?)?;
        let scorer = FrameScorer::load(config.scorer_path()?, &config)?;
        Ok(Self { args, step: *step, folder, config, scorer, picker })
    }

    /// The held-out questions, as many as `eval.limit` says, one after the other.
    fn held_out(&self, each: impl FnMut(Framed) -> Result<()>) -> Result<()> {
        let test = self.config.data.test.as_deref().context("the run has no held-out examples (data.test)").user()?;
        self.questions_of(test, self.config.eval.limit, each)
    }

    /// The first `limit` questions of a file (0: all); those that cannot be put are left out.
    fn questions_of(&self, file: &Path, limit: usize, mut each: impl FnMut(Framed) -> Result<()>) -> Result<()> {
        existing("data.test", file)?;
        let config = &self.config;
        let examples = FramedExamples::evaluation(file, config, config.scorer_path()?)?;
        examples.visit(&config.data, Part { limit, ..Part::default() }, |framed, _| each(framed))?;
        Ok(())
    }
}

/// A share in percent with Wilson's 95% interval.
fn share(right: f64, of: usize) -> String {
    Share::new(right, of).text()
}
