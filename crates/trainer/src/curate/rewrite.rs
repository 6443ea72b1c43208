//! One pass over a file of records into another.

use std::fmt;
use std::path::Path;

use anyhow::{Result, anyhow};
use foveate_data::{Example, Records, line};

use crate::error::one_line;
use crate::run::{Progress, write_streaming};

/// Bad records that are named one by one.
const NAMED: usize = 20;

/// What became of the records.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    read: usize,
    kept: usize,
    bad: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} records kept", self.kept, self.read)?;
        if self.bad > 0 {
            write!(f, ", {} bad ones skipped", self.bad)?;
        }
        Ok(())
    }
}

/// Every record that can be read, in order, with its number; the others are named and counted.
pub(super) fn each(
    records: &Records,
    mut with: impl FnMut(usize, Result<Example, anyhow::Error>) -> Result<()>,
) -> Result<()> {
    let mut progress = Progress::start(0, records.len() as u64);
    for index in 0..records.len() {
        with(index, records.get(index).map_err(|error| anyhow!(error)))?;
        if index % 1000 == 999 {
            progress.at(index as u64 + 1, "records");
        }
    }
    progress.finish();
    Ok(())
}

/// Writes what `change` makes of every record, as foveate's own; it leaves out those that it gives nothing for.
pub(super) fn rewrite(
    records: &Records,
    output: &Path,
    mut change: impl FnMut(usize, Example) -> Result<Option<Example>>,
) -> Result<Counts> {
    let mut counts = Counts::default();
    write_streaming(output, |file| {
        each(records, |index, example| {
            counts.read += 1;
            match example {
                Ok(example) => {
                    if let Some(changed) = change(index, example)? {
                        let line = line(&changed, records.media_root());
                        writeln!(file, "{}", line.map_err(|fault| anyhow!("{}: {fault}", records.place(index)))?)?;
                        counts.kept += 1;
                    }
                }
                Err(error) => {
                    counts.bad += 1;
                    name(counts.bad, &error);
                }
            }
            Ok(())
        })
    })?;
    Ok(counts)
}

/// Names a bad record, unless too many were named.
pub(super) fn name(bad: usize, error: &anyhow::Error) {
    match bad {
        ..=NAMED => tracing::warn!("skipped: {}", one_line(error)),
        _ if bad == NAMED + 1 => tracing::warn!("more bad records are counted, but not named"),
        _ => {}
    }
}
