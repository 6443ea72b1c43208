//! The small files of a model directory beside its weights: configuration, tokenizer, chat template, preprocessor.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use crate::{PolicyError, weights::INDEX};

/// The files' names and contents, kept in memory: the directory they come from may be a checkpoint that is pruned
/// before the model is saved.
#[derive(Debug)]
pub(crate) struct Companions(Vec<(OsString, Vec<u8>)>);

impl Companions {
    /// Reads a model directory's small files.
    pub(crate) fn read(dir: &Path) -> Result<Self, PolicyError> {
        let listing = fs_err::read_dir(dir).map_err(PolicyError::file(dir))?;
        let paths =
            listing.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(PolicyError::file(dir))?;
        let mut files = Vec::new();
        for path in paths.iter().filter(|path| is_companion(path)) {
            let bytes = fs_err::read(path).map_err(PolicyError::file(path))?;
            files.extend(path.file_name().map(|name| (name.to_owned(), bytes)));
        }
        Ok(Self(files))
    }

    /// Writes them to another directory, each to a temporary name first.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), PolicyError> {
        for (name, bytes) in &self.0 {
            let target = dir.join(name);
            let partial = PathBuf::from(format!("{}.partial", target.display()));
            let mut file = fs_err::File::create(&partial).map_err(PolicyError::file(&partial))?;
            std::io::Write::write_all(&mut file, bytes).map_err(PolicyError::file(&partial))?;
            fs_err::rename(&partial, &target).map_err(PolicyError::file(&target))?;
        }
        Ok(())
    }
}

fn is_companion(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let text = matches!(extension, Some("json" | "jinja" | "txt"));
    text && path.is_file() && path.file_name().is_some_and(|name| name != INDEX)
}
