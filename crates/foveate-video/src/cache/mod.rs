//! Prepared frames on disk, so that a video is decoded once, or on another machine.

mod entry;
mod held;
mod key;
mod note;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::files::{is_temporary, write_atomic};
use crate::{Frames, VideoError};
use held::Held;
use note::{Hashes, Note, facts};

pub use key::CacheKey;

/// Where the notes lie.
const NOTES: &str = "names";

/// A directory of prepared frames, found by what is in the video: one safetensors file per contents and settings with
/// `frames` u8 `[N, H, W, 3]`, `indices` i64 `[N]`, `times` f64 `[N]`, `video` f64 `[2]` (total frames, duration in
/// seconds), and `seal` u8 `[32]`, which tells damage to any byte. A note for each video says what its contents were, so
/// that its frames are found where the video is not, and without reading it where it has not changed.
#[derive(Debug, Clone)]
pub struct FrameCache {
    dir: PathBuf,
    /// Most bytes of all entries.
    limit: Option<u64>,
    hashes: Hashes,
}

impl FrameCache {
    /// A cache in `dir`, which is made when first written to.
    pub fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), limit: None, hashes: Hashes::default() }
    }

    /// A cache in `dir` whose entries take at most `limit` bytes, however many processes add to it with such a limit.
    ///
    /// # Errors
    /// [`VideoError::Io`] if a folder cannot be read or written.
    pub fn bounded(dir: &Path, limit: u64) -> Result<Self, VideoError> {
        let cache = Self { limit: Some(limit), ..Self::open(dir) };
        Held::lock(dir)?.set(cache.bytes()?)?;
        Ok(cache)
    }

    /// The frames of a video, or `None` if there are none. Where the file `video` is there, they are those of its contents,
    /// whatever it was called when they were prepared; where it is not, those of the video that had this name.
    ///
    /// # Errors
    /// [`VideoError::BadFile`] if the entry is damaged; [`VideoError::Io`] if entry or video cannot be read.
    pub fn get(&self, key: &CacheKey, video: &Path) -> Result<Option<Frames>, VideoError> {
        let note = self.note(key)?;
        let hash = if video.exists() {
            let facts = facts(video)?;
            match note {
                Some(note) if note.facts == facts => note.hash,
                _ => self.hashes.of(video, facts)?,
            }
        } else {
            let Some(note) = note else { return Ok(None) };
            note.hash
        };
        let path = self.entry(&hash, key);
        match fs::read(&path) {
            Ok(bytes) => entry::parse(&bytes).map(Some).map_err(|reason| VideoError::BadFile { path, reason }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(VideoError::io(&path, e)),
        }
    }

    /// Keeps frames of one size, which are from the file `video`.
    ///
    /// # Errors
    /// [`VideoError::Picture`] for no frames or several sizes; [`VideoError::BadFile`] if another file of that name, with
    /// other contents, is noted and still there, since a machine without the videos could not tell them apart;
    /// [`VideoError::CacheFull`] if they do not fit in, [`VideoError::Io`] if the disk refuses.
    pub fn put(&self, key: &CacheKey, video: &Path, frames: &Frames) -> Result<(), VideoError> {
        let entry = entry::serialise(frames).map_err(|reason| VideoError::Picture { reason })?;
        // The note first: what is noted is not pruned.
        let path = self.entry(&self.remember(key, video)?, key);
        let Some(limit) = self.limit else { return write_atomic(&path, &entry) };
        let (held_file, bytes) = (Held::lock(&self.dir)?, entry.len() as u64);
        let old = || fs::metadata(&path).map_or(0, |facts| facts.len());
        let mut held = held_file.get().map_or_else(|| self.bytes(), Ok)?;
        if (held + bytes).saturating_sub(old()) > limit {
            self.prune()?;
            held = self.bytes()?;
        }
        let more = (held + bytes).saturating_sub(old());
        if more > limit {
            held_file.set(held)?;
            return Err(VideoError::CacheFull { path: self.dir.clone(), held, limit });
        }
        write_atomic(&path, &entry)?;
        held_file.set(more)
    }

    /// Notes which contents the video's name stands for, so that frames that were prepared of them under another name are
    /// found without it too; gives their hash.
    ///
    /// # Errors
    /// As [`FrameCache::put`].
    pub fn remember(&self, key: &CacheKey, video: &Path) -> Result<String, VideoError> {
        let facts = facts(video)?;
        // A damaged note is written anew.
        let known = self.note(key).ok().flatten();
        if let Some(known) = known.as_ref().filter(|known| known.facts == facts) {
            return Ok(known.hash.clone());
        }
        let path = self.note_path(key);
        let file = std::path::absolute(video).map_err(|e| VideoError::io(video, e))?;
        let note = Note { name: key.name.clone(), file, facts, hash: self.hashes.of(video, facts)? };
        let is_other = |known: &Note| known.hash != note.hash && known.file != note.file && known.file.exists();
        if let Some(known) = known.filter(is_other) {
            let reason = format!(
                "it is of {}, another video with the name of {}: prepare the two into folders of their own",
                known.file.display(),
                video.display()
            );
            return Err(VideoError::BadFile { path, reason });
        }
        note.write(&path)?;
        Ok(note.hash)
    }

    /// Bytes of all entries on disk.
    ///
    /// # Errors
    /// [`VideoError::Io`] if a folder cannot be read.
    pub fn bytes(&self) -> Result<u64, VideoError> {
        Ok(self.entries()?.into_iter().map(|(_, bytes)| bytes).sum())
    }

    /// Removes the entries of contents that no video is noted to have any more, and those of earlier versions.
    ///
    /// # Errors
    /// [`VideoError::Io`] if a folder cannot be read or a file not be removed.
    pub fn prune(&self) -> Result<(), VideoError> {
        // Entries first: one that is written from now on is not looked at, and the note of any other is there already.
        let entries = self.entries()?;
        let mut noted = HashSet::new();
        for folder in listed(&self.dir.join(NOTES))? {
            for path in listed(&folder)? {
                noted.extend(Note::read(&path).ok().flatten().map(|note| note.hash));
            }
        }
        for (path, _) in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !name.split_once('-').is_some_and(|(hash, _)| noted.contains(hash)) {
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(VideoError::io(&path, e)),
                    _ => {} // or another process was faster
                }
            }
        }
        Ok(())
    }

    /// All entries with their bytes.
    fn entries(&self) -> Result<Vec<(PathBuf, u64)>, VideoError> {
        let is_ours = |folder: &PathBuf| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let mut entries = Vec::new();
        for folder in listed(&self.dir)?.iter().filter(|folder| is_ours(folder)) {
            let is_entry = |path: &PathBuf| path.extension().is_some_and(|end| end == ENDING) && !is_temporary(path);
            for path in listed(folder)?.into_iter().filter(is_entry) {
                // It may be gone since, or renamed.
                if let Ok(facts) = fs::metadata(&path) {
                    entries.push((path, facts.len()));
                }
            }
        }
        Ok(entries)
    }

    fn note(&self, key: &CacheKey) -> Result<Option<Note>, VideoError> {
        Note::read(&self.note_path(key))
    }

    fn note_path(&self, key: &CacheKey) -> PathBuf {
        let name = blake3::hash(key.name.as_bytes()).to_hex();
        self.dir.join(NOTES).join(&name[..2]).join(format!("{name}.json"))
    }

    /// Where the frames of these contents lie; two letters as a folder keep directories small.
    fn entry(&self, hash: &str, key: &CacheKey) -> PathBuf {
        let folder = hash.get(..2).unwrap_or_default();
        self.dir.join(folder).join(format!("{hash}-{}.{ENDING}", key.settings))
    }
}

