//! Decoded frames and how they are decoded.

use image::RgbImage;
use serde::{Deserialize, Serialize};

/// Frames picked from one video, all of one size.
#[derive(Debug, Clone, PartialEq)]
pub struct Frames {
    /// The pictures, in the order they were asked for.
    pub images: Vec<RgbImage>,
    /// Index of each picture in the video, in presentation order from 0.
    pub indices: Vec<usize>,
    /// Time of each picture, seconds from the video's first frame.
    pub times: Vec<f64>,
    /// Frames in the whole video.
    pub total_frames: usize,
    /// Length of the whole video, seconds.
    pub duration: f64,
}

impl Frames {
    /// Some of these frames, by their places among them; those that there are not are left out.
    pub fn only(&self, places: &[usize]) -> Self {
        let places: Vec<usize> = places.iter().copied().filter(|place| *place < self.images.len()).collect();
        Self {
            images: places.iter().map(|place| self.images[*place].clone()).collect(),
            indices: places.iter().map(|place| self.indices[*place]).collect(),
            times: places.iter().map(|place| self.times[*place]).collect(),
            ..*self
        }
    }
}

/// How a video is decoded: bounds, so that a bad file cannot hold a run up or eat its memory, and what a folder does not say.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecodeOptions {
    /// Longest time that decoding may take, seconds.
    pub seconds: f64,
    /// Most memory that frames and decoder may take, bytes.
    pub bytes: u64,
    /// Pictures a second of videos that are folders of pictures (MVBench's of TVQA: 3.0); without it such a video is an
    /// error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder_fps: Option<f64>,
}

impl Default for DecodeOptions {
    /// Two minutes and 4 GiB, far above what a sane clip needs.
    fn default() -> Self {
        Self { seconds: 120.0, bytes: 4 << 30, folder_fps: None }
    }
}
