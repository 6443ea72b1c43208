//! Pictures cut into the rows that the vision tower takes.

use image::RgbImage;
use ndarray::Array2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Frames, ImageProcessor, VideoError};

/// Which seconds per temporal grid the model is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScale {
    /// The video's own.
    #[default]
    True,
    /// 1.0 whatever the video, as the released training codes do, which pass no fps to the processor.
    Constant,
}

/// Size of a picture or video in patches (`video_grid_thw`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grid {
    /// Temporal grids, each of `temporal_patch_size` frames.
    pub t: usize,
    /// Patches from top to bottom.
    pub h: usize,
    /// Patches from left to right.
    pub w: usize,
}

impl Grid {
    /// Patches in all.
    pub fn patches(&self) -> usize {
        self.t * self.h * self.w
    }
}

/// One picture or video as the vision tower takes it, made by [`Patches::new`].
#[derive(Debug, Clone, PartialEq)]
pub struct Patches {
    /// Normalised pixels `[grid.patches(), 3 * temporal * patch * patch]`; rows in the order t, h / merge, w / merge,
    /// merge, merge, columns in the order channel, frame of the grid, y, x.
    pub pixels: Array2<f32>,
    /// Size in patches.
    pub grid: Grid,
    /// Seconds per temporal grid, 0 for an image.
    pub second_per_grid: f32,
    /// Index in the video of each sampled frame.
    pub indices: Vec<usize>,
    /// Time of each sampled frame, seconds.
    pub times: Vec<f64>,
    /// Length of the whole video, seconds; 0 for an image.
    pub duration: f64,
    fingerprint: [u8; 32],
}

impl Patches {
    /// Patches that come from no file, so that nothing is known of where their frames stand; for the meaning and the
    /// order of the arguments see the fields. Hashes the pixels, and so belongs on a thread that prepares data.
    pub fn new(pixels: Array2<f32>, grid: Grid, second_per_grid: f32) -> Self {
        let fingerprint = fingerprint(&pixels, grid, second_per_grid);
        Self { pixels, grid, second_per_grid, indices: Vec::new(), times: Vec::new(), duration: 0.0, fingerprint }
    }

    /// The same patches as those of frames with these indices and times (seconds) in a video of `duration` seconds.
    pub fn sampled_at(self, indices: Vec<usize>, times: Vec<f64>, duration: f64) -> Self {
        Self { indices, times, duration, ..self }
    }

    /// BLAKE3 of pixels, grid and seconds per grid as [`Patches::new`] was given them: what a model makes of two patches
    /// with one fingerprint is the same, whichever files and indices they are from. It names features that are kept
    /// across passes and epochs; it is not kept on disk, and may change between versions.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }
}

fn fingerprint(pixels: &Array2<f32>, grid: Grid, second_per_grid: f32) -> [u8; 32] {
    /// Values turned to bytes at a time: enough for BLAKE3's widest vectors, and within the first-level cache.
    const CHUNK: usize = 4096;
    let mut hasher = blake3::Hasher::new();
    for size in [grid.t, grid.h, grid.w, pixels.nrows(), pixels.ncols()] {
        hasher.update(&(size as u64).to_le_bytes());
    }
    hasher.update(&second_per_grid.to_le_bytes());
    let values = pixels.as_standard_layout();
    let mut bytes = Vec::with_capacity(4 * CHUNK);
    for chunk in values.as_slice().unwrap_or_default().chunks(CHUNK) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        hasher.update(&bytes);
    }
    hasher.finalize().into()
}

/// Cuts pictures of one size, whose sides are multiples of the processor's factor, into patches. An incomplete last
/// grid is filled with the last picture.
pub(crate) fn patchify(processor: &ImageProcessor, images: &[RgbImage]) -> Result<(Array2<f32>, Grid), VideoError> {
    let bad = |reason: String| VideoError::Picture { reason };
    let first = images.first().ok_or_else(|| bad("expected at least one picture, found none".to_owned()))?;
    let (width, height) = (first.width() as usize, first.height() as usize);
    let factor = processor.factor();
    if width == 0 || height == 0 || width % factor != 0 || height % factor != 0 {
        return Err(bad(format!("expected sides in multiples of {factor}, found {width} x {height}")));
    }
    if let Some(other) = images.iter().find(|i| i.dimensions() != first.dimensions()) {
        let (w, h) = other.dimensions();
        return Err(bad(format!("expected pictures of one size, found {width} x {height} and {w} x {h}")));
    }
    let (patch, temporal) = (processor.patch_size, processor.temporal_patch_size);
    let grid = Grid { t: images.len().div_ceil(temporal), h: height / patch, w: width / patch };
    let row_length = 3 * temporal * patch * patch;
    let table = processor.normalisation();
    let mut pixels = vec![0f32; grid.patches() * row_length];
    pixels.par_chunks_exact_mut(grid.h * grid.w * row_length).enumerate().for_each(|(t, out)| {
        let frames: Vec<&RgbImage> = (0..temporal).map(|i| &images[(t * temporal + i).min(images.len() - 1)]).collect();
        for (index, row) in out.chunks_exact_mut(row_length).enumerate() {
            fill_patch(row, &frames, patch_corner(index, grid, processor), &table);
        }
    });
    let pixels = Array2::from_shape_vec((grid.patches(), row_length), pixels).map_err(|e| bad(e.to_string()))?;
    Ok((pixels, grid))
}