/// What the names of entries end in.
const ENDING: &str = "safetensors";

/// The paths in a folder; none if it is not there.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, VideoError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(VideoError::io(folder, e)),
    };
    entries.map(|entry| Ok(entry?.path())).collect::<Result<_, _>>().map_err(|e| VideoError::io(folder, e))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use image::RgbImage;

    use super::*;
    use crate::{PixelBudget, Sampling};

    fn frames() -> Frames {
        Frames {
            images: (0..3).map(|f| RgbImage::from_fn(4, 2, |x, y| image::Rgb([f, x as u8, y as u8]))).collect(),
            indices: vec![0, 5, 9],
            times: vec![0.0, 0.1 + 0.2, 1.0 / 3.0],
            total_frames: 10,
            duration: 1.1,
        }
    }

    fn key(name: &str, frames: usize) -> CacheKey {
        let budget = PixelBudget { min_pixels: 1, max_pixels: 2, total_pixels: None };
        CacheKey::new(Path::new(name), &Sampling::Uniform { frames }, &budget, 28, None).unwrap()
    }

    /// A cache that holds `frames` of the video `a.mp4` beside it.
    fn filled() -> (tempfile::TempDir, FrameCache, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (cache, video) = (FrameCache::open(&dir.path().join("cache")), dir.path().join("a.mp4"));
        write_atomic(&video, b"video").unwrap();
        assert_eq!(cache.get(&key("a.mp4", 3), &video).unwrap(), None);
        cache.put(&key("a.mp4", 3), &video, &frames()).unwrap();
        (dir, cache, video)
    }

    fn touch(video: &Path, seconds: u64) {
        let file = fs::OpenOptions::new().write(true).open(video).unwrap();
        file.set_modified(UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn what_is_put_comes_back_exactly_with_and_without_the_video() {
        let (_dir, cache, video) = filled();
        assert_eq!(cache.get(&key("a.mp4", 3), &video).unwrap(), Some(frames()));
        fs::remove_file(&video).unwrap();
        assert_eq!(cache.get(&key("a.mp4", 3), &video).unwrap(), Some(frames()));
    }

    #[test]
    fn keys_follow_the_name_and_the_settings() {
        assert_eq!(key("a.mp4", 3), key("a.mp4", 3));
        assert_ne!(key("a.mp4", 3), key("b.mp4", 3));
        assert_ne!(key("a.mp4", 3), key("a.mp4", 4));
        let budget = PixelBudget { min_pixels: 1, max_pixels: 2, total_pixels: None };
        let rate = |fps| CacheKey::new(Path::new("a"), &Sampling::Uniform { frames: 3 }, &budget, 28, fps).unwrap();
        assert_ne!(rate(Some(1.0)), rate(Some(3.0)));
    }

    #[test]
    fn a_touched_or_renamed_video_is_the_same_and_a_changed_one_is_another() {
        let (dir, cache, video) = filled();
        touch(&video, 5);
        assert_eq!(cache.get(&key("a.mp4", 3), &video).unwrap(), Some(frames()));
        let renamed = dir.path().join("b.mp4");
        fs::rename(&video, &renamed).unwrap();
        cache.remember(&key("b.mp4", 3), &renamed).unwrap();
        assert_eq!(cache.get(&key("b.mp4", 3), &renamed).unwrap(), Some(frames()));
        assert_eq!(cache.get(&key("c.mp4", 3), &dir.path().join("c.mp4")).unwrap(), None);

        write_atomic(&video, b"another").unwrap();
        assert_eq!(cache.get(&key("a.mp4", 3), &video).unwrap(), None);
        let other = Frames { duration: 2.0, ..frames() };
        cache.put(&key("a.mp4", 3), &video, &other).unwrap();
        fs::remove_file(&video).unwrap();
        assert_eq!(cache.get(&key("a.mp4", 3), &video).unwrap(), Some(other));
        fs::remove_file(&renamed).unwrap();
        assert_eq!(cache.get(&key("b.mp4", 3), &renamed).unwrap(), Some(frames()), "by its name alone");
    }

    #[test]
    fn a_video_without_a_note_is_read_for_its_hash_once() {
        let (_dir, cache, video) = filled();
        let other = key("other.mp4", 3); // a name without a note
        touch(&video, 7);
        assert_eq!(cache.get(&other, &video).unwrap(), Some(frames()));
        write_atomic(&video, b"large").unwrap();
        touch(&video, 7);
        assert_eq!(cache.get(&other, &video).unwrap(), Some(frames()), "nothing says that it changed");
        assert_eq!(FrameCache::open(&cache.dir).get(&other, &video).unwrap(), None, "who reads it sees that it did");
        touch(&video, 8);
        assert_eq!(cache.get(&other, &video).unwrap(), None);
    }

    #[test]
    fn another_video_of_the_same_name_is_refused() {
        let (dir, cache, _) = filled();
        let other = dir.path().join("elsewhere/a.mp4");
        write_atomic(&other, b"another").unwrap();
        let refused = cache.put(&key("a.mp4", 3), &other, &frames()).unwrap_err().to_string();
        assert!(refused.contains("another video") && refused.contains("elsewhere/a.mp4"), "{refused}");
        assert_eq!(cache.get(&key("a.mp4", 3), &other).unwrap(), None);
        write_atomic(&other, b"video").unwrap();
        assert_eq!(cache.get(&key("a.mp4", 3), &other).unwrap(), Some(frames()));
        // The data moved, and a video was replaced since.
        fs::remove_file(dir.path().join("a.mp4")).unwrap();
        write_atomic(&other, b"replaced").unwrap();
        cache.put(&key("a.mp4", 3), &other, &frames()).unwrap();
    }

    #[test]
    fn a_bounded_cache_forgets_what_changed_and_then_is_full() {
        let (dir, cache, video) = filled();
        let one = cache.bytes().unwrap();
        let [bounded, again] = [0; 2].map(|_| FrameCache::bounded(&cache.dir, 2 * one + 10).unwrap());
        write_atomic(&video, b"another").unwrap();
        bounded.put(&key("a.mp4", 3), &video, &frames()).unwrap();
        bounded.put(&key("a.mp4", 3), &video, &frames()).unwrap();
        let other = dir.path().join("b.mp4");
        write_atomic(&other, b"b").unwrap();
        again.put(&key("b.mp4", 3), &other, &frames()).unwrap();
        assert_eq!(cache.bytes().unwrap(), 2 * one);
        let full = bounded.put(&key("b.mp4", 2), &other, &frames()).unwrap_err();
        assert!(matches!(full, VideoError::CacheFull { held, .. } if held == 2 * one), "{full}");
        assert_eq!(cache.bytes().unwrap(), 2 * one);
    }

    #[test]
    fn pictures_that_change_in_a_folder_are_noticed() {
        let (dir, cache, _) = filled();
        let folder = dir.path().join("pictures");
        for name in ["1.png", "2.png"] {
            write_atomic(&folder.join(name), name.as_bytes()).unwrap();
        }
        cache.put(&key("pictures", 3), &folder, &frames()).unwrap();
        assert_eq!(cache.get(&key("pictures", 3), &folder).unwrap(), Some(frames()));
        fs::rename(folder.join("2.png"), folder.join("0.png")).unwrap();
        assert_eq!(cache.get(&key("pictures", 3), &folder).unwrap(), None);
        fs::rename(folder.join("0.png"), folder.join("2.png")).unwrap();
        assert_eq!(cache.get(&key("pictures", 3), &folder).unwrap(), Some(frames()));
        let mut file = fs::OpenOptions::new().write(true).open(folder.join("1.png")).unwrap();
        std::io::Write::write_all(&mut file, b"9").unwrap();
        drop(file);
        touch(&folder.join("1.png"), 4_000_000_000);
        assert_eq!(cache.get(&key("pictures", 3), &folder).unwrap(), None);
    }

    #[test]
    fn pruning_leaves_what_is_noted() {
        let (_dir, cache, video) = filled();
        let kept = cache.bytes().unwrap();
        assert!(kept > 0);
        write_atomic(&video, b"other").unwrap();
        cache.put(&key("a.mp4", 3), &video, &frames()).unwrap();
        let (old, foreign) = (cache.dir.join("ab/abcd.safetensors"), cache.dir.join("models/abcd.safetensors"));
        write_atomic(&old, b"earlier").unwrap();
        let being_written = cache.dir.join("ab/.tmp-1-2-abcd.safetensors");
        write_atomic(&being_written, b"half").unwrap();
        write_atomic(&foreign, b"not ours").unwrap();
        assert_eq!(cache.bytes().unwrap(), 2 * kept + 7);
        cache.prune().unwrap();
        assert_eq!(cache.bytes().unwrap(), kept);
        assert_eq!(cache.get(&key("a.mp4", 3), &video).unwrap(), Some(frames()));
        assert!(foreign.exists() && being_written.exists() && !old.exists());
    }

    #[test]
    fn damage_to_any_byte_is_noticed_and_mended_by_putting_the_frames_again() {
        let (_dir, cache, video) = filled();
        let path = cache.entries().unwrap().remove(0).0;
        let bytes = fs::read(&path).unwrap();
        let noticed = |damaged: &[u8]| {
            write_atomic(&path, damaged).unwrap();
            let error = cache.get(&key("a.mp4", 3), &video).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        };
        noticed(&bytes[..bytes.len() - 5]);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            noticed(&damaged);
        }
        cache.put(&key("a.mp4", 3), &video, &frames()).unwrap();
        assert_eq!(cache.get(&key("a.mp4", 3), &video).unwrap(), Some(frames()));
        assert_eq!(cache.bytes().unwrap(), bytes.len() as u64);
        let note = cache.note_path(&key("a.mp4", 3));
        let text = fs::read(&note).unwrap();
        for at in 0..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            write_atomic(&note, &damaged).unwrap();
            let error = cache.get(&key("a.mp4", 3), &video).unwrap_err().to_string();
            assert!(error.contains(note.to_str().unwrap()), "{error}");
        }
        cache.put(&key("a.mp4", 3), &video, &frames()).unwrap();
        assert_eq!(cache.get(&key("a.mp4", 3), &video).unwrap(), Some(frames()));
    }
}
