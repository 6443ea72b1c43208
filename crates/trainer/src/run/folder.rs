//! Layout of a run's folder, and its checkpoints.
//!
//! ```text
//! RUN/config.toml               resolved configuration
//!     metrics.jsonl             a line a step
//!     completions/step-N.jsonl  every completion with its rewards
//!     rollouts/step-N/          recorded groups (`run.save_rollouts`)
//!     eval/NAME.jsonl           every evaluated item with its answer
//!     checkpoints/step-N/       complete, or not there
//!     report.txt                what the run ended with
//!     run.log
//!     .lock                     held by the process that trains here
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::files::{hold, write_atomically};
use crate::config::Config;
use crate::error::{UserContext, existing, user_error};

/// A user error if there is no model's directory at `path`. Of a run, or a checkpoint, it names the policy in it.
///
/// # Errors
/// There is none.
pub fn existing_model(what: &str, path: &Path) -> Result<()> {
    existing(what, path)?;
    let is_model = |path: &Path| path.join("config.json").exists();
    if is_model(path) {
        return Ok(());
    }
    let newest = RunFolder { path: path.to_owned() }.latest_checkpoint().ok().flatten();
    let inside = newest.map(|(_, checkpoint)| checkpoint).into_iter().chain([path.to_owned()]);
    let hint = match inside.map(|folder| folder.join("policy")).find(|policy| is_model(policy)) {
        Some(policy) => format!("; did you mean {}?", policy.display()),
        None => String::new(),
    };
    Err(user_error(format!("{what}: {} holds no model: expected config.json in it{hint}", path.display())))
}

/// A prompt file of the user's, as it was when the run began.
const PROMPT: &str = "prompt.toml";

/// A run's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// The folder of a new run, not made yet: `output`, or else a folder of its own, named by algorithm and time, in
    /// `run.output`.
    ///
    /// # Errors
    /// A user error if `output` already holds a run.
    pub fn choose(output: Option<&Path>, config: &Config) -> Result<Self> {
        let path = match output {
            Some(path) => path.to_owned(),
            None => config.run.output.join(format!("{}-{}", config.name(), timestamp())),
        };
        let folder = Self { path };
        folder.expect_new()?;
        Ok(folder)
    }

    /// Refuses a folder that holds a run.
    ///
    /// # Errors
    /// A user error if it does.
    pub fn expect_new(&self) -> Result<()> {
        if self.config().exists() {
            let path = self.path.display();
            return Err(user_error(format!(
                "{path} already holds a run: go on with it by --resume {path}, or name another folder"
            )));
        }
        Ok(())
    }

    /// Writes the run's configuration into the folder, which is there.
    ///
    /// # Errors
    /// A user error if a prompt file cannot be read; or the file cannot be written.
    pub fn begin(&self, config: &Config) -> Result<()> {
        let mut config = config.clone();
        if config.data.prompt.ends_with(".toml") {
            // A file of the user's, who may change it while the run lasts.
            let own = std::path::absolute(self.path.join(PROMPT))?;
            write_atomically(&own, &fs_err::read(&config.data.prompt).user()?)?;
            config.data.prompt = own.display().to_string();
        }
        write_atomically(&self.config(), config.to_toml()?.as_bytes())
    }

    /// Holds the folder, as long as the file is kept, against other processes that would train in it.
    ///
    /// # Errors
    /// A user error: another process trains there, or the folder cannot be written to.
    pub fn hold(&self) -> Result<File> {
        hold(&self.path, "another process is training there")
    }

    /// The folder of a run that was begun before.
    ///
    /// # Errors
    /// A user error if there is no run in it.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = Self { path: path.to_owned() };
        if folder.config().is_file() {
            return Ok(folder);
        }
        Err(user_error(format!("{}: no run in it (expected config.toml)", path.display())))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The metrics.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The log.
    pub fn log(&self) -> PathBuf {
        self.path.join("run.log")
    }

    /// What the run ended with.
    pub fn report(&self) -> PathBuf {
        self.path.join("report.txt")
    }

    /// The completions of a step.
    pub fn completions(&self, step: u64) -> PathBuf {
        self.path.join(format!("completions/step-{step}.jsonl"))
    }

    /// The recorded groups of a step.
    pub fn rollouts(&self, step: u64) -> PathBuf {
        self.path.join(format!("rollouts/step-{step}"))
    }

    /// The items of an evaluation.
    pub fn evaluation(&self, name: &str) -> PathBuf {
        self.path.join(format!("eval/{name}.jsonl"))
    }

    /// Writes a checkpoint: `write` fills a folder that gets its name only when all is in it. Then all but the newest
    /// `keep` are removed (0: none are).
    ///
    /// # Errors
    /// The checkpoint cannot be written; those there before are left as they were.
    pub fn save_checkpoint(&self, step: u64, keep: usize, write: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let target = self.checkpoints().join(format!("step-{step}"));
        let partial = self.checkpoints().join(format!(".step-{step}.partial"));
        remove_folder_if_there(&partial)?;
        fs_err::create_dir_all(&partial)?;
        write(&partial).with_context(|| format!("checkpoint of step {step}"))?;
        sync(&partial)?;
        remove_folder_if_there(&target)?;
        fs_err::rename(&partial, &target)?;
        self.prune(keep)?;
        Ok(target)
    }

    /// The newest complete checkpoint and its step.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn latest_checkpoint(&self) -> Result<Option<(u64, PathBuf)>> {
        Ok(self.complete()?.pop())
    }

    fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Complete checkpoints, oldest first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn complete(&self) -> Result<Vec<(u64, PathBuf)>> {
        if !self.checkpoints().is_dir() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in fs_err::read_dir(self.checkpoints())? {
            let entry = entry?;
            let name = entry.file_name();
            let step = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse().ok());
            found.extend(step.map(|step: u64| (step, entry.path())));
        }
        found.sort_unstable();
        Ok(found)
    }

    fn prune(&self, keep: usize) -> Result<()> {
        let complete = self.complete()?;
        let surplus = if keep == 0 { 0 } else { complete.len().saturating_sub(keep) };
        for (step, path) in complete.into_iter().take(surplus) {
            // Renamed first: a checkpoint half removed must not look complete.
            let doomed = self.checkpoints().join(format!(".step-{step}.removed"));
            remove_folder_if_there(&doomed)?;
            fs_err::rename(path, &doomed)?;
            fs_err::remove_dir_all(&doomed)?;
        }
        Ok(())
    }
}

