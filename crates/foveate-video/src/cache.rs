//! Prepared frames on disk, so that a video is decoded once, or on another machine.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use image::RgbImage;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Serialize;
use std::fs;

use crate::files::write_atomic;
use crate::{Frames, PixelBudget, Sampling, VideoError};

/// Changes when decoding or resizing changes what the frames are, so that old entries are not found again.
const VERSION: u32 = 2;

/// What a cache entry depends on, hashed: the video's name, the sampling, the pixel budget and the processor's factor.
///
/// The name is the path within the data, the same on every machine; the file itself need not be there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey(String);

#[derive(Serialize)]
struct KeyParts<'a> {
    version: u32,
    name: &'a str,
    sampling: &'a Sampling,
    budget: &'a PixelBudget,
    factor: usize,
}

impl CacheKey {
    /// The key of the video called `name` under these settings.
    ///
    /// # Errors
    /// [`VideoError::BadFile`] for settings that cannot be written down.
    pub fn new(name: &Path, sampling: &Sampling, budget: &PixelBudget, factor: usize) -> Result<Self, VideoError> {
        let parts = KeyParts { version: VERSION, name: &name.to_string_lossy(), sampling, budget, factor };
        let text = serde_json::to_vec(&parts)
            .map_err(|e| VideoError::BadFile { path: name.to_owned(), reason: e.to_string() })?;
        Ok(Self(blake3::hash(&text).to_hex().to_string()))
    }
}

/// A directory of prepared frames: one safetensors file per key with `frames` u8 `[N, H, W, 3]`, `indices` i64 `[N]`,
/// `times` f64 `[N]`, `video` f64 `[2]` (total frames, duration in seconds), and of the video file that they are from
/// `changed` i64 `[1]` (nanoseconds since 1970) and `hash` u8 `[32]` (BLAKE3); `seal` u8 `[32]` tells damage to any byte.
#[derive(Debug, Clone)]
pub struct FrameCache {
    dir: PathBuf,
}

impl FrameCache {
    /// A cache in `dir`, which is made when first written to.
    pub fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The frames kept under `key`, or `None` if there are none. Where the file `video` is there, it must still be the
    /// one that the frames are from: by its time of change or else by its contents.
    ///
    /// # Errors
    /// [`VideoError::BadFile`] if the entry is damaged; [`VideoError::Io`] if entry or video cannot be read.
    pub fn get(&self, key: &CacheKey, video: &Path) -> Result<Option<Frames>, VideoError> {
        let Some((frames, source)) = self.entry(key)? else { return Ok(None) };
        let fresh = !video.exists() || source.changed == changed(video)? || source.hash == hash(video)?;
        Ok(fresh.then_some(frames))
    }

    /// Keeps frames of one size, which are from the file `video`, under `key`.
    ///
    /// # Errors
    /// [`VideoError::Picture`] for no frames or several sizes; [`VideoError::BadFile`] if frames of another video are
    /// kept under that name, since a machine without the videos could not tell them apart; [`VideoError::Io`] if the
    /// disk refuses.
    pub fn put(&self, key: &CacheKey, video: &Path, frames: &Frames) -> Result<(), VideoError> {
        let source = Source { changed: changed(video)?, hash: hash(video)? };
        // A damaged entry is written anew.
        if self.entry(key).ok().flatten().is_some_and(|(_, other)| other.hash != source.hash) {
            let reason = format!(
                "it holds frames of another video, or of an earlier one, with the name of {}; remove it, or prepare into \
                 a folder of its own",
                video.display()
            );
            return Err(VideoError::BadFile { path: self.path(key), reason });
        }
        let bytes = serialise(frames, &source).map_err(|reason| VideoError::Picture { reason })?;
        write_atomic(&self.path(key), &bytes)
    }

    /// Bytes of all entries on disk.
    ///
    /// # Errors
    /// [`VideoError::Io`] if a folder cannot be read.
    pub fn bytes(&self) -> Result<u64, VideoError> {
        let mut bytes = 0;
        let listed = |folder: &Path| match fs::read_dir(folder) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(|e| VideoError::io(folder, e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(VideoError::io(folder, e)),
        };
        for folder in listed(&self.dir)?.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()) {
            let entries = listed(&folder)?;
            bytes += entries.iter().filter_map(|entry| Some(entry.metadata().ok()?.len())).sum::<u64>();
        }
        Ok(bytes)
    }

    fn entry(&self, key: &CacheKey) -> Result<Option<(Frames, Source)>, VideoError> {
        let path = self.path(key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(VideoError::io(&path, e)),
        };
        parse(&bytes).map(Some).map_err(|reason| VideoError::BadFile { path, reason })
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        // Two letters of the key as a folder keep directories small.
        self.dir.join(&key.0[..2]).join(format!("{}.safetensors", key.0))
    }
}

/// The video file that frames are from.
struct Source {
    changed: i64,
    hash: [u8; 32],
}

/// When the file was last changed, nanoseconds since 1970.
fn changed(video: &Path) -> Result<i64, VideoError> {
    let modified = fs::metadata(video).and_then(|facts| facts.modified()).map_err(|e| VideoError::io(video, e))?;
    Ok(modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64))
}

/// BLAKE3 of the file's contents.
fn hash(video: &Path) -> Result<[u8; 32], VideoError> {
    let mut hasher = blake3::Hasher::new();
    let file = fs::File::open(video).map_err(|e| VideoError::io(video, e))?;
    hasher.update_reader(file).map_err(|e| VideoError::io(video, e))?;
    Ok(*hasher.finalize().as_bytes())
}

