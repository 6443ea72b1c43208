//! Processes side by side, which end with this one.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::run::Stop;

/// Time between two looks at the processes, and between two [`Event::Tick`]s.
const LOOK: Duration = Duration::from_millis(20);
const TICK: Duration = Duration::from_secs(1);

/// A process to be run.
#[derive(Debug)]
pub(super) struct Job {
    /// The program and its arguments.
    pub(super) command: Command,
    /// File that what it prints is added to.
    pub(super) log: PathBuf,
}

/// What a pool tells of its jobs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// Some time has passed.
    Tick,
    /// The job of this number has ended, with exit code 0 if it succeeded.
    Ended {
        /// Its number.
        job: usize,
        /// Whether its exit code was 0.
        succeeded: bool,
    },
}

/// Runs jobs side by side.
#[derive(Debug)]
pub(super) struct Pool<'a> {
    /// How many at a time.
    pub(super) places: usize,
    /// Asks all to end.
    pub(super) stop: &'a Stop,
    /// The lock on what the jobs write to. They hold it too, should they outlive this process.
    pub(super) lock: &'a File,
}

impl Pool<'_> {
    /// Runs the jobs to their ends, in the order in which they stand. When asked to stop, no further job is begun, and
    /// those under way are told to end (SIGTERM, once) and waited for.
    ///
    /// # Errors
    /// A process cannot be begun; those under way are told to end then.
    pub(super) fn run(&self, jobs: Vec<Job>, watch: &mut dyn FnMut(Event)) -> Result<()> {
        let mut waiting = jobs.into_iter().enumerate();
        let mut running: Vec<(usize, Child)> = Vec::new();
        let (mut ending, mut failure) = (false, None);
        let mut ticked = Instant::now();
        loop {
            if !ending && (self.stop.requested() || failure.is_some()) {
                ending = true;
                running.iter().for_each(|(_, child)| terminate(child));
            }
            while !ending && failure.is_none() && running.len() < self.places {
                let Some((number, job)) = waiting.next() else { break };
                match self.begin(job) {
                    Ok(child) => running.push((number, child)),
                    Err(error) => failure = Some(error),
                }
            }
            if running.is_empty() && (ending || failure.is_some() || waiting.len() == 0) {
                return failure.map_or(Ok(()), Err);
            }
            sleep(LOOK);
            let mut ended = Vec::new();
            for (number, child) in &mut running {
                if let Some(status) = child.try_wait().context("waiting for a run")? {
                    ended.push((*number, status.success()));
                }
            }
            running.retain(|(number, _)| ended.iter().all(|(job, _)| job != number));
            ended.into_iter().for_each(|(job, succeeded)| watch(Event::Ended { job, succeeded }));
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                watch(Event::Tick);
            }
        }
    }

    /// Begins a job in a process group of its own: Ctrl-C on a terminal goes to a whole group, and a second signal would
    /// end a run at once.
    fn begin(&self, mut job: Job) -> Result<Child> {
        if let Some(folder) = job.log.parent() {
            fs_err::create_dir_all(folder)?;
        }
        let log = fs_err::OpenOptions::new().create(true).append(true).open(&job.log)?.into_file();
        job.command.stdin(Stdio::from(self.lock.try_clone()?)).stdout(log.try_clone()?).stderr(log).process_group(0);
        job.command.spawn().with_context(|| format!("{:?}", job.command.get_program()))
    }
}

/// Asks a process to end. `Child::kill` would not let it save anything.
fn terminate(child: &Child) {
    let asked = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).stderr(Stdio::null()).status();
    if let Err(error) = asked {
        tracing::warn!("process {} could not be told to end: {error}", child.id());
    }
}

/// The last line that a process printed.
pub(super) fn last_line(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it printed nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path, script: &str) -> Job {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Job { command, log: folder.join("logs/log") }
    }

    /// Runs shell scripts in that folder, so many at a time; which ended how.
    fn run(folder: &Path, places: usize, scripts: &[String]) -> Vec<(usize, bool)> {
        let lock = File::create(folder.join("lock")).unwrap();
        let stop = Stop::default();
        let jobs = scripts.iter().map(|script| shell(folder, &format!("cd {}; {script}", folder.display())));
        let mut ended = Vec::new();
        let mut watch = |event| match event {
            Event::Ended { job, succeeded } => ended.push((job, succeeded)),
            Event::Tick => {}
        };
        Pool { places, stop: &stop, lock: &lock }.run(jobs.collect(), &mut watch).unwrap();
        ended.sort_unstable();
        ended
    }

    #[test]
    fn jobs_run_side_by_side_up_to_the_bound_and_failures_are_told() {
        let folder = tempfile::tempdir().unwrap();
        // Each waits for the two others, so that one after the other none of them would succeed.
        let meets = |own: &str, then: &str| {
            let all = "[ -e a ] && [ -e b ] && [ -e c ]";
            format!("touch {own}; for i in $(seq 1000); do {all} && break; sleep 0.01; done; {all} && {then}")
        };
        let scripts = [meets("a", "echo a"), meets("b", "true"), meets("c", "{ echo b; exit 3; }")];
        assert_eq!(run(folder.path(), 3, &scripts), [(0, true), (1, true), (2, false)]);
        assert!(["a", "b"].contains(&last_line(&folder.path().join("logs/log")).as_str()));

        let alone = "[ ! -e busy ] && touch busy && sleep 0.2 && rm busy".to_owned();
        assert_eq!(run(folder.path(), 1, &[alone.clone(), alone]), [(0, true), (1, true)]);
    }

    #[test]
    fn a_program_that_is_not_there_ends_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let lock = File::create(folder.path().join("lock")).unwrap();
        let (begun, stop) = (Instant::now(), Stop::default());
        let missing = Job { command: Command::new("/nonexistent/program"), log: folder.path().join("log") };
        let jobs = vec![shell(folder.path(), "exec sleep 30"), missing];
        let error = Pool { places: 2, stop: &stop, lock: &lock }.run(jobs, &mut |_| {}).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/program"), "{error:#}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
