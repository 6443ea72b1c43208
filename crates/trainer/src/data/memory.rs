//! Decoded frames kept in memory, so that a later epoch does not decode them again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use foveate_video::Frames;
use quick_cache::{Weighter, sync::Cache};

use super::media::Clip;

/// Frames of videos as they were sampled and brought to size, up to a number of bytes; those of little use are forgotten
/// first. Threads that ask for the same video at the same time decode it once.
#[derive(Debug)]
pub(super) struct FrameMemory(Cache<Key, Arc<Frames>, Bytes>);

/// The file, and the bits of its part's ends.
type Key = (PathBuf, Option<[u64; 2]>);

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Key, Arc<Frames>> for Bytes {
    fn weight(&self, _: &Key, frames: &Arc<Frames>) -> u64 {
        frames.images.iter().map(|image| image.as_raw().len() as u64).sum()
    }
}

impl FrameMemory {
    /// Keeps at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        // So few are expected that all lie in one shard: a single video may take a good part of the limit.
        Self(Cache::with_weighter(32, limit as u64, Bytes))
    }

    /// The kept frames of a video, or those that `read` gives.
    ///
    /// # Errors
    /// Those of `read`; nothing is kept of them.
    pub(super) fn get_or(&self, path: &Path, clip: Clip, read: impl FnOnce() -> Result<Frames>) -> Result<Arc<Frames>> {
        let key = (path.to_owned(), clip.map(|ends| ends.map(f64::to_bits)));
        self.0.get_or_insert_with(&key, || read().map(Arc::new))
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use image::RgbImage;

    use super::*;

    fn frames(index: usize) -> Frames {
        let images = vec![RgbImage::new(10, 10)]; // 300 bytes
        Frames { images, indices: vec![index], times: vec![0.0], total_frames: 1, duration: 1.0 }
    }

    #[test]
    fn a_video_is_read_once_while_there_is_room_and_never_more_is_kept_than_that() {
        let memory = FrameMemory::new(600);
        let mut read = 0;
        for index in [1, 2, 1, 2, 1, 3, 4, 1, 5] {
            let found = memory.get_or(Path::new(&index.to_string()), None, || {
                read += 1;
                Ok(frames(index))
            });
            assert_eq!(found.unwrap().indices, [index]);
            assert!(memory.0.weight() <= 600);
        }
        assert_eq!(memory.0.weight(), 600);
        assert!((5..9).contains(&read), "{read}");
    }

    #[test]
    fn an_error_is_not_kept_and_without_memory_nothing_is() {
        let memory = FrameMemory::new(400);
        let path = Path::new("a.mp4");
        assert!(memory.get_or(path, None, || bail!("broken")).is_err());
        assert!(memory.get_or(path, None, || Ok(frames(0))).is_ok());
        assert!(memory.get_or(path, None, || bail!("not read again")).is_ok());
        let none = FrameMemory::new(0);
        assert!(none.get_or(path, None, || Ok(frames(0))).is_ok());
        assert!(none.get_or(path, None, || bail!("read again")).is_err());
    }
}
