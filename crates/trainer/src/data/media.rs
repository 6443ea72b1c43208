//! From a file to the patches that the model takes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(not(feature = "decode"))]
use anyhow::bail;
use anyhow::{Context, Result};
use foveate_video::{
    CacheKey, FrameCache, Frames, ImageProcessor, Patches, PixelBudget, Sampling, TimeScale, read_picture,
};
use image::RgbImage;

use super::View;
use super::memory::FrameMemory;
use crate::config::DataTable;
use crate::error::{UserContext, one_line};

/// The part of a video that is looked at, seconds from its first frame; all of it if none.
pub type Clip = Option<[f64; 2]>;

/// Reads videos and images under one choice of frames and pixels.
#[derive(Debug, Clone)]
pub struct MediaReader {
    root: PathBuf,
    processor: ImageProcessor,
    sampling: Sampling,
    budget: PixelBudget,
    time_scale: TimeScale,
    #[cfg(feature = "decode")]
    decode: foveate_video::DecodeOptions,
    folder_fps: Option<f64>,
    cache: Option<FrameCache>,
    memory: Arc<FrameMemory>,
}

/// The frames of a video, apart.
#[derive(Debug, Clone)]
pub struct Apart {
    /// Each as an image.
    pub frames: Vec<Patches>,
    /// Their places in the video, counted from 0.
    pub indices: Vec<usize>,
    /// Their times, in seconds from the first frame of the video.
    pub times: Vec<f64>,
    /// Length of the video, seconds.
    pub duration: f64,
}

/// Longest side, in pixels, of a frame that is shown to people.
#[cfg(feature = "decode")]
const SHOWN_SIDE: f64 = 128.0;

/// A video as people see it, a picture for each temporal grid.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The first sampled frame of each grid.
    pub pictures: Vec<RgbImage>,
    /// Times of all sampled frames, in seconds.
    pub times: Vec<f64>,
}

