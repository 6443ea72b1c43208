//! `trainer compare`: every row of a plan, trained from the same checkpoint with several seeds, and what came of it.
//!
//! Each run is a process of its own, in a folder of its own, that could have been begun by hand.

mod interval;
mod outcome;
mod plan;
mod pool;
mod report;
mod runs;
mod tables;

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};

use self::outcome::Outcome;
use self::plan::Plan;
use self::pool::{Event, Pool, last_line};
use self::report::{Failure, Report};
use self::runs::{Run, evaluate_before, runs};
use crate::cli::CompareArgs;
use crate::error::UserContext;
use crate::eval::{Share, read_items};
use crate::run::{Progress, Stop, hold, write_atomically};
use crate::train::AFTER;

/// Trains what a plan names, but for what is finished already, and writes the report.
///
/// # Errors
/// A user error: a mistake in the plan, or a folder in use or with other runs. Else: a run failed, which the report names;
/// or the runs were stopped, and there is no report.
pub fn run(args: &CompareArgs) -> Result<()> {
    let plan = Plan::read(&args.plan)?;
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from("runs").join(format!("compare-{}", plan.slug())));
    let runs = runs(&plan, args, &output)?;
    let lock = hold(&output, "a comparison is under way there, or one of its runs still ends")?;
    let stop = Stop::listen()?;
    let pool = Pool { places: usize::from(args.jobs), stop: &stop, lock: &lock };
    evaluate_before(&runs, &pool)?;
    train(&runs, &pool)?;
    let finished = runs.iter().filter(|run| run.finished()).count();
    if stop.requested() && finished < runs.len() {
        bail!("stopped with {finished} of {} runs finished; the same command goes on with them", runs.len());
    }
    let failures = failures(&runs);
    let path = args.report.clone().unwrap_or_else(|| output.join("report.md"));
    let report = report(&plan, args, &runs, &failures)?;
    write_atomically(&path, report.as_bytes()).user()?;
    println!("{report}\nreport    {}", path.display());
    match failures.first() {
        None => Ok(()),
        Some(Failure { run, reason }) => {
            Err(anyhow!("{} of {} runs failed, first {run}: {reason}", failures.len(), runs.len()))
        }
    }
}

/// Trains what is not finished.
fn train(runs: &[Run], pool: &Pool<'_>) -> Result<()> {
    let left: Vec<&Run> = runs.iter().filter(|run| !run.finished()).collect();
    if left.is_empty() || pool.stop.requested() {
        return Ok(());
    }
    let steps = || runs.iter().map(Run::steps).sum();
    let mut progress = Progress::start(steps(), runs.iter().map(|run| run.config.run.steps).sum());
    let mut ended = runs.len() - left.len();
    let mut watch = |event| {
        if let Event::Ended { job, succeeded } = event {
            ended += 1;
            tell(left[job], succeeded, pool.stop);
        }
        progress.at(steps(), &format!("{ended} of {} runs", runs.len()));
    };
    pool.run(left.iter().map(|run| run.job()).collect::<Result<_>>()?, &mut watch)?;
    progress.finish();
    Ok(())
}

/// Says how a run ended.
fn tell(run: &Run, succeeded: bool, stop: &Stop) {
    let items = read_items(&run.folder.evaluation(AFTER)).ok().filter(|_| succeeded && run.finished());
    match items {
        Some(items) => tracing::info!("{}: accuracy {:.1}%", run.name, 100.0 * Share::of(&items).mean),
        None if stop.requested() => tracing::info!("{}: stopped", run.name),
        None => tracing::warn!("{}: {}; see {}", run.name, last_line(&run.log()), run.log().display()),
    }
}

fn failures(runs: &[Run]) -> Vec<Failure> {
    let failed = runs.iter().filter(|run| !run.finished());
    failed.map(|run| Failure { run: run.name.clone(), reason: last_line(&run.log()) }).collect()
}

fn report(plan: &Plan, args: &CompareArgs, runs: &[Run], failures: &[Failure]) -> Result<String> {
    let mut rows: Vec<Vec<Outcome>> = plan.rows.iter().map(|_| Vec::new()).collect();
    for run in runs.iter().filter(|run| run.finished()) {
        rows[run.row].push(Outcome::read(run)?);
    }
    let configs = runs.chunk_by(|a, b| a.row == b.row).filter_map(|runs| Some(&runs.first()?.config)).collect();
    Report { plan, args, configs, rows, failures }.text()
}
