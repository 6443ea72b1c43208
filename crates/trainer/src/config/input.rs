//! What goes in: the model, the examples and their videos.
//!
//! "APPO" is arXiv 2602.23823 and its supplement; "released" is what Qwen2.5-VL's own utilities do.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use foveate_data::{Format, Records};
use foveate_policy::AttentionMode;
use foveate_video::{DecodeOptions, PixelBudget, Sampling, TimeScale};
use serde::{Deserialize, Serialize};

use crate::error::UserContext;

/// `[model]`: which policy is trained and how it is computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelTable {
    /// A Hugging Face directory of a Qwen2.5-VL model. Together with `data.train` it replaces the embedded default.
    pub path: Option<PathBuf>,
    /// Number format of weights and activations, `bfloat16` (that of released checkpoints) or `float32`.
    pub dtype: Dtype,
    /// `auto` (the first GPU if there is one), `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// How attention to frames is captured; both give the same values (to 2e-5).
    pub attention: AttentionMode,
    /// Whether the vision tower is trained. All papers freeze it.
    pub train_vision: bool,
    /// MiB of a frozen vision tower's features that are kept for videos seen again, in later passes, steps and epochs.
    pub feature_cache_mib: usize,
    /// CPU threads of one operation; 0: libtorch's choice, one a core. A tiny model is fastest with 1, which leaves the
    /// other cores to decoding.
    pub threads: usize,
}

impl Default for ModelTable {
    fn default() -> Self {
        Self {
            path: None,
            dtype: Dtype::Bfloat16,
            device: "auto".into(),
            attention: AttentionMode::Fused,
            train_vision: false,
            feature_cache_mib: 1024,
            threads: 0,
        }
    }
}

/// Number format of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dtype {
    /// 16 bits with f32's range.
    #[serde(rename = "bfloat16", alias = "bf16")]
    Bfloat16,
    /// 32 bits.
    #[serde(rename = "float32", alias = "f32")]
    Float32,
}

impl Dtype {
    /// libtorch's name of it.
    pub fn kind(self) -> tch::Kind {
        match self {
            Self::Bfloat16 => tch::Kind::BFloat16,
            Self::Float32 => tch::Kind::Float,
        }
    }
}

/// `[data]`: examples, their videos and their prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataTable {
    /// Training examples, a file of records, or a folder of such.
    pub train: Option<PathBuf>,
    /// Data set that the training examples are written as (`docs/data.md`).
    pub format: Format,
    /// Held-out examples; without them nothing is evaluated.
    pub test: Option<PathBuf>,
    /// Data set that the held-out examples are written as; without it as the training examples.
    pub test_format: Option<Format>,
    /// Folder that media paths are relative to, and may not lead out of; by default that of the file that names them.
    pub media_root: Option<PathBuf>,
    /// What a record that cannot be read, or whose video cannot be decoded, does to the run.
    pub on_bad_example: OnBadExample,
    /// How a question is put: one of `configs/prompts`, or a file like them.
    pub prompt: String,
    /// Longest prompt, in tokens, media included. A longer one is a bad example: prompts are never cut.
    pub max_prompt_tokens: usize,
    /// Frames taken from a video.
    pub frames: FramesTable,
    /// Pixels given to a frame.
    pub pixels: PixelsTable,
    /// Time between frames as the model is told it.
    pub time_scale: TimeScale,
    /// Folder of prepared frames (`data prepare`); without it videos are decoded.
    pub cache: Option<PathBuf>,
    /// MiB of sampled frames that are kept in memory for videos that come up again; 0: every video is read each time.
    pub memory_mib: usize,
    /// How a video is decoded.
    pub decode: DecodeOptions,
    /// Examples prepared ahead of the step; 0: twice `rollout.prompts_per_step`.
    pub prefetch: usize,
    /// Threads that prepare examples; 0: one a core.
    pub threads: usize,
}

