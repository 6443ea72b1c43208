//! Clips made with the `ffmpeg` program, and what that program decodes of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use image::RgbImage;

/// H.264 as most videos have it: with B-frames, in groups of 30.
pub(crate) const H264: &str = "-c:v libx264 -preset fast -bf 3 -g 30 -pix_fmt yuv420p";

/// Four seconds of sound, and these moving pictures, as two inputs for [`ffmpeg`].
pub(crate) fn sound_and(pictures: &str) -> Vec<&str> {
    vec!["-f", "lavfi", "-i", "sine=duration=4", "-f", "lavfi", "-i", pictures, "-map", "0:a", "-map", "1:v"]
}

/// Runs `ffmpeg` quietly and returns its standard output.
pub(crate) fn ffmpeg(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y"])
        .args(arguments)
        .output()
        .expect("the ffmpeg program is installed");
    assert!(output.status.success(), "ffmpeg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A moving test picture as a clip: `frames` frames of `size` at 25 fps with these encoder arguments.
pub(crate) fn clip(dir: &Path, name: &str, size: &str, frames: usize, arguments: &str) -> PathBuf {
    let path = dir.join(name);
    // testsrc2 rounds odd sizes.
    let odd = size.split('x').any(|side| side.ends_with(['1', '3', '5', '7', '9']));
    let source = format!("{}=size={size}:rate=25", if odd { "testsrc" } else { "testsrc2" });
    let frames = frames.to_string();
    let mut all = vec!["-f", "lavfi", "-i", &source, "-frames:v", &frames];
    all.extend(arguments.split_whitespace());
    all.push(path.to_str().unwrap());
    ffmpeg(&all);
    path
}

/// All frames of a file as the program gives them, `width` x `height` as shown.
pub(crate) fn reference(path: &Path, (width, height): (u32, u32)) -> Vec<RgbImage> {
    let raw = ffmpeg(&[
        "-i",
        path.to_str().unwrap(),
        "-map",
        "0:v:0",
        "-fps_mode",
        "passthrough",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]);
    let size = (width * height * 3) as usize;
    assert!(
        !raw.is_empty() && raw.len().is_multiple_of(size),
        "{} bytes are no frames of {width} x {height}",
        raw.len()
    );
    raw.chunks_exact(size).map(|f| RgbImage::from_raw(width, height, f.to_vec()).unwrap()).collect()
}
