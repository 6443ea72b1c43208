//! Files that are whole or not there: written under another name, then renamed.

use std::fs::{File, TryLockError};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{UserContext, user_error};

/// Writes a file so that a crash leaves the old one or the new one, never a part.
///
/// # Errors
/// The file cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_streaming(path, |file| Ok(file.write_all(bytes)?))
}

/// The same for what is too large to be held at once.
///
/// # Errors
/// The file cannot be written, or those of `write`; then the old file is left as it was.
pub fn write_streaming(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let name = path.file_name().context("a file's path must end in a name").user()?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", std::process::id()));
    let partial = path.with_file_name(hidden);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs_err::create_dir_all(folder).user()?;
    }
    let mut file = BufWriter::new(fs_err::File::create(&partial).user()?);
    if let Err(error) = write(&mut file) {
        drop(file);
        let _ = fs_err::remove_file(&partial); // the first error is the one to tell
        return Err(error);
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    fs_err::rename(&partial, path)?;
    Ok(())
}

/// Holds a folder, which is made if need be, for this process and those that inherit the file, by a [`lock`] in it.
///
/// # Errors
/// A user error: another process holds the folder (`busy` says what it does there), or it cannot be written to.
pub fn hold(folder: &Path, busy: &str) -> Result<File> {
    fs_err::create_dir_all(folder).user()?;
    let file = fs_err::File::create(folder.join(".lock")).user()?.into_file();
    lock(&file, folder, busy)?;
    Ok(file)
}

/// Locks a file, by which others are kept from `path`. Where the file system has no locks it warns.
///
/// # Errors
/// A user error: another process has locked it.
pub fn lock(file: &File, path: &Path, busy: &str) -> Result<()> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(user_error(format!("{}: {busy}", path.display()))),
        Err(TryLockError::Error(error)) => {
            tracing::warn!("{}: other processes cannot be kept out, for it cannot be locked: {error}", path.display());
        }
    }
    Ok(())
}

/// Writes values as JSON, one a line, atomically.
///
/// # Errors
/// The file cannot be written, or a value has no JSON form.
pub fn write_lines<T: Serialize>(path: &Path, values: &[T]) -> Result<()> {
    write_streaming(path, |file| put_lines(file, values))
}

/// Values as JSON, one a line.
///
/// # Errors
/// A value has no JSON form.
pub fn lines<T: Serialize>(values: &[T]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    put_lines(&mut bytes, values)?;
    Ok(bytes)
}

fn put_lines<T: Serialize>(mut file: &mut dyn Write, values: &[T]) -> Result<()> {
    for value in values {
        serde_json::to_writer(&mut file, value)?;
        file.write_all(b"\n")?;
    }
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