impl Default for DataTable {
    fn default() -> Self {
        Self {
            train: None,
            format: Format::default(),
            test: None,
            test_format: None,
            media_root: None,
            on_bad_example: OnBadExample::Skip,
            prompt: "appo".into(),
            max_prompt_tokens: 16_384,
            frames: FramesTable::default(),
            pixels: PixelsTable::default(),
            time_scale: TimeScale::True,
            cache: None,
            memory_mib: 1024,
            decode: DecodeOptions::default(),
            prefetch: 0,
            threads: 0,
        }
    }
}

impl DataTable {
    /// The same without what changes no example: how and how far ahead it is prepared, and what a bad one does.
    pub fn alike(&self) -> Self {
        let Self { on_bad_example, cache, memory_mib, prefetch, threads, .. } = Self::default();
        Self { on_bad_example, cache, memory_mib, prefetch, threads, ..self.clone() }
    }

    /// Opens training examples.
    ///
    /// # Errors
    /// A user error: there are none, or the first is not one.
    pub fn training_records(&self, file: &Path) -> Result<Records> {
        Records::open(file, self.format, self.media_root.as_deref()).context("data").user()
    }

    /// The data set that held-out examples are of.
    pub fn test_format(&self) -> Format {
        self.test_format.unwrap_or(self.format)
    }

    /// Opens held-out examples.
    ///
    /// # Errors
    /// A user error: there are none, or the first is not one.
    pub fn test_records(&self, file: &Path) -> Result<Records> {
        Records::open(file, self.test_format(), self.media_root.as_deref()).context("data").user()
    }
}

/// What a bad example does to the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadExample {
    /// It is named once, counted in `data/skipped`, and the next example takes its place.
    Skip,
    /// It ends the run.
    Stop,
}

/// `[data.frames]`: which frames of a video are used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FramesTable {
    /// A fixed number of frames, or so many a second.
    pub sampling: SamplingMode,
    /// Frames of a video with `uniform` (TW-GRPO: 16).
    pub count: usize,
    /// Frames a second with `fps` (released: 2).
    pub fps: f64,
    /// Fewest frames with `fps` (released: 4).
    pub min: usize,
    /// Most frames with `fps` (released: 768; the papers train with 16).
    pub max: usize,
    /// Directory of a frame selector (`trainer --algo refocus`): of the candidates that it was trained to see, whatever is said
    /// above, it picks for each question those that are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Frames that the selector picks (ReFoCUS: 32).
    pub picks: usize,
}

impl Default for FramesTable {
    fn default() -> Self {
        Self { sampling: SamplingMode::Fps, count: 16, fps: 2.0, min: 4, max: 16, from: None, picks: 32 }
    }
}

impl FramesTable {
    /// The table as the decoder takes it.
    pub fn sampling(&self) -> Sampling {
        match self.sampling {
            SamplingMode::Uniform => Sampling::Uniform { frames: self.count },
            SamplingMode::Fps => Sampling::Fps { fps: self.fps, min_frames: self.min, max_frames: self.max },
        }
    }
}

/// How frames are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SamplingMode {
    /// `frames.count` frames, evenly spaced over the video.
    Uniform,
    /// `frames.fps` a second, at least `frames.min` and at most `frames.max`.
    Fps,
}

/// `[data.pixels]`: the size a frame is brought to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PixelsTable {
    /// Fewest pixels of a frame (released: 128 x 28 x 28).
    pub min: usize,
    /// Most pixels of a frame (released: 768 x 28 x 28; the papers train with 128 x 28 x 28).
    pub max: usize,
    /// Most pixels of a video, all frames together (released: 128,000 x 28 x 28 x 0.9); 0: no such bound.
    pub total: usize,
}

impl Default for PixelsTable {
    fn default() -> Self {
        Self { min: 128 * 28 * 28, max: 768 * 28 * 28, total: 90_316_800 }
    }
}

impl PixelsTable {
    /// The table as the preprocessor takes it.
    pub fn budget(&self) -> PixelBudget {
        PixelBudget { min_pixels: self.min, max_pixels: self.max, total_pixels: (self.total > 0).then_some(self.total) }
    }
}
