//! Prints what a Qwen2.5-VL model is given of a video, and writes the sampled frames as pictures.
//!
//! `cargo run -p foveate-video --example sample_frames -- VIDEO OUTPUT_DIR [FRAMES]`; without arguments it renders a
//! synthetic scene first and samples that.

use std::path::{Path, PathBuf};

use foveate_video::scenes::{KindWeights, SceneSpec, Split, write};
use foveate_video::{DecodeOptions, ImageProcessor, PixelBudget, Sampling, TimeScale};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (video, output) = match (arguments.next(), arguments.next()) {
        (Some(video), Some(output)) => (PathBuf::from(video), PathBuf::from(output)),
        _ => synthetic(&std::env::temp_dir().join("foveate-sample-frames"))?,
    };
    let frames: usize = arguments.next().map_or(Ok(8), |n| n.parse())?;

    let sampling = Sampling::Uniform { frames };
    let budget = PixelBudget { min_pixels: 16 * 28 * 28, max_pixels: 64 * 28 * 28, total_pixels: None };
    let frames = ImageProcessor::RELEASED.decode_video(&video, &sampling, &budget, &DecodeOptions::default())?;
    let patches = ImageProcessor::RELEASED.video(&frames, TimeScale::True)?;

    println!("{}: {} frames, {:.3} s", video.display(), frames.total_frames, frames.duration);
    println!(
        "patches {:?}, grid t {} h {} w {}, {:.3} s per grid",
        patches.pixels.dim(),
        patches.grid.t,
        patches.grid.h,
        patches.grid.w,
        patches.second_per_grid
    );
    fs_err::create_dir_all(&output)?;
    for (image, (index, time)) in frames.images.iter().zip(frames.indices.iter().zip(&frames.times)) {
        let path = output.join(format!("frame-{index:05}.png"));
        image.save(&path)?;
        println!("frame {index} at {time:.3} s -> {}", path.display());
    }
    Ok(())
}

fn synthetic(dir: &Path) -> Result<(PathBuf, PathBuf), Box<dyn std::error::Error>> {
    let spec = SceneSpec { seed: 0, count: 1, split: Split::Test, kinds: KindWeights::default() };
    write(dir, &spec, &|_| {})?;
    Ok((dir.join("videos/test-00000.mp4"), dir.join("frames")))
}