fn serialise(frames: &Frames, source: &Source) -> Result<Vec<u8>, String> {
    let first = frames.images.first().ok_or("expected at least one frame, found none")?;
    if frames.images.iter().any(|i| i.dimensions() != first.dimensions()) {
        return Err("expected frames of one size".to_owned());
    }
    let count = frames.images.len();
    let pixels: Vec<u8> = frames.images.iter().flat_map(|i| i.as_raw()).copied().collect();
    let indices: Vec<u8> = frames.indices.iter().flat_map(|&i| (i as i64).to_le_bytes()).collect();
    let times: Vec<u8> = frames.times.iter().flat_map(|t| t.to_le_bytes()).collect();
    let video: Vec<u8> = [frames.total_frames as f64, frames.duration].iter().flat_map(|x| x.to_le_bytes()).collect();
    let changed = source.changed.to_le_bytes();
    let shape = vec![count, first.height() as usize, first.width() as usize, 3];
    let view = |dtype, shape, data| TensorView::new(dtype, shape, data).map_err(|e| e.to_string());
    let tensors = [
        ("frames", view(Dtype::U8, shape, &pixels)?),
        ("indices", view(Dtype::I64, vec![count], &indices)?),
        ("times", view(Dtype::F64, vec![count], &times)?),
        ("video", view(Dtype::F64, vec![2], &video)?),
        ("changed", view(Dtype::I64, vec![1], &changed)?),
        ("hash", view(Dtype::U8, vec![32], &source.hash)?),
        ("seal", view(Dtype::U8, vec![32], &[0; 32])?),
    ];
    let mut bytes = safetensors::serialize(tensors, None).map_err(|e| e.to_string())?;
    let at = seal_in(&bytes, &SafeTensors::deserialize(&bytes).map_err(|e| e.to_string())?)?;
    let seal = blake3::hash(&bytes);
    bytes[at].copy_from_slice(seal.as_bytes());
    Ok(bytes)
}

/// Where the seal stands: BLAKE3 of the whole file with the seal itself as zeros.
fn seal_in(bytes: &[u8], file: &SafeTensors<'_>) -> Result<std::ops::Range<usize>, String> {
    let seal = file.tensor("seal").map_err(|e| e.to_string())?.data();
    let start = seal.as_ptr() as usize - bytes.as_ptr() as usize;
    if seal.len() == 32 { Ok(start..start + 32) } else { Err("`seal`: expected 32 bytes".to_owned()) }
}

fn parse(bytes: &[u8]) -> Result<(Frames, Source), String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let at = seal_in(bytes, &file)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..at.start]).update(&[0; 32]).update(&bytes[at.end..]);
    if hasher.finalize().as_bytes() != &bytes[at] {
        return Err("the file is damaged: its contents do not have their hash".to_owned());
    }
    let tensor = |name, dtype| {
        let tensor = file.tensor(name).map_err(|e| e.to_string())?;
        if tensor.dtype() == dtype {
            Ok(tensor)
        } else {
            Err(format!("`{name}`: expected {dtype:?}, found {:?}", tensor.dtype()))
        }
    };
    let frames = tensor("frames", Dtype::U8)?;
    let &[count, height, width, 3] = frames.shape() else {
        return Err(format!("`frames`: expected [N, H, W, 3], found {:?}", frames.shape()));
    };
    let size = height * width * 3;
    if size == 0 {
        return Err("`frames`: expected pictures, found an empty size".to_owned());
    }
    let images: Vec<RgbImage> = frames
        .data()
        .chunks_exact(size)
        .filter_map(|raw| RgbImage::from_raw(width as u32, height as u32, raw.to_vec()))
        .collect();
    let indices =
        words(tensor("indices", Dtype::I64)?.data()).map(|w| i64::from_le_bytes(w) as usize).collect::<Vec<_>>();
    let times: Vec<f64> = words(tensor("times", Dtype::F64)?.data()).map(f64::from_le_bytes).collect();
    let video: Vec<f64> = words(tensor("video", Dtype::F64)?.data()).map(f64::from_le_bytes).collect();
    let changed: Vec<i64> = words(tensor("changed", Dtype::I64)?.data()).map(i64::from_le_bytes).collect();
    let hash: Result<[u8; 32], _> = tensor("hash", Dtype::U8)?.data().try_into();
    match (&video[..], &changed[..], hash) {
        (&[total, duration], &[changed], Ok(hash)) if [images.len(), indices.len(), times.len()] == [count; 3] => {
            Ok((Frames { images, indices, times, total_frames: total as usize, duration }, Source { changed, hash }))
        }
        _ => Err(format!("expected {count} frames, indices and times, and the facts of the video")),
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 8]> + '_ {
    bytes.as_chunks::<8>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        CacheKey::new(Path::new(name), &Sampling::Uniform { frames }, &budget, 28).unwrap()
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
    }

    #[test]
    fn a_touched_video_is_the_same_and_a_changed_one_is_another() {
        let (_dir, cache, video) = filled();
        touch(&video, 5);
        assert_eq!(cache.get(&key("a.mp4", 3), &video).unwrap(), Some(frames()));
        write_atomic(&video, b"other").unwrap();
        touch(&video, 7);
        assert_eq!(cache.get(&key("a.mp4", 3), &video).unwrap(), None);
        let refused = cache.put(&key("a.mp4", 3), &video, &frames()).unwrap_err().to_string();
        assert!(refused.contains("another video") && refused.contains("a.mp4"), "{refused}");
    }

    #[test]
    fn damage_to_any_byte_is_noticed_and_mended_by_putting_the_frames_again() {
        let (_dir, cache, video) = filled();
        let path = cache.path(&key("a.mp4", 3));
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
    }
}
