//! Seconds that decoding takes, as JSON: what `scripts/bench_decode.py` runs beside other decoders.
//!
//! `cargo run -p foveate-video --example bench_decode -- VIDEO [--frames N | --fps F] [--repeat N] [--write FILE]
//! [--prepare]`
//!
//! `decode` is from path to RGB frames of full size. With `--prepare` come `decode_resized`, from path to frames of at
//! most 128 x 28 x 28 pixels, `patches`, from those to patches, and `fingerprint`, the share of it that is hashing. Each
//! is the median over the repeats. FILE gets the raw frames, RGB24, one after the other.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use foveate_video::{DecodeOptions, ImageProcessor, Patches, PixelBudget, Sampling, TimeScale, decode};
use serde_json::{Value, json};

/// Video-R1's budget, which others took over.
const BUDGET: PixelBudget = PixelBudget { min_pixels: 16 * 28 * 28, max_pixels: 128 * 28 * 28, total_pixels: None };

struct Arguments {
    video: PathBuf,
    sampling: Sampling,
    repeat: usize,
    write: Option<PathBuf>,
    prepare: bool,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut given = std::env::args().skip(1);
    let video = given.next().ok_or("expected a video: bench_decode VIDEO [--frames N | --fps F] [--repeat N]")?;
    let sampling = Sampling::Uniform { frames: 16 };
    let mut arguments = Arguments { video: video.into(), sampling, repeat: 3, write: None, prepare: false };
    while let Some(name) = given.next() {
        if name == "--prepare" {
            arguments.prepare = true;
            continue;
        }
        let value = given.next().ok_or_else(|| format!("expected a value after {name}"))?;
        match name.as_str() {
            "--frames" => arguments.sampling = Sampling::Uniform { frames: value.parse()? },
            "--fps" => arguments.sampling = Sampling::Fps { fps: value.parse()?, min_frames: 4, max_frames: 768 },
            "--repeat" => arguments.repeat = value.parse::<usize>()?.max(1),
            "--write" => arguments.write = Some(value.into()),
            other => {
                return Err(format!("expected --frames, --fps, --repeat, --write or --prepare, found {other}").into());
            }
        }
    }
    Ok(arguments)
}

/// The median of the seconds, and what was made last.
fn timed<T, E>(repeat: usize, mut make: impl FnMut() -> Result<T, E>) -> Result<(f64, T), E> {
    let mut seconds = Vec::with_capacity(repeat);
    loop {
        let begun = Instant::now();
        let made = make()?;
        seconds.push(begun.elapsed().as_secs_f64());
        if seconds.len() >= repeat {
            seconds.sort_by(f64::total_cmp);
            return Ok((seconds[seconds.len() / 2], made));
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let Arguments { video, sampling, repeat, .. } = &arguments;
    let (seconds, frames) = timed(*repeat, || decode(video, sampling, &DecodeOptions::default()))?;
    if let Some(path) = &arguments.write {
        let raw: Vec<u8> = frames.images.iter().flat_map(|image| image.as_raw()).copied().collect();
        fs_err::write(path, raw)?;
    }
    let (width, height) = frames.images.first().map_or((0, 0), image::RgbImage::dimensions);
    let mut report = json!({
        "seconds": { "decode": seconds },
        "total_frames": frames.total_frames,
        "width": width,
        "height": height,
        "indices": frames.indices,
    });
    if arguments.prepare {
        prepare(&arguments, &mut report["seconds"])?;
    }
    println!("{report}");
    Ok(())
}

fn prepare(arguments: &Arguments, seconds: &mut Value) -> Result<(), Box<dyn Error>> {
    let Arguments { video, sampling, repeat, .. } = arguments;
    let (resized, frames) =
        timed(*repeat, || ImageProcessor::RELEASED.decode_video(video, sampling, &BUDGET, &DecodeOptions::default()))?;
    let (patched, patches) = timed(*repeat, || ImageProcessor::RELEASED.video(&frames, TimeScale::True))?;
    let mut copies = vec![patches.pixels.clone(); *repeat].into_iter();
    let (hashed, _) = timed(*repeat, || {
        let pixels = copies.next().ok_or("expected a copy for each repeat")?;
        Ok::<_, &str>(Patches::new(pixels, patches.grid, patches.second_per_grid))
    })?;
    seconds["decode_resized"] = resized.into();
    seconds["patches"] = patched.into();
    seconds["fingerprint"] = hashed.into();
    Ok(())
}
