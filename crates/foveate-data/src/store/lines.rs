//! A JSON value on each line.

use std::fs::File;
use std::io::{BufRead, BufReader, Error, Result};

use super::Span;

/// The lines that are not blank.
pub(super) fn index(file: &File) -> Result<Vec<Span>> {
    let mut reader = BufReader::new(file);
    let (mut spans, mut start, mut number) = (Vec::new(), 0u64, 0u32);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(spans);
        }
        number += 1;
        if !line.trim_ascii().is_empty() {
            let length = u32::try_from(read).map_err(|_| Error::other(format!("line {number} has more than 4 GiB")))?;
            spans.push(Span { start, length, number, key: 0 });
        }
        start += read as u64;
    }
}
