//! Rows of a parquet file.

use std::fs::File;
use std::io::{BufWriter, Seek, Write};

use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{FileReader, SerializedFileReader};

/// Writes the rows as lines into a file without a name, so that they can be read in any order without being held in
/// memory: parquet gives them a group at a time only.
pub(super) fn spool(file: File) -> Result<File> {
    let reader = SerializedFileReader::new(file)?;
    let external = |error: std::io::Error| ParquetError::External(Box::new(error));
    let mut lines = BufWriter::new(tempfile::tempfile().map_err(external)?);
    for row in reader.get_row_iter(None)? {
        writeln!(lines, "{}", row?.to_json_value()).map_err(external)?;
    }
    let mut lines = lines.into_inner().map_err(|error| external(error.into_error()))?;
    lines.rewind().map_err(external)?;
    Ok(lines)
}
