//! A data set's files as examples, read one at a time.

use std::path::{Path, PathBuf};

use crate::store::Store;
use crate::{DataError, Example, Fault, Format, Medium};

/// The examples of a file, or of a folder of files. Only where they stand is in memory.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    format: Format,
    media_root: PathBuf,
    stores: Vec<Store>,
    /// Each example's store, record and place among the record's examples.
    places: Vec<(u32, u32, u32)>,
}

impl Records {
    /// Opens a file, or all files of a folder (benchmarks that come as a file per task). Media paths are relative to
    /// `media_root`, or else to the file's folder.
    ///
    /// # Errors
    /// [`DataError::File`] or [`DataError::Content`] if a file cannot be read, holds no record, or its first record is not one of
    /// this data set.
    pub fn open(path: &Path, format: Format, media_root: Option<&Path>) -> Result<Self, DataError> {
        let files = if path.is_dir() { files(path)? } else { vec![path.to_owned()] };
        let stores = files.iter().map(|file| Store::open(file)).collect::<Result<Vec<_>, _>>()?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = if path.is_dir() { path } else { parent };
        let mut records = Self {
            path: path.to_owned(),
            format,
            media_root: media_root.unwrap_or(folder).to_owned(),
            stores,
            places: Vec::new(),
        };
        records.places = records.list();
        if records.is_empty() {
            let reason = if path.is_dir() { "no file of records in it" } else { "no record in it" };
            return Err(DataError::Content { path: path.to_owned(), reason: reason.to_owned() });
        }
        records.get(0)?;
        Ok(records)
    }

    /// Every example's place. A record that cannot be read counts as one example, so that it is met and named.
    fn list(&self) -> Vec<(u32, u32, u32)> {
        let mut places = Vec::new();
        for (number, store) in self.stores.iter().enumerate() {
            for record in 0..store.len() {
                let parts = if self.format.expands() { self.of(store, record).map_or(1, |all| all.len()) } else { 1 };
                places.extend((0..parts).map(|part| (number as u32, record as u32, part as u32)));
            }
        }
        places
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The data set.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The folder that media paths are relative to.
    pub fn media_root(&self) -> &Path {
        &self.media_root
    }

    /// File and line, or file and record, of an example, for messages.
    pub fn place(&self, index: usize) -> String {
        match self.locate(index) {
            Some((store, record, _)) => store.place(record),
            None => self.path.display().to_string(),
        }
    }

    /// Reads an example, counted from 0.
    ///
    /// # Errors
    /// [`DataError::Record`] if the record is not one of this data set, named by file, record and field.
    pub fn get(&self, index: usize) -> Result<Example, DataError> {
        let missing = || DataError::Record {
            place: self.path.display().to_string(),
            fault: Fault::new("", format!("no example {index}")),
        };
        let (store, record, part) = self.locate(index).ok_or_else(missing)?;
        self.of(store, record)?.into_iter().nth(part).ok_or_else(missing)
    }

    /// The example of this name, looked for from the beginning; those that cannot be read are passed over.
    pub fn find(&self, id: &str) -> Option<Example> {
        (0..self.len()).filter_map(|index| self.get(index).ok()).find(|example| example.id == id)
    }

    fn locate(&self, index: usize) -> Option<(&Store, usize, usize)> {
        let (store, record, part) = *self.places.get(index)?;
        Some((self.stores.get(store as usize)?, record as usize, part as usize))
    }

    /// All examples of a record.
    fn of(&self, store: &Store, record: usize) -> Result<Vec<Example>, DataError> {
        let raw = store.read(record)?;
        let at = crate::formats::At { file: store.path(), key: raw.key.as_deref(), record };
        let examples =
            self.format.examples(raw.value, &at).and_then(|all| all.into_iter().map(|e| self.rooted(e)).collect());
        examples.map_err(|fault| DataError::Record { place: store.place(record), fault })
    }

    /// The example with its media under the data root.
    fn rooted(&self, mut example: Example) -> Result<Example, Fault> {
        example.media =
            example.media.into_iter().map(|medium: Medium| medium.under(&self.media_root)).collect::<Result<_, _>>()?;
        Ok(example)
    }
}

/// The files of records in a folder, in the order of their names.
fn files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let of_folder = |source| DataError::File { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(of_folder)? {
        let path = entry.map_err(of_folder)?.path();
        if path.is_file() && Store::knows(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