fn remove_folder_if_there(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs_err::remove_dir_all(folder)?;
    }
    Ok(())
}

/// Brings every file of a folder to the disk, so that the rename cannot outlive its contents.
fn sync(folder: &Path) -> Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sync(&path)?;
        } else {
            fs_err::File::open(&path)?.sync_all()?;
        }
    }
    Ok(())
}

/// UTC time as `20260131-235959`.
fn timestamp() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

/// Year, month and day of the Gregorian calendar, so many days after 1970-01-01. Years are counted from March, so that
/// the leap day is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153; // 0 is March
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = 400 * era + year_of_era + u64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::exit_code;
    use anyhow::bail;

    fn folder() -> (tempfile::TempDir, RunFolder) {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        let folder = RunFolder::choose(Some(&path), &Config::default()).unwrap();
        folder.begin(&Config::default()).unwrap();
        (parent, folder)
    }

    fn save(folder: &RunFolder, step: u64, keep: usize) {
        folder.save_checkpoint(step, keep, |path| write_atomically(&path.join("state"), b"whole")).unwrap();
    }

    #[test]
    fn the_latest_checkpoint_is_the_one_with_the_greatest_step() {
        let (_parent, folder) = folder();
        assert_eq!(folder.latest_checkpoint().unwrap(), None);
        for step in [9, 10, 100] {
            save(&folder, step, 0);
        }
        let (step, path) = folder.latest_checkpoint().unwrap().unwrap();
        assert_eq!(step, 100);
        assert!(path.join("state").is_file());
    }

    #[test]
    fn a_checkpoint_that_fails_half_way_is_not_there() {
        let (_parent, folder) = folder();
        save(&folder, 1, 0);
        let failed = folder.save_checkpoint(2, 0, |path| {
            write_atomically(&path.join("state"), b"half")?;
            bail!("disk full")
        });
        assert!(failed.is_err());
        assert_eq!(folder.latest_checkpoint().unwrap().unwrap().0, 1);
        save(&folder, 2, 0);
        assert_eq!(folder.latest_checkpoint().unwrap().unwrap().0, 2);
    }

    #[test]
    fn only_the_newest_are_kept() {
        let (_parent, folder) = folder();
        for step in 1..=5 {
            save(&folder, step, 2);
        }
        let steps: Vec<u64> = folder.complete().unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [4, 5]);
        assert_eq!(fs_err::read_dir(folder.checkpoints()).unwrap().count(), 2);
    }

    #[test]
    fn a_run_is_never_written_over_and_a_folder_without_one_cannot_be_resumed() {
        let (parent, folder) = folder();
        let again = RunFolder::choose(Some(folder.path()), &Config::default());
        assert_eq!(exit_code(&again.unwrap_err()), 2);
        assert_eq!(exit_code(&RunFolder::open(parent.path()).unwrap_err()), 2);
        assert_eq!(RunFolder::open(folder.path()).unwrap(), folder);
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_818), (2026, 12, 31));
    }
}
