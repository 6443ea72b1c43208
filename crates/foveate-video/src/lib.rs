//! Video in, patches out: what a Qwen2.5-VL policy sees of a file.
//!
//! `decode` (feature `decode`) -> [`Frames`] -> [`ImageProcessor::resize_video`] -> [`ImageProcessor::video`] -> [`Patches`].
//! [`FrameCache`] keeps resized frames, so that a build without FFmpeg can train on prepared data.
//! [`scenes`] makes the synthetic videos of the embedded default.
//!
//! Invariants: nothing here knows a model or libtorch; FFmpeg is known in `decode` and `scenes::encode` only;
//! a video that cannot be read whole is an error with its path, never fewer or other frames.

mod cache;
#[cfg(feature = "decode")]
mod decode;
mod error;
mod files;
mod folder;
mod frames;
pub mod order;
mod patches;
mod picture;
mod processor;
mod resize;
mod sampling;
pub mod scenes;
mod size;

pub use cache::{CacheKey, FrameCache};
#[cfg(feature = "decode")]
pub use decode::{decode, decode_resized};
pub use error::VideoError;
pub use frames::{DecodeOptions, Frames};
pub use patches::{Grid, Patches, TimeScale};
pub use picture::read_picture;
pub use processor::ImageProcessor;
pub use resize::resize_bicubic;
pub use sampling::{FpsBounds, Sampling, smart_nframes, uniform_indices};
pub use size::{PixelBudget, smart_resize};
