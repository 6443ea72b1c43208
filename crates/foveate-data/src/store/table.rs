//! Comma-separated values: a record is an object of the columns' texts.

use std::fs::File;
use std::os::unix::fs::FileExt;

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
pub(super) fn index(file: &File, separator: u8) -> csv::Result<(Table, Vec<Span>)> {
    let mut reader = ReaderBuilder::new().delimiter(separator).flexible(true).from_reader(file);
    let columns = reader.headers()?.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect();
    let (mut spans, mut record) = (Vec::new(), ByteRecord::new());
    while reader.read_byte_record(&mut record)? {
        let (start, line) = record.position().map_or((0, 0), |at| (at.byte(), at.line() as u32));
        let (blank, lines) = line_ends(file, start)?;
        let start = start + blank;
        let length = (reader.position().byte() - start) as u32;
        spans.push(Span { start, length, number: line + lines, key: 0 });
    }
    Ok((Table { columns, separator }, spans))
}

/// The line ends from this byte on, in bytes and lines: the reader ends a row at its "\r", so that "\n" and blank lines
/// come before the next.
fn line_ends(file: &File, start: u64) -> std::io::Result<(u64, u32)> {
    let (mut bytes, mut lines, mut byte) = (0, 0, [0]);
    while file.read_at(&mut byte, start + bytes)? == 1 && matches!(byte[0], b'\r' | b'\n') {
        bytes += 1;
        lines += u32::from(byte[0] == b'\n');
    }
    Ok((bytes, lines))
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

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    #[test]
    fn rows_are_named_by_their_lines_whatever_ends_them() {
        for (text, lines) in [
            ("a,b\n1,2\n3,4\n", vec![2, 3]),
            ("a,b\r\n1,2\r\n3,4", vec![2, 3]),
            ("a,b\n\n1,\"x\n y\"\n\n\n3,4\n\n", vec![3, 7]),
            ("a,b\r\n\r\n1,2\r\n", vec![3]),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.rewind().unwrap();
            let (table, spans) = index(&file, b',').unwrap();
            assert_eq!(spans.iter().map(|span| span.number).collect::<Vec<_>>(), lines, "{text:?}");
            for span in spans {
                let mut bytes = vec![0; span.length as usize];
                file.read_exact_at(&mut bytes, span.start).unwrap();
                assert_eq!(row(&table, &bytes).unwrap().as_object().unwrap().len(), 2, "{text:?}");
            }
        }
    }
}
