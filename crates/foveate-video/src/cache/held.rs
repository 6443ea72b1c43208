//! How much a bounded cache holds, kept in a file that one process at a time may change.

use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::VideoError;

/// The file `held` of a cache's folder, locked for as long as this lives.
pub(super) struct Held {
    path: PathBuf,
    file: File,
}

impl Held {
    /// Waits until no other process or thread has it.
    ///
    /// # Errors
    /// [`VideoError::Io`] if it cannot be opened.
    pub(super) fn lock(dir: &Path) -> Result<Self, VideoError> {
        let path = dir.join("held");
        let opened = create_dir_all(dir).and_then(|()| {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            file.lock()?;
            Ok(file)
        });
        let file = opened.map_err(|e| VideoError::io(&path, e))?;
        Ok(Self { path, file })
    }

    /// The bytes noted in it; `None` if that cannot be read.
    pub(super) fn get(&self) -> Option<u64> {
        let mut text = String::new();
        let mut file = &self.file;
        file.rewind().and_then(|()| file.read_to_string(&mut text)).ok()?;
        text.trim().parse().ok()
    }

    /// Notes the bytes.
    ///
    /// # Errors
    /// [`VideoError::Io`] if it cannot be written.
    pub(super) fn set(&self, bytes: u64) -> Result<(), VideoError> {
        let mut file = &self.file;
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{bytes}"));
        written.map_err(|e| VideoError::io(&self.path, e))
    }
}
