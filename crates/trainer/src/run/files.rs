//! Files that are whole or not there: written under another name, then renamed.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes a file so that a crash leaves the old one or the new one, never a part.
///
/// # Errors
/// The file cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().context("a file's path must end in a name")?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".tmp");
    let partial = path.with_file_name(hidden);
    let mut file = fs_err::File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs_err::rename(&partial, path)?;
    Ok(())
}

/// Writes a value as JSON, atomically.
///
/// # Errors
/// The file cannot be written, or the value has no JSON form.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    write_atomically(path, &text)
}

/// Reads a value from a JSON file.
///
/// # Errors
/// The file cannot be read or holds something else.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs_err::read(path)?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}
