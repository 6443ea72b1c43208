//! Mamba-2 (Dao and Gu 2024, arXiv 2405.21060), after Hugging Face's checkpoints: a causal model whose time and memory
//! are linear in the length, and whose state is of one size however much it has seen.

mod config;
mod layer;
mod scan;

use std::path::Path;

use tch::{Device, Kind, Tensor, no_grad};

use crate::{
    PolicyError,
    backbone::{Backbone, State},
    head::Head,
    qwen::{RmsNorm, wide},
    score::RowScores,
    weights::{Init, Weights},
};

pub use config::MambaConfig;
use layer::Layer;

/// Embeddings, layers and the last norm.
#[derive(Debug)]
pub(crate) struct MambaBackbone {
    config: MambaConfig,
    embeddings: Tensor, // [V, D]
    layers: Vec<Layer>,
    norm: RmsNorm,
}

impl MambaBackbone {
    /// The weights under `backbone.`.
    pub(crate) fn new(weights: &Weights, config: &MambaConfig) -> Self {
        let weights = weights / "backbone";
        let shape = [config.vocab_size, config.hidden_size];
        Self {
            config: config.clone(),
            embeddings: (&weights / "embeddings").get("weight", &shape, Init::Normal),
            layers: (0..config.num_hidden_layers).map(|i| Layer::new(&(&weights / "layers" / i), config)).collect(),
            norm: RmsNorm::new(&(&weights / "norm_f"), config.hidden_size, config.layer_norm_epsilon),
        }
    }
}

impl Backbone for MambaBackbone {
    fn width(&self) -> i64 {
        self.config.hidden_size
    }

    fn vocabulary(&self) -> i64 {
        self.config.vocab_size
    }

    fn most_positions(&self) -> i64 {
        i64::MAX
    }

    fn depth(&self) -> usize {
        self.layers.len()
    }

    fn embed(&self, ids: &Tensor) -> Tensor {
        wide(&Tensor::embedding(&self.embeddings, ids, -1, false, false))
    }

    fn empty(&self, rows: i64) -> Vec<State> {
        self.layers.iter().map(|layer| layer.empty(rows)).collect()
    }

    fn layer(&self, index: usize, x: &Tensor, before: &State) -> (Tensor, State) {
        self.layers[index].forward(x, before)
    }

    fn finish(&self, x: &Tensor) -> Tensor {
        self.norm.forward(x).to_kind(self.embeddings.kind())
    }
}

/// A Mamba-2 language model, without gradients.
#[derive(Debug)]
pub struct Mamba {
    backbone: MambaBackbone,
    head: Tensor, // [V, D]
    device: Device,
}

impl Mamba {
    /// Loads a Hugging Face directory: `config.json` and `model.safetensors` or its shards.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the tensors are not exactly those the configuration asks for.
    pub fn load(dir: &Path, device: Device, kind: Kind) -> Result<Self, PolicyError> {
        let config = MambaConfig::from_dir(dir)?;
        let weights = Weights::open(dir, device, kind)?;
        let backbone = MambaBackbone::new(&weights, &config);
        let shape = [config.vocab_size, config.hidden_size];
        let head = match config.tie_word_embeddings {
            true => backbone.embeddings.shallow_clone(),
            false => (&weights / "lm_head").get("weight", &shape, Init::Normal),
        };
        weights.finish()?;
        Ok(Self { backbone, head, device })
    }

    /// Log-prob and entropy of the tokens at `chosen` (indices into the sequence, each at least 1).
    ///
    /// # Errors
    /// [`PolicyError::Prompt`] for an empty sequence, a token outside the vocabulary or a chosen index that nothing
    /// predicts.
    pub fn score(&self, ids: &[i64], chosen: &[usize]) -> Result<RowScores, PolicyError> {
        self.check(ids)?;
        RowScores::check(ids.len(), chosen)?;
        no_grad(|| {
            let hidden = self.backbone.forward(&self.embed(ids), &mut self.backbone.empty(1)).squeeze_dim(0);
            let rows: Vec<i64> = chosen.iter().map(|index| *index as i64 - 1).collect();
            let ids: Vec<i64> = chosen.iter().map(|index| ids[*index]).collect();
            let [rows, ids] = [rows, ids].map(|x| Tensor::from_slice(&x).to_device(self.device));
            let scores = Head::new(&self.head, 1.0, &[]).score(&hidden.index_select(0, &rows), &ids);
            Ok(RowScores { logprobs: scores.logprobs, entropy: scores.entropy, frame_attention: None, positions: None })
        })
    }

    /// The likeliest `count` tokens after a prompt, one at a time from the state of those before.
    ///
    /// # Errors
    /// [`PolicyError::Prompt`] for an empty prompt or a token outside the vocabulary.
    pub fn greedy(&self, prompt: &[i64], count: usize) -> Result<Vec<i64>, PolicyError> {
        self.check(prompt)?;
        let head = Head::new(&self.head, 1.0, &[]);
        no_grad(|| {
            let mut states = self.backbone.empty(1);
            let (mut seen, mut found) = (prompt.to_vec(), Vec::with_capacity(count));
            while found.len() < count {
                let hidden = self.backbone.forward(&self.embed(&seen), &mut states).squeeze_dim(0);
                let last = head.likeliest(&hidden.narrow(0, -1, 1)).int64_value(&[0]);
                found.push(last);
                seen = vec![last];
            }
            Ok(found)
        })
    }

    fn embed(&self, ids: &[i64]) -> Tensor {
        self.backbone.embed(&Tensor::from_slice(ids).unsqueeze(0).to_device(self.device))
    }

    fn check(&self, ids: &[i64]) -> Result<(), PolicyError> {
        let vocabulary = self.backbone.config.vocab_size;
        match ids.iter().find(|id| !(0..vocabulary).contains(*id)) {
            _ if ids.is_empty() => Err(PolicyError::Prompt("expected at least one token".into())),
            Some(id) => Err(PolicyError::Prompt(format!("token id {id} is outside the vocabulary of {vocabulary}"))),
            None => Ok(()),
        }
    }
}
