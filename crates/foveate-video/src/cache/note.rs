//! What a cache notes of a video: which contents its name stood for.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::{VideoError, folder};

/// What is known of the video of a name.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) name: String,
    /// The file, as it was found where its frames were prepared.
    pub(super) file: PathBuf,
    pub(super) bytes: u64,
    /// When it was last changed, nanoseconds since 1970.
    pub(super) changed: i64,
    /// BLAKE3 of its contents.
    pub(super) hash: String,
    /// BLAKE3 of all this, by which damage is noticed.
    pub(super) seal: String,
}

impl Note {
    /// The same with its seal.
    pub(super) fn sealed(self) -> Self {
        let Self { name, file, bytes, changed, hash, .. } = &self;
        let seal = blake3::hash(format!("{name}\n{}\n{bytes}\n{changed}\n{hash}", file.display()).as_bytes());
        Self { seal: seal.to_hex().to_string(), ..self }
    }

    /// The note in a file; `None` if there is none.
    ///
    /// # Errors
    /// [`VideoError::BadFile`] if it is damaged; [`VideoError::Io`] if it cannot be read.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, VideoError> {
        let bad = |reason: String| VideoError::BadFile { path: path.to_owned(), reason };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(VideoError::io(path, e)),
        };
        let note: Self = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let seal = note.seal.clone();
        let note = note.sealed();
        if note.seal == seal {
            Ok(Some(note))
        } else {
            Err(bad("the note is damaged: it does not have its hash".to_owned()))
        }
    }
}

/// Bytes of a video, and when it was last changed, nanoseconds since 1970; of a folder those of its pictures.
pub(super) fn facts(video: &Path) -> Result<(u64, i64), VideoError> {
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

/// BLAKE3 of a video's contents: of its file, or of the names and contents of its pictures if it is a folder.
pub(super) fn hash(video: &Path) -> Result<String, VideoError> {
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
