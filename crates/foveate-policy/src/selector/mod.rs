//! The frame selector of ReFoCUS (arXiv 2506.01274): a policy whose actions are frames of a video.
//!
//! A frozen vision tower sees every candidate frame alone, as an image. Its tokens are pooled, projected and stand before
//! the question in a causal [`Backbone`]. What the backbone has read at a frame's last token is the frame's key; what it
//! has read last is the query; the frame that is picked comes back as the next input through the value head (appendix
//! B.2, B.4):
//!
//! ```text
//! logits = scale K q / sqrt(D) over the frames not picked yet          next input = value head of the picked frame
//! ```
//!
//! Shapes in comments: F candidate frames, U pooled tokens of a frame, P positions of the prompt (text, frames, question,
//! start token), N sets, T picks of a set, D hidden, V width of the tower's features.

mod build;
mod pass;
mod pick;

use std::cell::RefCell;
use std::path::Path;

use foveate_video::{Grid, Patches};
use tch::{Kind, Tensor, no_grad};

pub use build::{Origin, SELECTOR_TYPE, SelectorConfig};
pub use pass::PickPass;
pub use pick::{PickParams, PickScores, Picks};

use crate::{
    LoadOptions, PolicyError,
    backbone::Backbone,
    companions::Companions,
    features::FeatureCache,
    qwen::{Linear, vision::VisionTower, wide},
    text::TextTokenizer,
    weights::save_directory,
};

/// A frame selector.
#[derive(Debug)]
pub struct Selector {
    config: SelectorConfig,
    options: LoadOptions,
    companions: Companions,
    tokenizer: TextTokenizer,
    vision: VisionTower,
    features: RefCell<FeatureCache>,
    backbone: Box<dyn Backbone>,
    heads: Heads,
    tensors: Vec<(String, Tensor)>,
}

/// What stands between frames and backbone.
#[derive(Debug)]
pub(crate) struct Heads {
    /// From the tower's width to the backbone's.
    projector: Linear,
    key: Linear,
    query: Linear,
    value: Linear,
    start: Tensor, // [D]
    scale: Tensor, // [1], through softplus
}

/// A question about candidate frames, made ready: what every set of picks and every pass share.
#[derive(Debug)]
pub struct Candidates {
    features: Tensor, // [F, U, V]
    before: Tensor,   // ids of the text before the frames
    after: Tensor,    // ids of the question
}

impl Candidates {
    /// Number of candidate frames.
    pub fn frames(&self) -> usize {
        self.features.size()[0] as usize
    }

    /// Positions of the prompt, P.
    pub fn positions(&self) -> usize {
        let [text, question] = [&self.before, &self.after].map(|ids| ids.size()[0]);
        (text + self.features.size()[0] * self.features.size()[1] + question + 1) as usize
    }
}

impl Selector {
    /// The configuration.
    pub fn config(&self) -> &SelectorConfig {
        &self.config
    }

    /// Parameters that receive gradients, with their names in the checkpoint: all but the vision tower's.
    pub fn parameters(&self) -> impl Iterator<Item = &(String, Tensor)> {
        self.tensors.iter().filter(|(name, _)| !name.starts_with("visual."))
    }

    /// Whether a parameter is of the selector's own heads and not of its backbone.
    pub fn is_head(name: &str) -> bool {
        name.starts_with("selector.")
    }

    /// All tensors, with their names in the checkpoint.
    pub fn tensors(&self) -> &[(String, Tensor)] {
        &self.tensors
    }

