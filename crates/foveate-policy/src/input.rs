//! What goes into the model: prompts with their media, and completions.

use std::sync::Arc;

use foveate_video::Patches;
use tch::{Device, Tensor};

use crate::config::ModelConfig;

/// A picture or video of a prompt, preprocessed.
#[derive(Debug, Clone)]
pub enum Media {
    /// A video.
    Video(Arc<Patches>),
    /// A still image.
    Image(Arc<Patches>),
}

impl Media {
    /// Its patches and grid.
    pub fn patches(&self) -> &Patches {
        match self {
            Self::Video(patches) | Self::Image(patches) => patches,
        }
    }

    pub(crate) fn pad_token(&self, config: &ModelConfig) -> i64 {
        match self {
            Self::Video(_) => config.video_token_id,
            Self::Image(_) => config.image_token_id,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Video(_) => "video",
            Self::Image(_) => "image",
        }
    }
}

/// A tokenized prompt with its media.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Token ids; every medium's pad token is repeated once per merged patch.
    pub ids: Vec<i64>,
    /// Media in order of appearance.
    pub media: Vec<Media>,
}

/// A prompt made ready by [`crate::Vlm::encode`]: checked, positioned and, with a frozen vision tower, its media
/// already turned into features, so that every pass over the group shares them.
#[derive(Debug)]
pub struct Encoded {
    pub(crate) ids: Tensor,              // [P] i64
    pub(crate) positions: Tensor,        // [3, P] i64
    pub(crate) next_position: i64,       // of the first completion token
    pub(crate) pads: Tensor,             // [C'] i64, rows of all media tokens, ascending
    pub(crate) media: Vec<Media>,        // kept where features are not
    pub(crate) features: Option<Tensor>, // [C', D]
    pub(crate) video_rows: Vec<i64>,     // rows of the video tokens
    pub(crate) video_frames: Vec<i64>,   // the frame of each, counted over all videos of the prompt
    pub(crate) frames: i64,
    pub(crate) videos: Vec<usize>, // frames of each
}

impl Encoded {
    /// Tokens of the prompt, media included.
    pub fn tokens(&self) -> usize {
        self.ids.size()[0] as usize
    }

    /// Frames (temporal grids) of the prompt's videos; images do not count.
    pub fn frames(&self) -> usize {
        self.frames as usize
    }

    /// Frames of each of the prompt's videos.
    pub fn videos(&self) -> &[usize] {
        &self.videos
    }

    /// Video tokens of the prompt.
    pub fn video_tokens(&self) -> usize {
        self.video_rows.len()
    }

    /// Position ids of the prompt's tokens on the axes t, h, w: i64 `[3, P]`.
    pub fn positions(&self) -> &Tensor {
        &self.positions
    }
}

/// The completions of one group, padded to the longest.
#[derive(Debug)]
pub struct Completions {
    ids: Tensor,    // [G, T] i64, 0 in the padding
    mask: Tensor,   // [G, T] bool
    places: Tensor, // [R] i64, of the tokens among [G * T]
    lengths: Vec<i64>,
    smallest: i64,
    largest: i64,
}

impl Completions {
    /// Pads the completions' ids to the longest of them.
    pub fn new(ids: &[Vec<i64>], device: Device) -> Self {
        let longest = ids.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let mut padded = vec![0; ids.len() * longest];
        let mut mask = vec![false; ids.len() * longest];
        for (row, ids) in ids.iter().enumerate() {
            padded[row * longest..][..ids.len()].copy_from_slice(ids);
            mask[row * longest..][..ids.len()].fill(true);
        }
        let shape = [ids.len() as i64, longest as i64];
        let lengths: Vec<i64> = ids.iter().map(|ids| ids.len() as i64).collect();
        let all = || ids.iter().flatten().copied();
        Self {
            ids: Tensor::from_slice(&padded).view(shape).to_device(device),
            mask: Tensor::from_slice(&mask).view(shape).to_device(device),
            places: places(&lengths, longest as i64, 0, device),
            lengths,
            smallest: all().min().unwrap_or(0),
            largest: all().max().unwrap_or(0),
        }
    }

    /// `count` of the completions, from `start`, as wide as all of them.
    pub fn part(&self, start: i64, count: i64) -> Self {
        let lengths = self.lengths[start as usize..(start + count) as usize].to_vec();
        Self {
            ids: self.ids.narrow(0, start, count),
            mask: self.mask.narrow(0, start, count),
            places: places(&lengths, self.length(), 0, self.ids.device()),
            lengths,
            smallest: self.smallest,
            largest: self.largest,
        }
    }

    /// Token ids, `[G, T]` i64; 0 in the padding.
    pub fn ids(&self) -> &Tensor {
        &self.ids
    }

    /// Which positions are tokens, `[G, T]` bool.
    pub fn mask(&self) -> &Tensor {
        &self.mask
    }

    /// Tokens of each completion.
    pub fn lengths(&self) -> &[i64] {
        &self.lengths
    }

    /// Tokens of all completions, R.
    pub fn token_count(&self) -> i64 {
        self.lengths.iter().sum()
    }

    /// Whether every token is an id of this vocabulary.
    pub(crate) fn within(&self, vocabulary: i64) -> bool {
        self.smallest >= 0 && self.largest < vocabulary
    }

    /// Number of completions, G.
    pub fn count(&self) -> i64 {
        self.ids.size()[0]
    }

    /// Length of the longest, T.
    pub fn length(&self) -> i64 {
        self.ids.size()[1]
    }

    /// All tokens, completion by completion, `[R]`.
    pub fn tokens(&self) -> Tensor {
        self.flat(&self.ids)
    }

    /// Values `[G, T, ..]` of the tokens, completion by completion, `[R, ..]`.
    pub fn flat(&self, x: &Tensor) -> Tensor {
        x.flatten(0, 1).index_select(0, &self.places)
    }

    /// Values `[R, ..]` of the tokens as `[G, T, ..]`, 0 in the padding.
    pub fn padded(&self, x: &Tensor) -> Tensor {
        let mut shape = x.size();
        shape.splice(0..1, [self.count() * self.length()]);
        let flat = Tensor::zeros(shape.as_slice(), (x.kind(), x.device())).index_copy(0, &self.places, x);
        shape.splice(0..1, [self.count(), self.length()]);
        flat.view(shape.as_slice())
    }

    /// The tokens that are followed by another and their distance from the completion's start, `[R']` each.
    pub(crate) fn followed(&self) -> [Tensor; 2] {
        let places = places(&self.lengths, self.length(), 1, self.ids.device());
        [self.ids.flatten(0, 1).index_select(0, &places), places.remainder(self.length())]
    }
}

/// Places of all tokens but the `last` ones of each completion among `[G * T]`, T being `width`.
fn places(lengths: &[i64], width: i64, last: i64, device: Device) -> Tensor {
    let rows = (0..).zip(lengths).flat_map(|(row, length)| row * width..row * width + (length - last).max(0));
    Tensor::from_slice(&rows.collect::<Vec<i64>>()).to_device(device)
}
