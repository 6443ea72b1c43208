//! A data set's files as examples, read one at a time.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::formats::{At, Beside};
use crate::store::Store;
use crate::{DataError, Example, Fault, Format};

/// The examples of a file, or of a folder of files. Only where they stand is in memory.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    format: Format,
    media_root: PathBuf,
    stores: Vec<Store>,
    beside: Beside,
    /// The last record that was read and stands for several examples: they are mostly read one after another.
    last: Mutex<Option<(u32, u32, Vec<Example>)>>,
    /// Each example's store, record and place among the record's examples.
    places: Vec<(u32, u32, u32)>,
}

impl Records {
    /// Opens a file, or all files of a folder (benchmarks that come as a file per task) or, if it has none itself, those of
    /// the folders in it. Media paths are relative to `media_root`, or else to the file's folder.
    ///
    /// # Errors
    /// [`DataError::File`] or [`DataError::Content`] if a file cannot be read or holds no record; [`DataError::Record`] if none
    /// of the first records is one of this data set.
    pub fn open(path: &Path, format: Format, media_root: Option<&Path>) -> Result<Self, DataError> {
        let stores = Self::files(path, format)?.iter().map(|file| Store::open(file)).collect::<Result<Vec<_>, _>>()?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = if path.is_dir() { path } else { parent };
        let mut records = Self {
            path: path.to_owned(),
            format,
            media_root: media_root.unwrap_or(folder).to_owned(),
            stores,
            beside: Beside::default(),
            last: Mutex::new(None),
            places: Vec::new(),
        };
        records.places = records.list();
        if records.is_empty() {
            let reason = if path.is_dir() { "no file of records in it" } else { "no record in it" };
            return Err(DataError::Content { path: path.to_owned(), reason: reason.to_owned() });
        }
        records.check_format()?;
        Ok(records)
    }

    /// The files that [`Records::open`] opens: the file itself, or those of the folder.
    ///
    /// # Errors
    /// [`DataError::File`] if a folder cannot be listed.
    pub fn files(path: &Path, format: Format) -> Result<Vec<PathBuf>, DataError> {
        if path.is_dir() { files(path, format) } else { Ok(vec![path.to_owned()]) }
    }

    /// The first record's error if none of the first few can be read: the file is of another data set, then. A single one
    /// may be bad as any other may.
    fn check_format(&self) -> Result<(), DataError> {
        const TRIED: usize = 20;
        let mut tried = (0..self.len().min(TRIED)).map(|index| self.get(index).map(drop));
        match tried.next() {
            Some(Err(error)) if tried.all(|one| one.is_err()) => Err(error),
            _ => Ok(()),
        }
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
        let at = self.places.get(index).and_then(|at| Some((self.stores.get(at.0 as usize)?, at.1)));
        at.map_or_else(|| self.path.display().to_string(), |(store, record)| store.place(record as usize))
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
        let &(number, record, part) = self.places.get(index).ok_or_else(missing)?;
        let store = self.stores.get(number as usize).ok_or_else(missing)?;
        if !self.format.expands() {
            return self.of(store, record as usize)?.into_iter().nth(part as usize).ok_or_else(missing);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let examples = match &*last {
            Some((kept, of, examples)) if (*kept, *of) == (number, record) => examples,
            _ => &last.insert((number, record, self.of(store, record as usize)?)).2,
        };
        examples.get(part as usize).cloned().ok_or_else(missing)
    }

    /// The example of this name, looked for from the beginning; those that cannot be read are passed over.
    pub fn find(&self, id: &str) -> Option<Example> {
        (0..self.len()).filter_map(|index| self.get(index).ok()).find(|example| example.id == id)
    }

    /// All examples of a record.
    fn of(&self, store: &Store, record: usize) -> Result<Vec<Example>, DataError> {
        let raw = store.read(record)?;
        let at = At { file: store.path(), key: raw.key.as_deref(), record, beside: &self.beside };
        let examples = self
            .format
            .examples(raw.value, &at)
            .and_then(|all| all.into_iter().map(|e| e.under(&self.media_root)).collect());
        examples.map_err(|fault| DataError::Record { place: store.place(record), fault })
    }
}

/// The files of records in a folder, in the order of their names; if there is none, those in its folders.
fn files(folder: &Path, format: Format) -> Result<Vec<PathBuf>, DataError> {
    let of_folder = |source| DataError::File { path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(of_folder)?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(of_folder)?;
    paths.sort();
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let is_record = |path: &PathBuf| path.is_file() && Store::knows(path) && !format.is_beside(&stem(path));
    if paths.iter().any(is_record) {
        return Ok(paths.into_iter().filter(is_record).collect());
    }
    let folders: Vec<_> =
        paths.iter().filter(|path| path.is_dir()).map(|path| files(path, format)).collect::<Result<_, _>>()?;
    Ok(folders.concat())
}

#[cfg(test)]
mod tests {
    use std::fs::{File, create_dir_all};
    use std::io::Write;

    use super::*;

    const GOOD: &str = r#"{"id": "a", "question": "?", "answer": "x", "problem_type": "free-form"}"#;

    fn write(path: &Path, lines: &[&str]) {
        create_dir_all(path.parent().unwrap()).unwrap();
        File::create(path).unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    }

    #[test]
    fn a_bad_record_is_one_of_many_wherever_it_stands_and_a_file_of_bad_ones_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.jsonl");
        write(&path, &["{}", GOOD]);
        let records = Records::open(&path, Format::Foveate, None).unwrap();
        assert_eq!((records.len(), records.get(0).is_err(), records.get(1).is_ok()), (2, true, true));
        write(&path, &["{}"; 30]);
        let error = Records::open(&path, Format::Foveate, None).unwrap_err().to_string();
        assert!(error.ends_with("f.jsonl:1: missing field `id`"), "{error}");
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_record() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("f.jsonl", format!("\u{feff}{GOOD}")), ("f.json", format!("\u{feff}[{GOOD}]"))] {
            let path = folder.path().join(name);
            write(&path, &[&text]);
            assert_eq!(Records::open(&path, Format::Foveate, None).unwrap().get(0).unwrap().id, "a", "{name}");
        }
        let path = folder.path().join("f.json");
        write(&path, &[GOOD, GOOD]);
        let error = Records::open(&path, Format::Foveate, None).unwrap_err().to_string();
        assert!(error.contains("a record a line is a .jsonl file"), "{error}");
    }

    #[test]
    fn a_folder_is_its_files_or_else_those_of_its_folders() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(&root.join("b/one.jsonl"), &[GOOD]);
        write(&root.join("a/deep/two.jsonl"), &[GOOD, GOOD]);
        write(&root.join("a/notes.txt"), &["nothing"]);
        let records = Records::open(root, Format::Foveate, None).unwrap();
        let places: Vec<String> = (0..records.len()).map(|index| records.place(index)).collect();
        let expected = ["a/deep/two.jsonl:1", "a/deep/two.jsonl:2", "b/one.jsonl:1"];
        assert_eq!(places, expected.map(|place| root.join(place).display().to_string()));
        write(&root.join("all.jsonl"), &[GOOD]);
        assert_eq!(Records::open(root, Format::Foveate, None).unwrap().len(), 1);
    }
}
