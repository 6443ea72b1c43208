//! How far the run is: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::log::BARS;

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows how far a run is.
#[derive(Debug)]
pub struct Progress {
    steps: u64,
    first: u64,
    begun: Instant,
    shown: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A run of `steps` steps of which `done` are done.
    pub fn start(done: u64, steps: u64) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(steps).with_position(done).with_style(style());
            bar.reset_eta();
            BARS.add(bar)
        });
        Self { steps, first: done, begun: Instant::now(), shown: None, bar }
    }

    /// Shows that `done` steps are done. Without a terminal: a line for the first and the last, and one every 10 s.
    pub fn at(&mut self, done: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(message.to_owned());
            bar.set_position(done);
            return;
        }
        let due = self.shown.is_none_or(|shown| shown.elapsed() >= LINE_EVERY);
        if due || done == self.steps {
            self.shown = Some(Instant::now());
            tracing::info!("{}", self.line(done, message, self.begun.elapsed()));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, done: u64, message: &str, elapsed: Duration) -> String {
        if done == self.first {
            return format!("{done}/{}  {message}", self.steps);
        }
        let rate = done.saturating_sub(self.first) as f64 / elapsed.as_secs_f64().max(1e-9);
        let left = self.steps.saturating_sub(done) as f64 / rate.max(1e-9);
        format!("{done}/{}  {message}  {rate:.2}/s  {} left", self.steps, clock(left))
    }
}

fn style() -> ProgressStyle {
    let template = "{wide_bar} {pos}/{len}  {msg}  {per_sec}  {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Seconds as `m:ss` or `h:mm:ss`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_counts_only_the_steps_of_this_start() {
        let progress = Progress { steps: 100, first: 40, begun: Instant::now(), shown: None, bar: None };
        assert_eq!(
            progress.line(50, "reward 0.250", Duration::from_secs(20)),
            "50/100  reward 0.250  0.50/s  1:40 left"
        );
    }

    #[test]
    fn nothing_is_foretold_before_the_first_step() {
        let progress = Progress { steps: 9, first: 0, begun: Instant::now(), shown: None, bar: None };
        assert_eq!(progress.line(0, "answered", Duration::from_secs(1)), "0/9  answered");
    }

    #[test]
    fn hours_are_shown_when_there_are_any() {
        assert_eq!(clock(59.6), "1:00");
        assert_eq!(clock(3725.0), "1:02:05");
    }
}
