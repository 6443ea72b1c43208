//! Files of records: where each record stands is in memory, the records themselves are read one at a time.

mod json;
mod lines;
#[cfg(feature = "parquet")]
mod parquet;
mod table;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{DataError, Fault};

/// A file of records.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    file: File,
    layout: Layout,
    spans: Vec<Span>,
}

#[derive(Debug)]
enum Layout {
    /// A JSON value on each line.
    Lines,
    /// Comma-separated values.
    Table(table::Table),
    /// The elements of a JSON array, the entries of a JSON object, or the rows of a parquet file, written out as lines.
    Records,
}

/// Where a record stands in the file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u64,
    length: u32,
    /// What it is called by: its line, or its number counted from 1.
    number: u32,
    /// Length of its key, which stands directly before it (with quotes, colon and blanks); 0 if it has none.
    key: u32,
}

/// A record with its key, if the file is an object.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) key: Option<String>,
    pub(crate) value: Value,
}

impl Store {
    /// Opens a file and finds its records. What it is is told by the end of its name: `jsonl`, `json` (an array of
    /// records, or an object of them), `csv`, `tsv` or `parquet`.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let of_file = |source| DataError::File { path: path.to_owned(), source };
        let extension = extension(path);
        let file = File::open(path).map_err(of_file)?;
        let content = |reason: String| DataError::Content { path: path.to_owned(), reason };
        let (file, layout, spans) = match extension.as_str() {
            "jsonl" => {
                let spans = lines::index(&file).map_err(of_file)?;
                (file, Layout::Lines, spans)
            }
            "json" => {
                let spans = json::index(&file).map_err(|error| content(error.to_string()))?;
                (file, Layout::Records, spans)
            }
            "csv" | "tsv" => {
                let separator = if extension == "tsv" { b'\t' } else { b',' };
                let (table, spans) = table::index(&file, separator).map_err(|error| content(error.to_string()))?;
                (file, Layout::Table(table), spans)
            }
            #[cfg(feature = "parquet")]
            "parquet" => {
                let rows = parquet::spool(file).map_err(|error| content(error.to_string()))?;
                let spans = lines::index(&rows).map_err(of_file)?;
                (rows, Layout::Records, spans)
            }
            #[cfg(not(feature = "parquet"))]
            "parquet" => {
                return Err(content("this build does not read parquet: build with `--features parquet`".to_owned()));
            }
            _ => {
                let known = "expected a file of records: .jsonl, .json, .csv, .tsv or .parquet";
                return Err(content(known.to_owned()));
            }
        };
        Ok(Self { path: path.to_owned(), file, layout, spans })
    }

    /// Whether a file's name ends as that of a file of records.
    pub(crate) fn knows(path: &Path) -> bool {
        ["json", "jsonl", "csv", "tsv", "parquet"].contains(&extension(path).as_str())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// File and line, or file and number of the record.
    pub(crate) fn place(&self, index: usize) -> String {
        let number = self.spans.get(index).map_or(0, |span| span.number);
        match self.layout {
            Layout::Lines | Layout::Table(_) => format!("{}:{number}", self.path.display()),
            Layout::Records => format!("{}: record {number}", self.path.display()),
        }
    }

    /// Reads a record, counted from 0.
    pub(crate) fn read(&self, index: usize) -> Result<Raw, DataError> {
        let fault = |reason: String| DataError::Record { place: self.place(index), fault: Fault::new("", reason) };
        let span = self.spans.get(index).ok_or_else(|| fault("no such record".to_owned()))?;
        let mut bytes = vec![0; (span.key + span.length) as usize];
        let start = span.start - u64::from(span.key);
        let of_file = |source| DataError::File { path: self.path.clone(), source };
        self.file.read_exact_at(&mut bytes, start).map_err(of_file)?;
        let (key, value) = bytes.split_at(span.key as usize);
        if let Layout::Table(table) = &self.layout {
            return table::row(table, value).map(|value| Raw { key: None, value }).map_err(fault);
        }
        let key = json::key(key).map_err(|error| fault(reason(&error)))?;
        let value = serde_json::from_slice(unmarked(value)).map_err(|error| fault(reason(&error)))?;
        Ok(Raw { key, value })
    }
}

/// A text without the byte order mark that some editors begin it with.
pub(crate) fn unmarked(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

fn extension(path: &Path) -> String {
    path.extension().and_then(|end| end.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// serde_json's message with the column only: lines are counted from the record's beginning, which tells nothing.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("{what}, column {}", error.column()),
        None => text,
    }
}
