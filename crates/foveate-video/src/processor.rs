//! Preprocessing as a model's `preprocessor_config.json` asks for.

use std::path::Path;

use image::RgbImage;
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fs;

use crate::patches::{patchify, second_per_grid};
#[cfg(feature = "decode")]
use crate::{DecodeOptions, Sampling};
use crate::{Frames, Patches, PixelBudget, TimeScale, VideoError, resize_bicubic, smart_resize};

/// File that a model directory keeps its preprocessing in.
const CONFIG_FILE: &str = "preprocessor_config.json";

/// Sizes and normalisation of a model's pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Patches per side that the merger joins into one token.
    pub merge_size: usize,
    /// Frames per temporal grid.
    pub temporal_patch_size: usize,
    /// Mean of each channel, on the scale 0 to 1.
    pub image_mean: [f32; 3],
    /// Standard deviation of each channel, on the scale 0 to 1.
    pub image_std: [f32; 3],
    /// At least this many pixels per picture.
    pub min_pixels: usize,
    /// At most this many pixels per picture.
    pub max_pixels: usize,
}

impl ImageProcessor {
    /// What the released Qwen2.5-VL models ask for: patches of 14, merged by 2, in pairs of frames, CLIP's mean and standard
    /// deviation, 56 x 56 to 28 x 28 x 16,384 pixels.
    pub const RELEASED: Self = Self {
        patch_size: 14,
        merge_size: 2,
        temporal_patch_size: 2,
        image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        image_std: [0.268_629_55, 0.261_302_6, 0.275_777_1],
        min_pixels: 56 * 56,
        max_pixels: 28 * 28 * 16_384,
    };

    /// Reads `preprocessor_config.json` in a model directory. The pixel bounds may stand as `min_pixels` and
    /// `max_pixels` or inside `size`, as newer files write them (`shortest_edge`, `longest_edge`).
    ///
    /// # Errors
    /// [`VideoError::ProcessorConfig`] naming a missing or wrong field; [`VideoError::Io`] without the file.
    pub fn from_dir(model_dir: &Path) -> Result<Self, VideoError> {
        let path = model_dir.join(CONFIG_FILE);
        let text = fs::read(&path).map_err(|source| VideoError::Io { path: path.clone(), source })?;
        let map: Map<String, Value> = serde_json::from_slice(&text)
            .map_err(|e| VideoError::BadFile { path: path.clone(), reason: format!("expected a JSON object: {e}") })?;
        let config = Config { path: &path, map: &map };
        let processor = Self {
            patch_size: config.field("patch_size")?,
            merge_size: config.field("merge_size")?,
            temporal_patch_size: config.field("temporal_patch_size")?,
            image_mean: config.field("image_mean")?,
            image_std: config.field("image_std")?,
            min_pixels: config.pixels("min_pixels", "shortest_edge")?,
            max_pixels: config.pixels("max_pixels", "longest_edge")?,
        };
        for (field, size) in [
            ("patch_size", processor.patch_size),
            ("merge_size", processor.merge_size),
            ("temporal_patch_size", processor.temporal_patch_size),
        ] {
            if size == 0 {
                return Err(config.error(field, "expected a number above 0, found 0".to_owned()));
            }
        }
        Ok(processor)
    }

    /// Sides of a prepared picture are multiples of this: patch times merge, 28 for the released models.
    pub fn factor(&self) -> usize {
        self.patch_size * self.merge_size
    }

    /// The model's own pixel bounds as a budget.
    pub fn budget(&self) -> PixelBudget {
        PixelBudget { min_pixels: self.min_pixels, max_pixels: self.max_pixels, total_pixels: None }
    }

    /// Size (width, height) that a picture of `width` x `height` in a video of `frames` sampled frames is brought to.
    ///
    /// # Errors
    /// Those of [`smart_resize`].
    pub fn target_size(
        &self,
        (width, height): (u32, u32),
        frames: usize,
        budget: &PixelBudget,
    ) -> Result<(u32, u32), VideoError> {
        let size = (height as usize, width as usize);
        let (height, width) = smart_resize(size, self.factor(), budget.min_pixels as f64, budget.per_frame(frames))?;
        Ok((width as u32, height as u32))
    }

