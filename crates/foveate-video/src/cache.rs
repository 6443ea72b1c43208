//! Prepared frames on disk, so that a video is decoded once, or on another machine.

use std::path::{Path, PathBuf};

use fs_err as fs;
use image::RgbImage;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Serialize;

use crate::files::write_atomic;
use crate::{Frames, PixelBudget, Sampling, VideoError};

/// Changes when decoding or resizing changes what the frames are, so that old entries are not found again.
const VERSION: u32 = 1;

/// What a cache entry depends on, hashed: the file (canonical path, size, time of change), the sampling, the pixel
/// budget and the processor's factor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey(String);

#[derive(Serialize)]
struct KeyParts<'a> {
    version: u32,
    path: &'a str,
    size: u64,
    modified_nanos: u128,
    sampling: &'a Sampling,
    budget: &'a PixelBudget,
    factor: usize,
}

impl CacheKey {
    /// The key of a video file under these settings.
    ///
    /// # Errors
    /// [`VideoError::Missing`] or [`VideoError::Io`] if the file's facts cannot be read.
    pub fn new(video: &Path, sampling: &Sampling, budget: &PixelBudget, factor: usize) -> Result<Self, VideoError> {
        let io = |e| VideoError::io(video, e);
        let path = fs::canonicalize(video).map_err(io)?;
        let facts = fs::metadata(&path).map_err(io)?;
        let modified = facts.modified().map_err(io)?;
        let parts = KeyParts {
            version: VERSION,
            path: &path.to_string_lossy(),
            size: facts.len(),
            modified_nanos: modified.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos()),
            sampling,
            budget,
            factor,
        };
        let text = serde_json::to_vec(&parts)
            .map_err(|e| VideoError::BadFile { path: video.to_owned(), reason: e.to_string() })?;
        Ok(Self(blake3::hash(&text).to_hex().to_string()))
    }
}

/// A directory of prepared frames: one safetensors file per key with `frames` u8 `[N, H, W, 3]`, `indices` i64 `[N]`,
/// `times` f64 `[N]`, and `video` f64 `[2]` (total frames, duration in seconds).
#[derive(Debug, Clone)]
pub struct FrameCache {
    dir: PathBuf,
}

impl FrameCache {
    /// A cache in `dir`, which is made when first written to.
    pub fn open(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The frames kept under `key`, or `None` if there are none.
    ///
    /// # Errors
    /// [`VideoError::BadFile`] if the entry is damaged.
    pub fn get(&self, key: &CacheKey) -> Result<Option<Frames>, VideoError> {
        let path = self.path(key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(VideoError::io(&path, e)),
        };
        parse(&bytes).map(Some).map_err(|reason| VideoError::BadFile { path, reason })
    }

    /// Keeps frames of one size under `key`.
    ///
    /// # Errors
    /// [`VideoError::Picture`] for no frames or several sizes; [`VideoError::Io`] if the disk refuses.
    pub fn put(&self, key: &CacheKey, frames: &Frames) -> Result<(), VideoError> {
        let bytes = serialise(frames).map_err(|reason| VideoError::Picture { reason })?;
        write_atomic(&self.path(key), &bytes)
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        // Two letters of the key as a folder keep directories small.
        self.dir.join(&key.0[..2]).join(format!("{}.safetensors", key.0))
    }
}

fn serialise(frames: &Frames) -> Result<Vec<u8>, String> {
    let first = frames.images.first().ok_or("expected at least one frame, found none")?;
    if frames.images.iter().any(|i| i.dimensions() != first.dimensions()) {
        return Err("expected frames of one size".to_owned());
    }
    let count = frames.images.len();
    let pixels: Vec<u8> = frames.images.iter().flat_map(|i| i.as_raw()).copied().collect();
    let indices: Vec<u8> = frames.indices.iter().flat_map(|&i| (i as i64).to_le_bytes()).collect();
    let times: Vec<u8> = frames.times.iter().flat_map(|t| t.to_le_bytes()).collect();
    let video: Vec<u8> =
        [frames.total_frames as f64, frames.duration].iter().flat_map(|x| x.to_le_bytes()).collect();
    let shape = vec![count, first.height() as usize, first.width() as usize, 3];
    let view = |dtype, shape, data| TensorView::new(dtype, shape, data).map_err(|e| e.to_string());
    let tensors = [
        ("frames", view(Dtype::U8, shape, &pixels)?),
        ("indices", view(Dtype::I64, vec![count], &indices)?),
        ("times", view(Dtype::F64, vec![count], &times)?),
        ("video", view(Dtype::F64, vec![2], &video)?),
    ];
    safetensors::serialize(tensors, None).map_err(|e| e.to_string())
}

fn parse(bytes: &[u8]) -> Result<Frames, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
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
    let indices = words(tensor("indices", Dtype::I64)?.data()).map(|w| i64::from_le_bytes(w) as usize).collect::<Vec<_>>();
    let times: Vec<f64> = words(tensor("times", Dtype::F64)?.data()).map(f64::from_le_bytes).collect();
    let video: Vec<f64> = words(tensor("video", Dtype::F64)?.data()).map(f64::from_le_bytes).collect();
    match video[..] {
        [total, duration] if [images.len(), indices.len(), times.len()] == [count; 3] => {
            Ok(Frames { images, indices, times, total_frames: total as usize, duration })
        }
        _ => Err(format!("expected {count} frames, indices and times, and 2 facts of the video")),
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

    fn key(dir: &Path, frames: usize) -> CacheKey {
        let video = dir.join("a.mp4");
        if !video.exists() {
            write_atomic(&video, b"video").unwrap();
        }
        let budget = PixelBudget { min_pixels: 1, max_pixels: 2, total_pixels: None };
        CacheKey::new(&video, &Sampling::Uniform { frames }, &budget, 28).unwrap()
    }

    #[test]
    fn what_is_put_comes_back_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FrameCache::open(&dir.path().join("cache"));
        let key = key(dir.path(), 3);
        assert_eq!(cache.get(&key).unwrap(), None);
        cache.put(&key, &frames()).unwrap();
        assert_eq!(cache.get(&key).unwrap(), Some(frames()));
    }

    #[test]
    fn keys_follow_the_file_and_the_settings() {
        let dir = tempfile::tempdir().unwrap();
        let before = key(dir.path(), 3);
        assert_eq!(before, key(dir.path(), 3));
        assert_ne!(before, key(dir.path(), 4));
        write_atomic(&dir.path().join("a.mp4"), b"another video").unwrap();
        assert_ne!(before, key(dir.path(), 3));
    }

    #[test]
    fn a_damaged_entry_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let cache = FrameCache::open(dir.path());
        let key = key(dir.path(), 3);
        cache.put(&key, &frames()).unwrap();
        let path = cache.path(&key);
        let bytes = fs::read(&path).unwrap();
        write_atomic(&path, &bytes[..bytes.len() - 5]).unwrap();
        let error = cache.get(&key).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}
