//! Log lines: to the terminal, above the progress bar, and to the run's own file.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{LazyLock, Mutex, Once, PoisonError};

use anyhow::Result;
use indicatif::MultiProgress;
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Bars on the terminal, which log lines must not tear.
pub(super) static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The run's own file, once there is a run.
static RUN_LOG: Mutex<Option<File>> = Mutex::new(None);

/// Begins logging, if that has not happened yet: information and worse, as plain lines on standard error. With `file`,
/// also there, with time and level, from now on; what is in it stays.
///
/// # Errors
/// The file cannot be opened.
pub fn init(file: Option<&Path>) -> Result<()> {
    static BEGIN: Once = Once::new();
    BEGIN.call_once(begin);
    if let Some(path) = file {
        let file = fs_err::OpenOptions::new().create(true).append(true).open(path)?;
        *RUN_LOG.lock().unwrap_or_else(PoisonError::into_inner) = Some(file.into_file());
    }
    Ok(())
}

fn begin() {
    let terminal = fmt::layer().event_format(Plain).with_writer(|| AboveBars);
    let file = fmt::layer().with_ansi(false).with_target(false).with_writer(|| RunLog);
    // Whoever uses this as a library may have a subscriber of their own, which then stays.
    let _ = tracing_subscriber::registry()
        .with(terminal.with_filter(filter_fn(|event| *event.level() <= Level::INFO && event.target() != LOG_FILE)))
        .with(file.with_filter(LevelFilter::INFO))
        .try_init();
}

/// Target of events that only the run's own file is to have.
pub const LOG_FILE: &str = "run.log";

/// Standard error, with bars taken away while a line is written.
struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The run's file, or nowhere.
struct RunLog;

impl Write for RunLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(file) = RUN_LOG.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            file.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The message, after its level if that is a warning or worse.
struct Plain;

impl<S, N> fmt::FormatEvent<S, N> for Plain
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    N: for<'a> fmt::FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &fmt::FmtContext<'_, S, N>,
        mut writer: fmt::format::Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        match *event.metadata().level() {
            Level::ERROR => write!(writer, "error: ")?,
            Level::WARN => write!(writer, "warning: ")?,
            _ => {}
        }
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