/// Top left corner (x, y) and side of the patch at a row's place in the order h / merge, w / merge, merge, merge.
fn patch_corner(index: usize, grid: Grid, processor: &ImageProcessor) -> (usize, usize, usize) {
    let merge = processor.merge_size;
    let (block, inner) = (index / (merge * merge), index % (merge * merge));
    let blocks_wide = grid.w / merge;
    let y = block / blocks_wide * merge + inner / merge;
    let x = block % blocks_wide * merge + inner % merge;
    (x * processor.patch_size, y * processor.patch_size, processor.patch_size)
}

fn fill_patch(row: &mut [f32], frames: &[&RgbImage], (x0, y0, side): (usize, usize, usize), table: &[[f32; 256]; 3]) {
    let mut values = row.iter_mut();
    for (channel, table) in table.iter().enumerate() {
        for frame in frames {
            let (raw, stride) = (frame.as_raw(), 3 * frame.width() as usize);
            for y in y0..y0 + side {
                let line = &raw[y * stride + 3 * x0..y * stride + 3 * (x0 + side)];
                for (pixel, value) in line.chunks_exact(3).zip(values.by_ref()) {
                    *value = table[usize::from(pixel[channel])];
                }
            }
        }
    }
}

/// Seconds per temporal grid: `temporal * duration / frames` where the frames are spread evenly over the whole video
/// (qwen-vl-utils: grid size over the sampled rate), else from the mean gap between the sampled frames.
pub(crate) fn second_per_grid(frames: &Frames, temporal: usize, scale: TimeScale) -> f32 {
    let count = frames.images.len();
    let step = match scale {
        // transformers' default of 2 sampled frames per second.
        TimeScale::Constant => 0.5,
        TimeScale::True if count < 2 || frames.indices == crate::uniform_indices(frames.total_frames, count) => {
            frames.duration / count.max(1) as f64
        }
        TimeScale::True => (frames.times[count - 1] - frames.times[0]).abs() / (count - 1) as f64,
    };
    (temporal as f64 * step) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { t: 1, h: 2, w: 2 };

    fn patches(change: impl Fn(&mut Array2<f32>), grid: Grid, second_per_grid: f32) -> Patches {
        let mut pixels = Array2::from_shape_fn((4, 3000), |(i, j)| (i * 3000 + j) as f32);
        change(&mut pixels);
        Patches::new(pixels, grid, second_per_grid)
    }

    #[test]
    fn every_pixel_the_grid_and_the_seconds_are_in_the_fingerprint() {
        let same = |_: &mut Array2<f32>| ();
        let first = patches(same, GRID, 1.0);
        assert_eq!(first.fingerprint(), patches(same, GRID, 1.0).fingerprint());
        let others = [
            patches(|pixels| pixels[[0, 0]] = -1.0, GRID, 1.0),
            patches(|pixels| pixels[[3, 2999]] = -1.0, GRID, 1.0),
            patches(|pixels| pixels.swap([1, 0], [2, 0]), GRID, 1.0),
            patches(same, Grid { t: 2, h: 1, w: 2 }, 1.0),
            patches(same, GRID, 2.0),
        ];
        for other in others {
            assert_ne!(first.fingerprint(), other.fingerprint());
        }
    }

    #[test]
    fn the_fingerprint_is_of_the_values_and_not_of_their_order_in_memory_or_their_place_in_a_video() {
        let pixels = Array2::from_shape_fn((4, 3), |(i, j)| (3 * i + j) as f32);
        let turned = pixels.t().as_standard_layout().into_owned().reversed_axes();
        let first = Patches::new(pixels, GRID, 1.0);
        assert_eq!(first.fingerprint(), Patches::new(turned, GRID, 1.0).fingerprint());
        assert_eq!(first.fingerprint(), first.clone().sampled_at(vec![5, 6], vec![0.5, 0.6], 9.0).fingerprint());
    }
}
