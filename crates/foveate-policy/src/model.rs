//! Qwen2.5-VL as a policy: loading, saving, and making prompts ready.

use std::{cell::RefCell, path::Path};

use tch::{Device, Kind, Tensor, no_grad};

use crate::{
    PolicyError,
    companions::Companions,
    config::ModelConfig,
    features::FeatureCache,
    head::Head,
    input::{Encoded, Media, Prompt},
    qwen::{
        AttentionMode,
        attention::joined,
        rope::{self, Rope},
        text::TextModel,
        vision::VisionTower,
    },
    weights::{Weights, save_directory},
};

/// Which parameters receive gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trainable {
    /// The text decoder; the vision tower with its merger is frozen and its features are computed once per prompt.
    #[default]
    Text,
    /// Everything.
    All,
    /// Nothing: a reference policy, evaluation.
    Nothing,
}

/// Where and how a model is loaded.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Device of weights and activations.
    pub device: Device,
    /// Number type of weights and activations.
    pub kind: Kind,
    /// Attention kernels.
    pub attention: AttentionMode,
    /// Parameters that receive gradients.
    pub trainable: Trainable,
    /// Bytes of features of a frozen vision tower that are kept for media seen again.
    pub feature_cache: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            kind: Kind::Float,
            attention: AttentionMode::Fused,
            trainable: Trainable::Text,
            feature_cache: 1 << 30,
        }
    }
}

/// A Qwen2.5-VL model.
#[derive(Debug)]
pub struct Vlm {
    config: ModelConfig,
    companions: Companions,
    options: LoadOptions,
    vision: VisionTower,
    pub(crate) text: TextModel,
    tensors: Vec<(String, Tensor)>,
    features: RefCell<FeatureCache>,
}

