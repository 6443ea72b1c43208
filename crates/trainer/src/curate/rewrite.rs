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

/// Every record that can be read, in order, with its number; the others are named, and counted.
pub(super) fn each(records: &Records, mut with: impl FnMut(usize, Example) -> Result<()>) -> Result<usize> {
    let mut progress = Progress::start(0, records.len() as u64);
    let mut bad = 0;
    for index in 0..records.len() {
        match records.get(index) {
            Ok(example) => with(index, example)?,
            Err(error) => {
                bad += 1;
                match bad {
                    ..=NAMED => tracing::warn!("skipped: {}", one_line(&error.into())),
                    _ if bad == NAMED + 1 => tracing::warn!("more bad records are counted, but not named"),
                    _ => {}
                }
            }
        }
        if index % 1000 == 999 {
            progress.at(index as u64 + 1, "records");
        }
    }
    progress.finish();
    Ok(bad)
}

/// Writes what `change` makes of every record, as foveate's own; it leaves out those that it gives nothing for.
pub(super) fn rewrite(
    records: &Records,
    output: &Path,
    mut change: impl FnMut(usize, Example) -> Option<Example>,
) -> Result<Counts> {
    let mut counts = Counts { read: records.len(), ..Counts::default() };
    write_streaming(output, |file| {
        counts.bad = each(records, |index, example| {
            if let Some(changed) = change(index, example) {
                let line = line(&changed, records.media_root());
                writeln!(file, "{}", line.map_err(|fault| anyhow!("{}: {fault}", records.place(index)))?)?;
                counts.kept += 1;
            }
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(counts)
}