    /// Resizes every frame into the budget; indices and times stay.
    ///
    /// # Errors
    /// [`VideoError::Picture`] when the sizes cannot be met.
    pub fn resize_video(&self, frames: Frames, budget: &PixelBudget) -> Result<Frames, VideoError> {
        let count = frames.images.len();
        let resize = |image: &RgbImage| {
            let size = self.target_size(image.dimensions(), count, budget)?;
            Ok(resize_bicubic(image, size))
        };
        let images = frames.images.par_iter().map(resize).collect::<Result<_, VideoError>>()?;
        Ok(Frames { images, ..frames })
    }

    /// Decodes the wanted frames of a video, each resized into the budget as soon as it is decoded.
    ///
    /// # Errors
    /// Those of [`decode`](crate::decode) and [`ImageProcessor::resize_video`].
    #[cfg(feature = "decode")]
    pub fn decode_video(
        &self,
        path: &Path,
        sampling: &Sampling,
        budget: &PixelBudget,
        options: &DecodeOptions,
    ) -> Result<Frames, VideoError> {
        crate::decode_resized(path, sampling, options, &|size, frames| self.target_size(size, frames, budget))
    }

    /// Patches of a resized video. An odd number of frames repeats the last one.
    ///
    /// # Errors
    /// [`VideoError::Picture`] for no frames, frames of several sizes, or sides that are no multiples of the factor.
    pub fn video(&self, frames: &Frames, time_scale: TimeScale) -> Result<Patches, VideoError> {
        let (pixels, grid) = patchify(self, &frames.images)?;
        let seconds = second_per_grid(frames, self.temporal_patch_size, time_scale);
        Ok(Patches::new(pixels, grid, seconds).sampled_at(
            frames.indices.clone(),
            frames.times.clone(),
            frames.duration,
        ))
    }

    /// Patches of one frame of a resized video, as an image of its own: it fills a whole temporal grid.
    ///
    /// # Errors
    /// [`VideoError::Picture`] for sides that are no multiples of the factor.
    pub fn frame(&self, image: &RgbImage) -> Result<Patches, VideoError> {
        let (pixels, grid) = patchify(self, std::slice::from_ref(image))?;
        Ok(Patches::new(pixels, grid, 0.0))
    }

    /// Patches of one image, resized into the budget; it fills a whole temporal grid.
    ///
    /// # Errors
    /// [`VideoError::Picture`] when the size cannot be met.
    pub fn image(&self, image: &RgbImage, budget: &PixelBudget) -> Result<Patches, VideoError> {
        let size = self.target_size(image.dimensions(), 1, budget)?;
        let (pixels, grid) = patchify(self, &[resize_bicubic(image, size)])?;
        Ok(Patches::new(pixels, grid, 0.0).sampled_at(vec![0], vec![0.0], 0.0))
    }

    /// Normalised value of each level of each channel.
    pub(crate) fn normalisation(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|c| {
            std::array::from_fn(|level| (level as f32 / 255.0 - self.image_mean[c]) / self.image_std[c])
        })
    }
}

