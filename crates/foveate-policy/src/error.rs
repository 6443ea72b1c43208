//! The one error type of this crate.

use std::path::{Path, PathBuf};

use crate::text::TextError;

/// What can go wrong between a model directory, a prompt and libtorch.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file of the model directory cannot be read or written.
    #[error("cannot access {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A JSON file does not hold what is expected there.
    #[error("{}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong, and what was expected.
        problem: String,
    },
    /// The checkpoint's tensors are not those of the configuration.
    #[error("{}: {} do not match config.json: {}", path.display(), count(differences), differences.join("; "))]
    Weights {
        /// The model directory.
        path: PathBuf,
        /// Every missing, unexpected and misshapen tensor.
        differences: Vec<String>,
    },
    /// A safetensors file is damaged.
    #[error("{}: not a readable safetensors file: {problem}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the reader found.
        problem: String,
    },
    /// Token ids and media of a prompt do not fit each other or the model.
    #[error("bad prompt: {0}")]
    Prompt(String),
    /// A tokenizer or chat template problem.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A setting that this build or machine cannot serve.
    #[error("{what}: expected {expected}, found {found}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// What would be accepted.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A loss, gradient or log-prob that is not a number any more.
    #[error("{what} is not finite ({value}); the step was not applied")]
    NotFinite {
        /// The quantity.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// libtorch refused an operation.
    #[error("libtorch refused an operation")]
    Torch(#[from] tch::TchError),
}

fn count(differences: &[String]) -> String {
    match differences.len() {
        1 => "1 tensor".into(),
        n => format!("{n} tensors"),
    }
}

impl PolicyError {
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::File { path: path.to_owned(), source }
    }

    pub(crate) fn config(path: &Path, problem: impl Into<String>) -> Self {
        Self::Config { path: path.to_owned(), problem: problem.into() }
    }
}
