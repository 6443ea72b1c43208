//! `trainer analyze`: tables and figures of a run, as the papers have them.
//!
//! What each one shows and how it is defined is on the page `docs/analysis.md`.

mod curves;
mod divergence;
mod frames;
mod gradients;
mod report;
mod tokens;

use anyhow::Result;
use foveate_algo::ScoredGroup;

use crate::cli::AnalyzeArgs;
use crate::error::user_error;
use crate::figures::{Picture, Table};
use crate::recorded::{HOW_TO_RECORD, RecordedGroup, RecordedRun, Rollout};
use crate::run::Progress;

/// Reads the run and writes tables, pictures and a page of both.
///
/// # Errors
/// A user error: there is no run, or nothing in it that was asked for; or the files cannot be written.
pub fn run(args: &AnalyzeArgs) -> Result<()> {
    let run = RecordedRun::open(&args.run, &[])?;
    if run.config().algo.picks_frames() {
        let path = args.run.display();
        return Err(user_error(format!("{path} is a run of refocus, which picks frames: see trainer study")));
    }
    let rollouts = chosen(&run, &args.step)?;
    let mut analyses = vec![curves::analyze(&run)?];
    let mut readers: Vec<Box<dyn GroupReader>> = vec![
        Box::new(frames::FrameDistances::new(run.config(), [args.k1, args.k2])),
        Box::new(divergence::Divergences::new(run.config())),
        Box::new(tokens::KeyTokens::new(&run)),
    ];
    let mut progress = Progress::start(0, rollouts.len() as u64);
    for (done, rollout) in (1..).zip(&rollouts) {
        let group = RecordedGroup::read(&rollout.path)?;
        let scored = group.scored()?;
        for reader in &mut readers {
            reader.read(&Seen { run: &run, rollout, group: &group, scored: &scored })?;
        }
        progress.at(done, "groups read");
    }
    progress.finish();
    for reader in readers {
        analyses.push(reader.finish()?);
    }
    analyses.push(match args.gradients {
        0 => gradients::not_asked_for(),
        _ => gradients::analyze(&run, &rollouts, args)?,
    });
    let output = args.output.clone().unwrap_or_else(|| args.run.join("analysis"));
    report::write(&run, &analyses, &output)
}

/// The groups of these steps; of all if none is named.
fn chosen(run: &RecordedRun, steps: &[u64]) -> Result<Vec<Rollout>> {
    let mut rollouts = run.rollouts()?;
    let mut recorded: Vec<u64> = rollouts.iter().map(|rollout| rollout.step).collect();
    recorded.dedup();
    if let Some(step) = steps.iter().find(|step| !recorded.contains(step)) {
        let known: Vec<String> = recorded.iter().map(u64::to_string).collect();
        let known = if known.is_empty() { HOW_TO_RECORD.to_owned() } else { format!("recorded: {}", known.join(", ")) };
        return Err(user_error(format!("--step {step}: no group of this step is recorded; {known}")));
    }
    rollouts.retain(|rollout| steps.is_empty() || steps.contains(&rollout.step));
    Ok(rollouts)
}

/// One recorded group and where it comes from.
struct Seen<'a> {
    run: &'a RecordedRun,
    rollout: &'a Rollout,
    group: &'a RecordedGroup,
    scored: &'a ScoredGroup,
}

/// Makes an analysis of recorded groups, which are read once for all analyses.
trait GroupReader {
    /// Takes note of a group.
    fn read(&mut self, seen: &Seen<'_>) -> Result<()>;

    /// What has come out.
    fn finish(self: Box<Self>) -> Result<Analysis>;
}

/// A part of the report.
#[derive(Debug, Default)]
struct Analysis {
    /// Its heading.
    title: String,
    /// What it says, a paragraph each.
    text: Vec<String>,
    /// Why there is nothing to show, and how to get it.
    missing: Option<String>,
    /// Tables by the name of their file.
    tables: Vec<(&'static str, Table)>,
    /// Pictures by the name of their file.
    pictures: Vec<(&'static str, Picture)>,
}

impl Analysis {
    fn missing(title: &str, why: String) -> Self {
        Self { title: title.into(), missing: Some(why), ..Self::default() }
    }
}

/// A share of a whole in percent; of nothing, 0.
fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { 100.0 * part / whole } else { 0.0 }
}

/// A number with so many decimals; empty if it is none.
fn fixed(value: f64, decimals: usize) -> String {
    if value.is_finite() { format!("{value:.decimals$}") } else { String::new() }
}
