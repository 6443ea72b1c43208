//! `trainer data inspect`: what is in a file of records, and what is missing.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use anyhow::Result;
use foveate_data::{Example, Medium};
use serde::Serialize;

use super::{probe, records, rewrite, words};
use crate::cli::InspectArgs;
use crate::error::user_error;
use crate::run::write_json;

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Report {
    records: usize,
    bad: usize,
    source: BTreeMap<String, usize>,
    kind: BTreeMap<String, usize>,
    problem_type: BTreeMap<String, usize>,
    duration: BTreeMap<String, usize>,
    media: BTreeMap<&'static str, usize>,
    /// Examples with subtitles, and those whose file is there.
    subtitles: [usize; 2],
    /// Words of question and options.
    words: Range,
    options: Range,
    /// Media that are not there, or that `--probe` could not read.
    missing: Vec<PathBuf>,
    missing_count: usize,
    unreadable: Vec<String>,
    unreadable_count: usize,
    /// Ids that an earlier record has.
    repeated: Vec<String>,
    repeated_count: usize,
    /// Seconds of the videos, with `--probe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<Range>,
}

/// Least, mean and most of a number.
#[derive(Debug, Default, Serialize)]
struct Range {
    min: f64,
    mean: f64,
    max: f64,
    #[serde(skip)]
    count: usize,
}

impl Range {
    fn add(&mut self, value: f64) {
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.count += 1;
        self.mean += (value - self.mean) / self.count as f64;
    }
}

/// A medium's file.
struct Found {
    is_video: bool,
    is_there: bool,
}

/// Names of missing and unreadable media that a report holds.
const NAMED: usize = 100;

/// Counts the records and looks for their media.
///
/// # Errors
/// A user error: the records cannot be read; or the report cannot be written.
pub fn run(args: &InspectArgs) -> Result<()> {
    if args.probe && !cfg!(feature = "decode") {
        return Err(user_error("--probe: this build cannot decode videos"));
    }
    let records = records(&args.source)?;
    let mut report = Report { seconds: args.probe.then(Range::default), ..Report::default() };
    let (mut known, mut ids) = (BTreeMap::new(), HashSet::new());
    report.records = records.len();
    report.bad = rewrite::each(&records, |_, example| {
        report.add(&example, &mut known);
        report.name(example.id, &mut ids);
        Ok(())
    })?;
    if args.probe {
        let there = known.into_iter().filter(|(_, found)| found.is_there);
        report.probe(there.map(|(path, found)| (path, found.is_video)).collect())?;
    }
    print!("{}", report.table());
    if let Some(path) = &args.output {
        write_json(path, &report)?;
    }
    Ok(())
}

impl Report {
    fn name(&mut self, id: String, ids: &mut HashSet<String>) {
        if let Some(repeated) = ids.replace(id) {
            self.repeated_count += 1;
            if self.repeated.len() < NAMED {
                self.repeated.push(repeated);
            }
        }
    }

    fn add(&mut self, example: &Example, known: &mut BTreeMap<PathBuf, Found>) {
        let counted = [
            (&mut self.source, example.source.clone()),
            (&mut self.kind, example.kind.clone()),
            (&mut self.problem_type, example.problem.to_string()),
            (&mut self.duration, example.duration.clone()),
        ];
        for (counts, name) in counted {
            if !name.is_empty() {
                *counts.entry(name).or_default() += 1;
            }
        }
        self.words.add(words(example) as f64);
        self.options.add(example.options.len() as f64);
        if let Some(file) = &example.subtitles {
            self.subtitles[0] += 1;
            self.subtitles[1] += usize::from(file.path.is_file());
        }
        for medium in &example.media {
            let is_video = matches!(medium, Medium::Video { .. });
            *self.media.entry(if is_video { "video" } else { "image" }).or_default() += 1;
            if known.contains_key(medium.path()) {
                continue;
            }
            let is_there = medium.path().exists();
            known.insert(medium.path().to_owned(), Found { is_video, is_there });
            if !is_there {
                self.missing_count += 1;
                if self.missing.len() < NAMED {
                    self.missing.push(medium.path().to_owned());
                }
            }
        }
    }

    /// Opens every file and decodes a frame of it.
    fn probe(&mut self, media: Vec<(PathBuf, bool)>) -> Result<()> {
        probe::each(media, |found| match found {
            Ok(Some(seconds)) => self.seconds.get_or_insert_default().add(seconds),
            Ok(None) => {}
            Err(error) => {
                self.unreadable_count += 1;
                if self.unreadable.len() < NAMED {
                    self.unreadable.push(error);
                }
            }
        })
    }

    fn table(&self) -> String {
        let mut rows = vec![("records".to_owned(), self.records.to_string()), ("bad".to_owned(), self.bad.to_string())];
        let counted = [
            ("source", &self.source),
            ("kind", &self.kind),
            ("problem type", &self.problem_type),
            ("duration", &self.duration),
        ];
        for (name, counts) in counted {
            rows.extend(counts.iter().map(|(value, count)| (format!("{name} {value}"), count.to_string())));
        }
        rows.extend(self.media.iter().map(|(kind, count)| (format!("{kind}s"), count.to_string())));
        let [with, there] = self.subtitles;
        if with > 0 {
            rows.push(("with subtitles".into(), format!("{there} of {with}")));
        }
        let range = |range: &Range| format!("{:.1} ({:.0} to {:.0})", range.mean, range.min, range.max);
        rows.push(("words, mean (range)".into(), range(&self.words)));
        rows.push(("options, mean (range)".into(), range(&self.options)));
        if let Some(seconds) = self.seconds.as_ref().filter(|seconds| seconds.count > 0) {
            rows.push(("seconds of a video, mean (range)".into(), range(seconds)));
        }
        rows.push(("missing files".into(), self.missing_count.to_string()));
        if self.seconds.is_some() {
            rows.push(("unreadable files".into(), self.unreadable_count.to_string()));
        }
        rows.push(("repeated ids".into(), self.repeated_count.to_string()));
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let lines = rows.iter().map(|(name, value)| format!("{name:<width$}  {value}\n"));
        let named = self.missing.iter().take(5).map(|path| format!("missing: {}\n", path.display()));
        let broken = self.unreadable.iter().take(5).map(|error| format!("unreadable: {error}\n"));
        let repeated = self.repeated.iter().take(5).map(|id| format!("repeated id: {id}\n"));
        lines.chain(named).chain(broken).chain(repeated).collect()
    }
}
