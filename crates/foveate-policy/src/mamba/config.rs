//! `config.json` of a Mamba-2 directory, as Hugging Face libraries write it.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::{PolicyError, config::read_json};

/// Dimensions of a Mamba-2 model; field names as in `config.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[allow(missing_docs, reason = "the names are those of config.json")]
pub struct MambaConfig {
    model_type: String,
    pub hidden_size: i64,
    pub num_hidden_layers: i64,
    pub num_heads: i64,
    pub head_dim: i64,
    pub state_size: i64,
    pub n_groups: i64,
    pub conv_kernel: i64,
    pub chunk_size: i64,
    pub vocab_size: i64,
    pub layer_norm_epsilon: f64,
    pub initializer_range: f64,
    pub use_bias: bool,
    pub use_conv_bias: bool,
    pub tie_word_embeddings: bool,
    hidden_act: String,
    /// Bounds of a time step; anything but a number is an infinite upper bound.
    time_step_limit: (f64, Value),
}

impl MambaConfig {
    /// Reads `DIR/config.json`. A missing field is an error that names it.
    ///
    /// # Errors
    /// [`PolicyError::File`] if it cannot be read, [`PolicyError::Config`] if it is not a Mamba-2 configuration.
    pub fn from_dir(dir: &Path) -> Result<Self, PolicyError> {
        let path = dir.join("config.json");
        Self::from_json(&read_json(&path)?).map_err(|problem| PolicyError::config(&path, problem))
    }

    pub(crate) fn from_json(json: &Value) -> Result<Self, String> {
        let config = Self::deserialize(json).map_err(|error| error.to_string())?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.model_type != "mamba2" {
            return Err(format!("model_type: expected \"mamba2\", found {:?}", self.model_type));
        }
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_heads", self.num_heads),
            ("head_dim", self.head_dim),
            ("state_size", self.state_size),
            ("n_groups", self.n_groups),
            ("conv_kernel", self.conv_kernel),
            ("chunk_size", self.chunk_size),
            ("vocab_size", self.vocab_size),
        ];
        let most = 1 << 20; // products of three of these are formed
        if let Some((name, size)) = sizes.iter().find(|(_, size)| !(1..=most).contains(size)) {
            return Err(format!("{name}: expected a number from 1 to {most}, found {size}"));
        }
        if self.num_heads % self.n_groups != 0 {
            return Err(format!("num_heads {} must be a multiple of n_groups {}", self.num_heads, self.n_groups));
        }
        if !["silu", "swish"].contains(&self.hidden_act.as_str()) {
            return Err(format!("hidden_act: expected \"silu\", found {:?}", self.hidden_act));
        }
        if self.layer_norm_epsilon.is_nan() || self.layer_norm_epsilon <= 0.0 {
            return Err("layer_norm_epsilon must be a positive number".to_owned());
        }
        Ok(())
    }

    /// Width of the mixer, `num_heads * head_dim`.
    pub fn inner(&self) -> i64 {
        self.num_heads * self.head_dim
    }

    /// Channels that the convolution mixes over time: the mixer's input, B and C.
    pub(super) fn channels(&self) -> i64 {
        self.inner() + 2 * self.n_groups * self.state_size
    }

    /// Smallest and largest time step; the largest may be infinite.
    pub(super) fn time_step_limit(&self) -> (f64, f64) {
        (self.time_step_limit.0, self.time_step_limit.1.as_f64().unwrap_or(f64::INFINITY))
    }
}