    /// Saves a directory that [`Selector::load`] reads.
    ///
    /// # Errors
    /// [`PolicyError::File`] if something cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), PolicyError> {
        save_directory(dir, &self.companions, &self.tensors)
    }

    /// Makes a question about candidate frames ready, each of which fills a temporal grid alone; `before` is the text before
    /// them, `question` the one after.
    ///
    /// # Errors
    /// [`PolicyError::Prompt`] for no frames, frames of several sizes or of patches of another size, a token outside the
    /// vocabulary, or more positions than the backbone was made for.
    pub fn candidates(&self, frames: &[&Patches], before: &str, question: &str) -> Result<Candidates, PolicyError> {
        let Some(first) = frames.first() else {
            return Err(PolicyError::Prompt("expected at least one candidate frame".into()));
        };
        let Grid { t, h, w } = first.grid;
        let (merge, width) = (self.config.vision.spatial_merge_size as usize, self.config.vision.patch_dim() as usize);
        let fits = |patches: &&Patches| patches.grid == first.grid && patches.pixels.dim() == (h * w, width);
        if t != 1 || h * w == 0 || h % merge + w % merge != 0 || !frames.iter().all(fits) {
            return Err(PolicyError::Prompt(format!(
                "frames: expected patches [1x{h}x{w}, {width}] on a grid of multiples of {merge}, found {t}x{h}x{w} of \
                 {:?} or frames of several sizes",
                first.pixels.dim()
            )));
        }
        let ids = |text: &str| {
            let ids = if text.is_empty() { Vec::new() } else { self.tokenizer.encode(text)? };
            let vocabulary = self.backbone.vocabulary();
            match ids.iter().find(|id| !(0..vocabulary).contains(*id)) {
                Some(id) => Err(PolicyError::Prompt(format!(
                    "token id {id} is outside the backbone's vocabulary of {vocabulary}"
                ))),
                None => Ok(Tensor::from_slice(&ids).to_device(self.options.device)),
            }
        };
        let (before, after) = (ids(before)?, ids(question)?);
        let names: Vec<_> = frames.iter().map(|patches| patches.fingerprint()).collect();
        let features =
            self.features.borrow_mut().get_or(&names, || no_grad(|| self.pooled(frames, [h as i64, w as i64])));
        let candidates = Candidates { features, before, after };
        let (positions, most) = (candidates.positions() as i64, self.backbone.most_positions());
        if positions > most {
            return Err(PolicyError::Prompt(format!("expected at most {most} positions, found {positions}")));
        }
        Ok(candidates)
    }

    /// Features of frames, neighbouring tokens pooled: `[F, U, V]`.
    fn pooled(&self, frames: &[&Patches], [h, w]: [i64; 2]) -> Tensor {
        let merge = self.config.vision.spatial_merge_size;
        let patches: Vec<_> = frames.iter().map(|patches| patches.pixels.as_standard_layout()).collect();
        let apart: Vec<&[f32]> = patches.iter().filter_map(|patches| patches.as_slice()).collect();
        let features = self.vision.each_frame(&apart, [h, w], self.options.device);
        let pool = [self.config.pool; 2];
        let grid = features.view([frames.len() as i64, h / merge, w / merge, -1]).permute([0, 3, 1, 2]);
        let pooled = wide(&grid).avg_pool2d(pool, pool, [0, 0], true, false, None).to_kind(features.kind());
        pooled.flatten(2, 3).transpose(1, 2).contiguous()
    }

    /// Embeddings of the prompt, `[1, P, D]`, and the position of each frame's last token, `[F]`.
    fn embed(&self, candidates: &Candidates) -> (Tensor, Tensor) {
        let frames = self.heads.projector.forward(&candidates.features); // [F, U, D]
        let (count, tokens, width) = frames.size3().unwrap_or_default();
        let text = |ids: &Tensor| self.backbone.embed(ids);
        let before = text(&candidates.before);
        let kind = before.kind();
        let parts = [
            before,
            frames.view([count * tokens, width]).to_kind(kind),
            text(&candidates.after),
            self.heads.start.unsqueeze(0).to_kind(kind),
        ];
        let first = candidates.before.size()[0] + tokens - 1;
        let ends = Tensor::arange(count, (Kind::Int64, self.options.device)) * tokens + first;
        (Tensor::cat(&parts, 0).unsqueeze(0), ends)
    }
}

impl Heads {
    /// Logits of picks, `[.., F]`, from what was read last `[.., D]` and the frames' keys, -inf where `taken`.
    fn logits(&self, read: &Tensor, keys: &Tensor, taken: &Tensor, temperature: f64) -> Tensor {
        let width = keys.size()[1] as f64;
        let scale = wide(&self.scale).softplus() / (width.sqrt() * temperature);
        let logits = wide(&self.query.forward(read).matmul(&keys.transpose(0, 1))) * scale;
        logits.masked_fill(taken, f64::NEG_INFINITY)
    }
}
