//! Atomic writes: a file is there whole or not at all.

use std::path::{Path, PathBuf};

use std::fs;

use crate::VideoError;

/// What temporary names begin with.
const TEMPORARY: &str = ".tmp-";

/// A name beside `path` that no other process or thread uses, with the same extension.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{TEMPORARY}{}-{unique}-{name}", std::process::id()))
}

/// Whether it is a [`temporary_name`], of a file that is being written.
pub(crate) fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY))
}

/// The name that a file with this [`temporary_name`] was to get; `None` for other names.
#[cfg(feature = "decode")]
pub(crate) fn intended_name(name: &str) -> Option<&str> {
    name.strip_prefix(TEMPORARY)?.splitn(3, '-').nth(2)
}

/// Writes `bytes` to a temporary name and renames it to `path`; makes the folder if needed.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), VideoError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| VideoError::io(parent, e))?;
    }
    let temporary = temporary_name(path);
    let written = fs::File::create(&temporary).and_then(|mut file| {
        std::io::Write::write_all(&mut file, bytes)?;
        fs::rename(&temporary, path)
    });
    written.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        VideoError::Io { path: path.to_owned(), source: e }
    })
}
