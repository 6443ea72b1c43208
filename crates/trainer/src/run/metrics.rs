//! `metrics.jsonl`: a line a step, names as TRL's where it has one.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use super::files::write_atomically;

/// The metrics of one step, in the order in which they were added.
#[derive(Debug, Clone, PartialEq)]
pub struct StepMetrics(Map<String, Value>);

impl StepMetrics {
    /// No metrics yet but the step itself.
    pub fn new(step: u64) -> Self {
        Self(Map::from_iter([("step".to_owned(), Value::from(step))]))
    }

    /// Adds a number; one that is not finite is written as null.
    pub fn push(&mut self, name: &str, value: f64) {
        self.0.insert(name.to_owned(), Value::from(value));
    }

    /// Adds a count.
    pub fn push_count(&mut self, name: &str, value: u64) {
        self.0.insert(name.to_owned(), Value::from(value));
    }

    /// Adds anything else.
    pub fn push_value(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// The number of that name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.as_f64()
    }
}

/// The file of a run's metrics.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: fs_err::File,
}

impl MetricsFile {
    /// Opens a run's metrics to go on after `step` (0: a new run): lines of later steps, and a line cut off by a crash,
    /// are removed.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        if path.exists() {
            let text = fs_err::read_to_string(path)?;
            write_atomically(path, up_to(&text, step).as_bytes())?;
        }
        let file = fs_err::OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// The sum of a metric over the steps that are in the file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn total(&self, name: &str) -> Result<f64> {
        let text = fs_err::read_to_string(&self.path)?;
        let values = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?[name].as_f64());
        Ok(values.sum())
    }

    /// Writes a step's line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, metrics: &StepMetrics) -> Result<()> {
        let mut line = serde_json::to_vec(&metrics.0)?;
        line.push(b'\n');
        self.file.write_all(&line).with_context(|| self.path.display().to_string())
    }
}

/// The lines of steps up to and including `step`.
fn up_to(text: &str, step: u64) -> String {
    let kept = |line: &&str| {
        let value: Option<Value> = serde_json::from_str(line).ok();
        value.is_some_and(|value| value["step"].as_u64().is_some_and(|at| at <= step))
    };
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).filter(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> StepMetrics {
        let mut metrics = StepMetrics::new(step);
        metrics.push("reward", 0.5 * step as f64);
        metrics.push("kl", f64::NAN);
        metrics.push_count("data/skipped", 1);
        metrics
    }

    #[test]
    fn names_keep_their_order_and_numbers_that_are_not_finite_are_null() {
        let text = serde_json::to_string(&line(2).0).unwrap();
        assert_eq!(text, r#"{"step":2,"reward":1.0,"kl":null,"data/skipped":1}"#);
        assert_eq!(line(2).get("reward"), Some(1.0));
        assert_eq!(line(2).get("kl"), None);
    }

    #[test]
    fn resuming_removes_later_steps_and_a_line_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut undisturbed = MetricsFile::open(&path, 0).unwrap();
        for step in 1..=4 {
            undisturbed.write(&line(step)).unwrap();
        }
        let whole = fs_err::read_to_string(&path).unwrap();
        undisturbed.file.write_all(b"{\"step\":5,\"rew").unwrap();
        let mut resumed = MetricsFile::open(&path, 2).unwrap();
        assert_eq!(fs_err::read_to_string(&path).unwrap().lines().count(), 2);
        assert_eq!(resumed.total("reward").unwrap(), 1.5);
        resumed.write(&line(3)).unwrap();
        resumed.write(&line(4)).unwrap();
        assert_eq!(fs_err::read_to_string(&path).unwrap(), whole);
    }
}
