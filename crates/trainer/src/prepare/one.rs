//! `trainer data prepare --video`: one video as a Hugging Face processor would hand it to the model.

use std::path::Path;

use anyhow::{Context, Result};
use foveate_video::{DecodeOptions, Frames, ImageProcessor, PixelBudget, Sampling, TimeScale};
use safetensors::{Dtype, tensor::TensorView};

use crate::cli::PrepareArgs;
use crate::error::{UserContext, existing};
use crate::run::write_atomically;

/// Writes `pixel_values_videos` f32 `[N, 3 * 2 * patch * patch]`, `video_grid_thw` i64 `[1, 3]` and `second_per_grid_ts` f32
/// `[1]`, named as Hugging Face's processor names them, and `frame_indices` i64 and `timestamps` f64 of the sampled frames.
///
/// # Errors
/// A user error: the video cannot be read, or the sizes do not fit; or the file cannot be written.
pub(super) fn run(args: &PrepareArgs, video: &Path) -> Result<()> {
    existing("--video", video)?;
    let output = args.output.as_deref().context("--video needs --output: which file is to be written?").user()?;
    let processor = match &args.model {
        Some(model) => ImageProcessor::from_dir(model).user()?,
        None => ImageProcessor::RELEASED,
    };
    let budget = PixelBudget {
        min_pixels: args.min_pixels.unwrap_or(processor.min_pixels),
        max_pixels: args.max_pixels.unwrap_or(processor.max_pixels),
        total_pixels: None,
    };
    let sampling = Sampling::Uniform { frames: args.num_frames as usize };
    let options = DecodeOptions { folder_fps: args.folder_fps, ..DecodeOptions::default() };
    let frames = decode(&processor, video, &sampling, &budget, &options).user()?;
    let patches = processor.video(&frames, TimeScale::True).user()?;
    let grid = [patches.grid.t, patches.grid.h, patches.grid.w];
    let bytes = |values: &[f64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let whole = |values: &[usize]| values.iter().flat_map(|value| (*value as i64).to_le_bytes()).collect::<Vec<u8>>();
    let pixels: Vec<u8> = patches.pixels.iter().flat_map(|value| value.to_le_bytes()).collect();
    let (rows, columns) = patches.pixels.dim();
    let (sizes, seconds) = (whole(&grid), patches.second_per_grid.to_le_bytes());
    let (indices, times) = (whole(&patches.indices), bytes(&patches.times));
    let count = patches.indices.len();
    let tensors = [
        ("pixel_values_videos", TensorView::new(Dtype::F32, vec![rows, columns], &pixels)?),
        ("video_grid_thw", TensorView::new(Dtype::I64, vec![1, 3], &sizes)?),
        ("second_per_grid_ts", TensorView::new(Dtype::F32, vec![1], &seconds)?),
        ("frame_indices", TensorView::new(Dtype::I64, vec![count], &indices)?),
        ("timestamps", TensorView::new(Dtype::F64, vec![count], &times)?),
    ];
    write_atomically(output, &safetensors::serialize(tensors, None)?)?;
    let [t, h, w] = grid;
    println!("{count} frames of {}, {t} x {h} x {w} patches in {}", video.display(), output.display());
    Ok(())
}

#[cfg(feature = "decode")]
fn decode(
    processor: &ImageProcessor,
    video: &Path,
    sampling: &Sampling,
    budget: &PixelBudget,
    options: &DecodeOptions,
) -> Result<Frames> {
    Ok(processor.decode_video(video, sampling, budget, options)?)
}

#[cfg(not(feature = "decode"))]
fn decode(_: &ImageProcessor, video: &Path, _: &Sampling, _: &PixelBudget, _: &DecodeOptions) -> Result<Frames> {
    anyhow::bail!("{}: this build cannot decode", video.display())
}