impl MediaReader {
    /// A reader for the model in `view.model`, of media that records name relative to `root`.
    ///
    /// # Errors
    /// A user error: the model's preprocessing cannot be read.
    pub fn new(view: &View<'_>, data: &DataTable, root: &Path) -> Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            processor: ImageProcessor::from_dir(view.model).user()?,
            sampling: view.frames.sampling(),
            budget: view.pixels.budget(),
            time_scale: data.time_scale,
            #[cfg(feature = "decode")]
            decode: data.decode,
            folder_fps: data.decode.folder_fps,
            cache: data.cache.as_deref().map(FrameCache::open),
            memory: Arc::new(FrameMemory::new(data.memory_mib << 20)),
        })
    }

    /// The same with a cache that `data prepare` may fill.
    pub fn with_cache(self, cache: FrameCache) -> Self {
        Self { cache: Some(cache), ..self }
    }

    /// The patches of a video, or of the part of it within `clip`.
    ///
    /// # Errors
    /// It cannot be read, decoded within the limits, or brought to size.
    pub fn video(&self, path: &Path, clip: Clip) -> Result<Patches> {
        let frames = self.memory.get_or(path, clip, || self.frames(path, clip))?;
        Ok(self.processor.video(&frames, self.time_scale)?)
    }

    /// The sampled frames of a video, each as an image is: alone in a temporal grid.
    ///
    /// # Errors
    /// As [`MediaReader::video`].
    pub fn frames_apart(&self, path: &Path, clip: Clip) -> Result<Apart> {
        let all = self.memory.get_or(path, clip, || self.frames(path, clip))?;
        let frames = all.images.iter().map(|image| self.processor.frame(image)).collect::<Result<_, _>>()?;
        Ok(Apart { frames, indices: all.indices.clone(), times: all.times.clone(), duration: all.duration })
    }

    /// The patches of some of the frames that [`MediaReader::frames_apart`] gives, by their places among them.
    ///
    /// # Errors
    /// As [`MediaReader::video`].
    pub fn video_of(&self, path: &Path, clip: Clip, places: &[usize]) -> Result<Patches> {
        let frames = self.memory.get_or(path, clip, || self.frames(path, clip))?;
        Ok(self.processor.video(&frames.only(places), self.time_scale)?)
    }

    /// The sampled frames of a video, from the cache if they are there whole. A damaged entry is written anew.
    fn frames(&self, path: &Path, clip: Clip) -> Result<Frames> {
        match self.cached(path, clip) {
            Ok(Some(frames)) => Ok(frames),
            Ok(None) => self.decode(path, clip),
            Err(damaged) => {
                let Ok(frames) = self.decode(path, clip) else { return Err(damaged) };
                tracing::warn!("{}; decoded again", one_line(&damaged));
                if let Some(cache) = &self.cache
                    && let Err(error) = cache.put(&self.key(path, clip, path.is_dir())?, path, &frames)
                {
                    tracing::warn!("{error}");
                }
                Ok(frames)
            }
        }
    }

    /// Frames, height and width in pixels of what patches show.
    pub fn shape(&self, patches: &Patches) -> [usize; 3] {
        let [height, width] = [patches.grid.h, patches.grid.w].map(|side| side * self.processor.patch_size);
        [patches.times.len(), height, width]
    }

    /// The sampled frames of a video for people to see: in its own proportions where it can be decoded, else as prepared.
    ///
    /// # Errors
    /// It can neither be decoded nor is it prepared.
    pub fn pictures(&self, path: &Path, clip: Clip) -> Result<Vec<RgbImage>> {
        Ok(self.sampled(path, clip)?.images)
    }

    /// The same, one for each temporal grid.
    ///
    /// # Errors
    /// As [`MediaReader::pictures`].
    pub fn shown(&self, path: &Path, clip: Clip) -> Result<Shown> {
        let frames = self.sampled(path, clip)?;
        let pictures = frames.images.into_iter().step_by(self.processor.temporal_patch_size).collect();
        Ok(Shown { pictures, times: frames.times })
    }

    #[cfg(feature = "decode")]
    fn sampled(&self, path: &Path, clip: Clip) -> Result<Frames> {
        let small = |(width, height): (u32, u32), _| {
            let scale = (SHOWN_SIDE / f64::from(width.max(height))).min(1.0);
            Ok([width, height].map(|side| (f64::from(side) * scale).round().max(1.0) as u32).into())
        };
        match foveate_video::decode_resized(path, &self.sampling(clip), &self.decode, &small) {
            Ok(frames) => Ok(frames),
            Err(error) => self.cached(path, clip)?.ok_or(error.into()),
        }
    }

    #[cfg(not(feature = "decode"))]
    fn sampled(&self, path: &Path, clip: Clip) -> Result<Frames> {
        self.frames(path, clip)
    }

    /// The patches of an image.
    ///
    /// # Errors
    /// It cannot be read or brought to size.
    pub fn image(&self, path: &Path) -> Result<Patches> {
        Ok(self.processor.image(&read_picture(path)?, &self.budget)?)
    }

    /// Sees to it that the video's frames are in the cache; whether they had to be decoded.
    ///
    /// # Errors
    /// It cannot be decoded, or there is no cache to write to.
    pub fn prepare(&self, path: &Path, clip: Clip) -> Result<bool> {
        let cache = self.cache.as_ref().context("no cache to prepare frames in")?;
        let key = self.key(path, clip, path.is_dir())?;
        if path.exists() {
            cache.remember(&key, path)?;
        }
        if matches!(cache.get(&key, path), Ok(Some(_))) {
            return Ok(false);
        }
        cache.put(&key, path, &self.decode(path, clip)?)?;
        Ok(true)
    }

    /// Prepared frames are found by the path within the data, which is the same on every machine.
    fn key(&self, path: &Path, clip: Clip, is_folder: bool) -> Result<CacheKey> {
        let name = path.strip_prefix(&self.root).unwrap_or(path);
        let rate = self.folder_fps.filter(|_| is_folder);
        Ok(CacheKey::new(name, &self.sampling(clip), &self.budget, self.processor.factor(), rate)?)
    }

    /// The sampling of a whole video, or of a part of it.
    fn sampling(&self, clip: Clip) -> Sampling {
        match clip {
            None => self.sampling.clone(),
            Some(span) => Sampling::Within { span, sampling: Box::new(self.sampling.clone()) },
        }
    }

    fn cached(&self, path: &Path, clip: Clip) -> Result<Option<Frames>> {
        let Some(cache) = &self.cache else { return Ok(None) };
        let frames = cache.get(&self.key(path, clip, path.is_dir())?, path)?;
        if frames.is_none() && self.folder_fps.is_some() && !path.exists() {
            return Ok(cache.get(&self.key(path, clip, true)?, path)?);
        }
        Ok(frames)
    }

    #[cfg(feature = "decode")]
    fn decode(&self, path: &Path, clip: Clip) -> Result<Frames> {
        Ok(self.processor.decode_video(path, &self.sampling(clip), &self.budget, &self.decode)?)
    }

    #[cfg(not(feature = "decode"))]
    fn decode(&self, path: &Path, _: Clip) -> Result<Frames> {
        bail!(
            "{}: not among prepared frames (data.cache), and this build cannot decode: see `trainer data prepare`",
            path.display()
        )
    }
}
