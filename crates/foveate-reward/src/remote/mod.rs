//! A scorer behind a URL, such as a reward model that another process serves.
//!
//! One POST per group of completions: `{"items": [{"prompt", "completion", "answer", "problem_type"}, ..]}`, answered
//! by status 200 and `{"scores": [number or null, ..]}` in the same order; null means that the item cannot be scored.

#[cfg(not(feature = "remote"))]
mod absent;
#[cfg(feature = "remote")]
mod client;

use serde::{Deserialize, Serialize};

#[cfg(not(feature = "remote"))]
pub(crate) use absent::Remote;
#[cfg(feature = "remote")]
pub(crate) use client::Remote;

/// The `remote` scorer. A build without the feature `remote` refuses it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteConfig {
    /// Where to POST, `http://` or `https://`.
    pub url: String,
    /// Share in the total.
    #[serde(default = "default_weight")]
    pub weight: f32,
    /// How long one attempt may take, in seconds.
    #[serde(default = "default_timeout")]
    pub timeout: f64,
    /// How often to ask again after a failure of any kind.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// Pause before the first retry in seconds, doubled before each further one.
    #[serde(default = "default_backoff")]
    pub backoff: f64,
}

fn default_weight() -> f32 {
    1.0
}

fn default_timeout() -> f64 {
    30.0
}

fn default_retries() -> u32 {
    3
}

fn default_backoff() -> f64 {
    1.0
}