impl Vlm {
    /// Loads a Hugging Face directory: `config.json` and `model.safetensors` or its shards, memory-mapped.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the tensors are not exactly those the configuration asks for.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self, PolicyError> {
        let config = ModelConfig::from_dir(dir)?;
        let weights = Weights::open(dir, options.device, options.kind)?;
        Self::build(dir, config, weights, options)
    }

    /// A model of the directory's configuration with random weights (normal with `initializer_range`, norms 1,
    /// biases 0). Same seed, same weights.
    ///
    /// # Errors
    /// As [`Vlm::load`], for `config.json`.
    pub fn random(dir: &Path, options: &LoadOptions, seed: i64) -> Result<Self, PolicyError> {
        let config = ModelConfig::from_dir(dir)?;
        tch::manual_seed(seed);
        let weights = Weights::random(dir, options.device, options.kind, config.text.initializer_range);
        Self::build(dir, config, weights, options)
    }

    fn build(dir: &Path, config: ModelConfig, weights: Weights, options: &LoadOptions) -> Result<Self, PolicyError> {
        let companions = Companions::read(dir)?;
        let vision = VisionTower::new(&weights, &config.vision);
        let text = TextModel::new(&weights, &config.text, options.attention);
        let tensors = weights.finish()?;
        let features = RefCell::new(FeatureCache::new(options.feature_cache));
        let model = Self { config, companions, options: *options, vision, text, tensors, features };
        for (_, tensor) in model.parameters() {
            let _ = tensor.set_requires_grad(true);
        }
        Ok(model)
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The device of the weights.
    pub fn device(&self) -> Device {
        self.options.device
    }

    /// Parameters that receive gradients, with their names in the checkpoint.
    pub fn parameters(&self) -> impl Iterator<Item = &(String, Tensor)> {
        let trainable = self.options.trainable;
        self.tensors.iter().filter(move |(name, _)| match trainable {
            Trainable::All => true,
            Trainable::Text => !name.starts_with("visual."),
            Trainable::Nothing => false,
        })
    }

    /// All tensors, with their names in the checkpoint.
    pub fn tensors(&self) -> &[(String, Tensor)] {
        &self.tensors
    }

    /// Saves a directory that Hugging Face libraries load: the weights, and every other small file of the directory
    /// that the model came from (configuration, tokenizer, chat template, preprocessor).
    ///
    /// # Errors
    /// [`PolicyError::File`] if something cannot be written, [`PolicyError::Config`] if the directory holds a checkpoint
    /// in shards: its index would hide what is saved here.
    pub fn save(&self, dir: &Path) -> Result<(), PolicyError> {
        save_directory(dir, &self.companions, &self.tensors)
    }

    /// Checks a prompt, gives its tokens their positions and, if the vision tower is frozen, computes the features of
    /// its media.
    ///
    /// # Errors
    /// [`PolicyError::Prompt`] if pads and media do not fit, a token is outside the vocabulary, or the prompt is empty
    /// or longer than the model allows.
    pub fn encode(&self, prompt: &Prompt) -> Result<Encoded, PolicyError> {
        self.encode_with(prompt, None)
    }

    /// The same with the features of the prompt's media, `[merged patches, D]` in their order, where they are known.
    ///
    /// # Errors
    /// As [`Vlm::encode`].
    pub fn encode_with(&self, prompt: &Prompt, features: Option<Tensor>) -> Result<Encoded, PolicyError> {
        let config = &self.config;
        self.check(prompt)?;
        let (axes, next_position) = rope::positions(config, prompt)?;
        let is_media = |id: i64| id == config.video_token_id || id == config.image_token_id;
        let pads: Vec<i64> = (0..).zip(&prompt.ids).filter(|(_, id)| is_media(**id)).map(|(row, _)| row).collect();
        let video_rows: Vec<i64> =
            (0..).zip(&prompt.ids).filter(|(_, id)| **id == config.video_token_id).map(|(row, _)| row).collect();
        let mut video_frames = Vec::with_capacity(video_rows.len());
        let (mut frames, mut videos) = (0, Vec::new());
        for medium in &prompt.media {
            if let Media::Video(_) = medium {
                let (t, h, w) = rope::merged_grid(config, medium);
                video_frames.extend((0..t * h * w).map(|index| frames + (index / (h * w)) as i64));
                frames += t as i64;
                videos.push(t);
            }
        }
        let device = self.device();
        let frozen = self.options.trainable != Trainable::All;
        let known = features.filter(|_| frozen);
        let features = known.or_else(|| (frozen && !pads.is_empty()).then(|| self.frozen_features(&prompt.media)));
        Ok(Encoded {
            ids: Tensor::from_slice(&prompt.ids).to_device(device),
            positions: Tensor::from_slice2(&axes).to_device(device),
            next_position,
            pads: Tensor::from_slice(&pads).to_device(device),
            media: if frozen { Vec::new() } else { prompt.media.clone() },
            features,
            video_rows,
            video_frames,
            frames,
            videos,
        })
    }

    fn check(&self, prompt: &Prompt) -> Result<(), PolicyError> {
        let config = &self.config;
        let vocab = config.text.vocab_size;
        let longest = config.text.max_position_embeddings as usize;
        let (dim, merge) = (config.vision.patch_dim() as usize, config.vision.spatial_merge_size as usize);
        if prompt.ids.is_empty() || prompt.ids.len() > longest {
            let found = prompt.ids.len();
            return Err(PolicyError::Prompt(format!("expected 1 to {longest} tokens, found {found}")));
        }
        if let Some(id) = prompt.ids.iter().find(|id| !(0..vocab).contains(*id)) {
            return Err(PolicyError::Prompt(format!("token id {id} is outside the vocabulary of {vocab}")));
        }
        for medium in &prompt.media {
            let patches = medium.patches();
            let grid = &patches.grid;
            let (rows, columns) = patches.pixels.dim();
            if columns != dim || rows != grid.t * grid.h * grid.w || grid.h % merge + grid.w % merge != 0 || rows == 0 {
                return Err(PolicyError::Prompt(format!(
                    "{}: expected patches [{}x{}x{}, {dim}] on a grid of multiples of {merge}, found [{rows}, {columns}]",
                    medium.name(),
                    grid.t,
                    grid.h,
                    grid.w
                )));
            }
        }
        Ok(())
    }

    /// Features of media in order, `[merged patches, D]`, those of media seen before from the cache.
    fn frozen_features(&self, media: &[Media]) -> Tensor {
        let mut cache = self.features.borrow_mut();
        let features = media
            .iter()
            .map(|medium| cache.get_or(&[medium.patches().fingerprint()], || no_grad(|| self.features_of(medium))));
        joined(features.collect())
    }

    /// Features of images of one size by a frozen tower: `[images, merged patches, D]`, those of each the same to the bit
    /// whatever others are asked for with it.
    ///
    /// # Errors
    /// [`PolicyError::Prompt`] for no image, or images of several sizes.
    pub fn image_features(&self, images: &[Media]) -> Result<Tensor, PolicyError> {
        let Some(grid) = images.first().map(|image| image.patches().grid) else {
            return Err(PolicyError::Prompt("expected at least one image".into()));
        };
        if images.iter().any(|image| image.patches().grid != grid) {
            return Err(PolicyError::Prompt("expected images of one size".into()));
        }
        // One by one: rows of a product are rounded differently in another company, and who is missing from the cache
        // depends on what was asked before.
        let features: Vec<_> = images.iter().map(|image| self.frozen_features(std::slice::from_ref(image))).collect();
        Ok(Tensor::stack(&features, 0))
    }

    /// Features of media in order, `[merged patches, D]`.
    pub fn features(&self, media: &[Media]) -> Tensor {
        joined(media.iter().map(|medium| self.features_of(medium)).collect())
    }

    fn features_of(&self, medium: &Media) -> Tensor {
        let patches = medium.patches();
        let shape = [patches.pixels.nrows() as i64, patches.pixels.ncols() as i64];
        let pixels = match patches.pixels.as_slice() {
            Some(values) => Tensor::from_slice(values),
            None => Tensor::from_slice(&patches.pixels.iter().copied().collect::<Vec<_>>()),
        };
        let grid = [patches.grid.t as i64, patches.grid.h as i64, patches.grid.w as i64];
        self.vision.forward(&pixels.view(shape).to_device(self.device()), grid)
    }

    /// Embeddings of prompts one behind the other, each with its media's features in place and the tokens `[X]` that follow
    /// it: `[N, D]`. They are looked up at once, so that the table has one gradient, not one of its own size for each part.
    pub(crate) fn embed(&self, prompts: &[(&Encoded, Option<Tensor>)]) -> Tensor {
        let (mut ids, mut pads, mut features) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for (prompt, followed_by) in prompts {
            if prompt.pads.numel() > 0 {
                pads.push(&prompt.pads + start);
                features.push(match &prompt.features {
                    Some(features) => features.shallow_clone(),
                    None => self.features(&prompt.media),
                });
            }
            for part in [Some(&prompt.ids), followed_by.as_ref()].into_iter().flatten() {
                start += part.numel() as i64;
                ids.push(part);
            }
        }
        let mut embedded = self.text.embed(&Tensor::cat(&ids, 0));
        if pads.is_empty() {
            return embedded;
        }
        embedded.index_copy_(0, &joined(pads), &joined(features))
    }

    pub(crate) fn rope(&self, positions: &Tensor) -> Rope {
        Rope::text(&self.config.text, positions, self.options.kind)
    }

    /// The head that turns hidden states into token distributions at this temperature, which must be the sampler's;
    /// tokens that are never sampled have no share in them.
    pub fn head(&self, temperature: f64) -> Head {
        Head::new(self.text.head(), temperature, &self.unsampled())
    }

    /// Ids that must never be sampled: the special vision tokens.
    pub fn unsampled(&self) -> [i64; 4] {
        let c = &self.config;
        [c.image_token_id, c.video_token_id, c.vision_start_token_id, c.vision_end_token_id]
    }
}
