//! Comma-separated values: a record is an object of the columns' texts.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use csv::{ByteRecord, ReaderBuilder};
use serde_json::Value;

use super::Span;

/// What a row is read by.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<String>,
    separator: u8,
}

/// The columns of a file and its rows.
pub(super) fn index(mut file: &File, separator: u8) -> csv::Result<(Table, Vec<Span>)> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = ReaderBuilder::new().delimiter(separator).flexible(true).from_reader(file);
    let columns = reader.headers()?.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect();
    let (mut spans, mut record) = (Vec::new(), ByteRecord::new());
    while reader.read_byte_record(&mut record)? {
        let (start, number) = record.position().map_or((0, 0), |at| (at.byte(), at.line() as u32));
        let length = (reader.position().byte() - start) as u32;
        spans.push(Span { start, length, number, key: 0 });
    }
    Ok((Table { columns, separator }, spans))
}

/// A row as an object.
pub(super) fn row(table: &Table, bytes: &[u8]) -> Result<Value, String> {
    let columns = &table.columns;
    let mut reader =
        ReaderBuilder::new().has_headers(false).flexible(true).delimiter(table.separator).from_reader(bytes);
    let row = reader.records().next().ok_or("an empty row")?.map_err(|error| error.to_string())?;
    if row.len() != columns.len() {
        return Err(format!("expected {} columns, found {}", columns.len(), row.len()));
    }
    let cells = columns.iter().zip(row.iter()).map(|(name, cell)| (name.clone(), Value::from(cell)));
    Ok(Value::Object(cells.collect()))
}
