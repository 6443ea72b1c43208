//! What a cache notes of a video: which contents its name stood for.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::files::write_atomic;
use crate::{VideoError, folder};

/// What is known of the video of a name: a line of JSON, and a line with its BLAKE3 by which damage is noticed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) name: String,
    /// The file, as it was found where its frames were prepared.
    pub(super) file: PathBuf,
    /// Its bytes, and when it was last changed.
    pub(super) facts: Facts,
    /// BLAKE3 of its contents.
    pub(super) hash: String,
}

impl Note {
    /// The note in a file; `None` if there is none.
    ///
    /// # Errors
    /// [`VideoError::BadFile`] if it is damaged; [`VideoError::Io`] if it cannot be read.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, VideoError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(VideoError::io(path, e)),
        };
        let whole = str::from_utf8(&bytes).ok().and_then(|text| text.split_once('\n'));
        let whole = whole.filter(|(note, seal)| blake3::hash(note.as_bytes()).to_hex().as_str() == *seal);
        let note = whole.and_then(|(note, _)| serde_json::from_str(note).ok());
        let damaged = || "the note is damaged, or another version's: it does not have its hash".to_owned();
        note.map(Some).ok_or_else(|| VideoError::BadFile { path: path.to_owned(), reason: damaged() })
    }

    /// Writes the note.
    ///
    /// # Errors
    /// [`VideoError::Io`] if the disk refuses.
    pub(super) fn write(&self, path: &Path) -> Result<(), VideoError> {
        let bad = |e: serde_json::Error| VideoError::BadFile { path: path.to_owned(), reason: e.to_string() };
        let note = serde_json::to_string(self).map_err(bad)?;
        let seal = blake3::hash(note.as_bytes()).to_hex();
        write_atomic(path, format!("{note}\n{seal}").as_bytes())
    }
}

/// Bytes of a video, and when it was last changed, nanoseconds since 1970; of a folder those of its pictures.
pub(super) type Facts = (u64, i64);

/// A video's facts.
pub(super) fn facts(video: &Path) -> Result<Facts, VideoError> {
    let of = |path: &Path| {
        let facts = fs::metadata(path).map_err(|e| VideoError::io(path, e))?;
        let modified = facts.modified().map_err(|e| VideoError::io(path, e))?;
        Ok((facts.len(), modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)))
    };
    if !video.is_dir() {
        return of(video);
    }
    let pictures = folder::pictures(video)?.iter().map(|path| of(path)).collect::<Result<Vec<_>, VideoError>>()?;
    let (_, own) = of(video)?; // changes with the names in it
    Ok(pictures.into_iter().fold((0, own), |(bytes, last), (more, changed)| (bytes + more, last.max(changed))))
}

/// Hashes of videos that have no note of their present contents, remembered so that a file is read for it once. A few
/// hundred bytes a video.
#[derive(Debug, Clone, Default)]
pub(super) struct Hashes(Arc<Mutex<HashMap<PathBuf, (Facts, String)>>>);

impl Hashes {
    /// The hash of a video of these facts.
    ///
    /// # Errors
    /// [`VideoError::Io`] if it cannot be read.
    pub(super) fn of(&self, video: &Path, facts: Facts) -> Result<String, VideoError> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, hash)) = known().get(video).filter(|(known, _)| *known == facts) {
            return Ok(hash.clone());
        }
        let hash = hash(video)?; // the lock is not held meanwhile: others read other videos
        known().insert(video.to_owned(), (facts, hash.clone()));
        Ok(hash)
    }
}

/// BLAKE3 of a video's contents: of its file, or of the names and contents of its pictures if it is a folder.
fn hash(video: &Path) -> Result<String, VideoError> {
    let mut hasher = blake3::Hasher::new();
    let add = |hasher: &mut blake3::Hasher, path: &Path| {
        let file = fs::File::open(path).map_err(|e| VideoError::io(path, e))?;
        hasher.update_reader(file).map(drop).map_err(|e| VideoError::io(path, e))
    };
    if video.is_dir() {
        for picture in folder::pictures(video)? {
            hasher.update(picture.file_name().unwrap_or_default().as_encoded_bytes());
            add(&mut hasher, &picture)?;
        }
    } else {
        add(&mut hasher, video)?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}
