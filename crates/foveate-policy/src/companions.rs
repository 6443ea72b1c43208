//! The small files of a model directory beside its weights: configuration, tokenizer, chat template, preprocessor.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::Path,
};

use crate::PolicyError;

/// Names of the files that Hugging Face directories have. Other files beside them, such as notes, are left alone.
const NAMES: [&str; 13] = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
];

/// The files' names and contents, kept in memory: the directory they come from may be a checkpoint that is pruned
/// before the model is saved.
#[derive(Debug, Clone)]
pub(crate) struct Companions(Vec<(&'static str, Vec<u8>)>);

impl Companions {
    /// Reads those that a model directory has.
    pub(crate) fn read(dir: &Path) -> Result<Self, PolicyError> {
        let mut files = Vec::new();
        for name in NAMES {
            let path = dir.join(name);
            match fs::read(&path) {
                Ok(bytes) => files.push((name, bytes)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(PolicyError::file(&path)(error)),
            }
        }
        Ok(Self(files))
    }

    /// The contents of one of them.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, bytes)| bytes.as_slice())
    }

    /// Those of these names.
    pub(crate) fn only(mut self, names: &[&str]) -> Self {
        self.0.retain(|(name, _)| names.contains(name));
        self
    }

    /// These and others.
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// The same with another file.
    pub(crate) fn with(mut self, name: &'static str, bytes: Vec<u8>) -> Self {
        self.0.retain(|(known, _)| *known != name);
        self.0.push((name, bytes));
        self
    }

    /// Writes them to another directory, each to a temporary name first.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), PolicyError> {
        for (name, bytes) in &self.0 {
            let target = dir.join(name);
            let partial = dir.join(format!("{name}.partial"));
            let written = File::create(&partial).and_then(|mut file| {
                file.write_all(bytes)?;
                fs::rename(&partial, &target)
            });
            written.map_err(PolicyError::file(&target))?;
        }
        Ok(())
    }
}