struct Config<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl Config<'_> {
    fn field<T: DeserializeOwned>(&self, name: &'static str) -> Result<T, VideoError> {
        let value = self.map.get(name).ok_or_else(|| self.error(name, "expected it, found nothing".to_owned()))?;
        T::deserialize(value).map_err(|e| self.error(name, format!("{e}, found {value}")))
    }

    fn pixels(&self, name: &'static str, edge: &str) -> Result<usize, VideoError> {
        match self.map.get("size").and_then(|size| size.get(edge)).and_then(Value::as_u64) {
            Some(pixels) if !self.map.contains_key(name) => Ok(pixels as usize),
            _ => self.field(name),
        }
    }

    fn error(&self, field: &'static str, reason: String) -> VideoError {
        VideoError::ProcessorConfig { path: self.path.to_owned(), field, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Grid;

    const RELEASED: &str = r#"{"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2,
        "merge_size": 2, "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "image_processor_type": "Qwen2VLImageProcessor"}"#;

    fn from_text(text: &str) -> Result<ImageProcessor, VideoError> {
        let dir = tempfile::tempdir().unwrap();
        crate::files::write_atomic(&dir.path().join(CONFIG_FILE), text.as_bytes()).unwrap();
        ImageProcessor::from_dir(dir.path())
    }

    fn tiny() -> ImageProcessor {
        ImageProcessor {
            patch_size: 2,
            merge_size: 2,
            temporal_patch_size: 2,
            image_mean: [0.5, 0.25, 0.0],
            image_std: [0.5, 0.5, 1.0],
            min_pixels: 16,
            max_pixels: 1 << 20,
        }
    }

    fn frames(count: usize) -> Frames {
        let image = |f: usize| RgbImage::from_fn(8, 4, |x, y| image::Rgb([f as u8, x as u8, y as u8]));
        Frames {
            images: (0..count).map(image).collect(),
            indices: crate::uniform_indices(10, count),
            times: crate::uniform_indices(10, count).iter().map(|&i| i as f64 / 5.0).collect(),
            total_frames: 10,
            duration: 2.0,
        }
    }

    #[test]
    fn the_released_config_reads() {
        let processor = from_text(RELEASED).unwrap();
        assert_eq!(processor, ImageProcessor::RELEASED);
        assert_eq!(processor.factor(), 28);
        assert_eq!((processor.min_pixels, processor.max_pixels), (3136, 12_845_056));
        let newer = RELEASED.replace(
            r#""min_pixels": 3136, "max_pixels": 12845056"#,
            r#""size": {"shortest_edge": 3136, "longest_edge": 12845056}"#,
        );
        assert_eq!(from_text(&newer).unwrap(), processor);
    }

    #[test]
    fn a_missing_field_is_named() {
        for field in ["patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std", "max_pixels"] {
            let error = from_text(&RELEASED.replace(field, "other")).unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}`")), "{error}");
        }
        let error = from_text(&RELEASED.replace(": 14", ": 0")).unwrap_err().to_string();
        assert!(error.contains("`patch_size`"), "{error}");
    }

    #[test]
    fn patches_stand_in_qwens_order() {
        let processor = tiny();
        let patches = processor.video(&frames(4), TimeScale::True).unwrap();
        assert_eq!(patches.grid, Grid { t: 2, h: 2, w: 4 });
        assert_eq!(patches.pixels.dim(), (16, 24));
        // Row 5 of grid 0: second block to the right, inner (0, 1): patch x = 3, y = 0.
        // Column: channel 1 (x), frame 1 of the grid, y 1, x 0 -> pixel x = 6.
        let column = 8 + 4 + 2;
        assert_eq!(patches.pixels[[5, column]], (6.0 / 255.0 - 0.25) / 0.5);
        // Channel 0 is the frame's number: row 8 begins grid 1, its second frame is frame 3.
        assert_eq!(patches.pixels[[8, 4]], (3.0 / 255.0 - 0.5) / 0.5);
        // Row 2: inner (1, 0): patch y = 1; channel 2 (y), frame 0, y 1, x 0 -> pixel y = 3.
        assert_eq!(patches.pixels[[2, 16 + 2]], 3.0 / 255.0);
    }

    #[test]
    fn an_odd_last_frame_is_repeated() {
        let processor = tiny();
        let odd = processor.video(&frames(3), TimeScale::True).unwrap();
        let mut filled = frames(3);
        filled.images.push(filled.images[2].clone());
        let even = patchify(&processor, &filled.images).unwrap();
        assert_eq!(odd.pixels, even.0);
        assert_eq!(odd.grid, even.1);
        assert_eq!(odd.indices.len(), 3);
    }

    #[test]
    fn seconds_per_grid_follow_the_time_scale() {
        let processor = tiny();
        let seconds = |f: &Frames, scale| processor.video(f, scale).unwrap().second_per_grid;
        assert_eq!(seconds(&frames(4), TimeScale::Constant), 1.0);
        assert_eq!(seconds(&frames(4), TimeScale::True), 1.0); // 4 frames over 2 s
        let mut part = frames(4);
        part.indices = vec![2, 3, 4, 5];
        part.times = vec![0.4, 0.6, 0.8, 1.0];
        assert!((seconds(&part, TimeScale::True) - 0.4).abs() < 1e-6);
        assert_eq!(processor.image(&part.images[0], &processor.budget()).unwrap().second_per_grid, 0.0);
    }

    #[test]
    fn pictures_that_do_not_fit_are_refused() {
        let processor = tiny();
        let mut mixed = frames(2);
        mixed.images[1] = RgbImage::new(4, 4);
        assert!(processor.video(&mixed, TimeScale::True).is_err());
        mixed.images = vec![RgbImage::new(6, 4)];
        assert!(processor.video(&mixed, TimeScale::True).is_err());
        mixed.images.clear();
        assert!(processor.video(&mixed, TimeScale::True).is_err());
    }
}
