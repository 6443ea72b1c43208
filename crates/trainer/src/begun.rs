//! What a long command over a file of records has done so far, so that one that was stopped can go on.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use foveate_data::Records;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::cli::SourceArgs;
use crate::config::Config;
use crate::data::LoaderState;
use crate::error::{UserContext, user_error};

/// A file whose first line says what is asked, and every further line holds a batch of answers.
#[derive(Debug)]
pub(crate) struct Begun<T> {
    path: PathBuf,
    file: File,
    items: Vec<T>,
    state: LoaderState,
}

/// A batch of answers, and where the loader stood after it.
#[derive(Serialize, Deserialize)]
struct Batch<T> {
    state: LoaderState,
    items: T,
}

type Batches<T> = Vec<Batch<Vec<T>>>;

impl<T: Serialize + DeserializeOwned> Begun<T> {
    /// Goes on with the file beside `output` if there is one.
    ///
    /// # Errors
    /// A user error: the file holds answers to something else, or another process writes to it; or it cannot be written.
    pub(crate) fn beside(output: &Path, asked: &str) -> Result<Self> {
        let mut name = output.as_os_str().to_owned();
        name.push(".partial");
        Self::open(Path::new(&name), asked)
    }

    fn open(path: &Path, asked: &str) -> Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs_err::create_dir_all(folder).user()?;
        }
        let options = fs_err::OpenOptions::new().read(true).append(true).create(true).clone();
        let mut file = options.open(path).user()?.into_file();
        if file.try_lock().is_err() {
            return Err(user_error(format!("{}: another process is writing here", path.display())));
        }
        let Some((batches, whole)) = read::<T>(&file, asked)? else {
            let what = "answers to other questions, another model or under other settings: let that command end, remove the \
                file, or name another --output";
            return Err(user_error(format!("{}: it holds {what}", path.display())));
        };
        file.set_len(whole)?; // a line that was being written when the evaluation ended
        if whole == 0 {
            writeln!(file, "{}", serde_json::to_string(asked)?)?;
        }
        let state = batches.last().map(|batch| batch.state.clone()).unwrap_or_default();
        let items: Vec<T> = batches.into_iter().flat_map(|batch| batch.items).collect();
        if !items.is_empty() {
            tracing::info!("going on after {} answers", items.len());
        }
        Ok(Self { path: path.to_owned(), file, items, state })
    }

    /// The answers so far, and where the loader stood after them.
    pub(crate) fn taken(&mut self) -> (Vec<T>, LoaderState) {
        (std::mem::take(&mut self.items), self.state.clone())
    }

    /// Keeps a batch of answers, and where the loader stands after it.
    ///
    /// # Errors
    /// They cannot be kept.
    pub(crate) fn add(&mut self, state: &LoaderState, items: &[T]) -> Result<()> {
        let batch = Batch { state: state.clone(), items };
        writeln!(self.file, "{}", serde_json::to_string(&batch)?).with_context(|| self.path.display().to_string())
    }

    /// Takes the file away, once all answers are kept elsewhere.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(crate) fn remove(self) -> Result<()> {
        Ok(fs_err::remove_file(&self.path)?)
    }
}

/// What two commands that have a model judge records must share for one to go on with the other's answers.
///
/// # Errors
/// The records cannot be listed.
pub(crate) fn judging(source: &SourceArgs, model: &Path, config: &Config, more: impl Serialize) -> Result<String> {
    let files = [model, &model.join("model.safetensors"), Path::new(&config.data.prompt)].map(file_state);
    let records = Records::files(&source.input, source.format)?;
    let records: Vec<_> = records.iter().map(|file| file_state(file)).collect();
    let settings =
        (&config.data, &config.rollout, &config.reward, &config.scorer, &config.model.dtype, config.run.seed);
    Ok(serde_json::to_string(&(files, records, &source.media_root, settings, more))?)
}

/// A file's name, length and time of change.
pub(crate) fn file_state(path: &Path) -> (String, Option<(u64, Option<SystemTime>)>) {
    let facts = fs_err::metadata(path).ok().map(|facts| (facts.len(), facts.modified().ok()));
    (path.display().to_string(), facts)
}

/// The batches of a file, and the length of what is whole of it, in bytes; nothing if it holds answers to something else. A
/// file that something else was asked in and not answered is as good as empty.
fn read<T: DeserializeOwned>(file: &File, asked: &str) -> Result<Option<(Batches<T>, u64)>> {
    let mut lines = BufReader::new(file);
    let (mut batches, mut whole, mut line) = (Vec::new(), 0, String::new());
    while lines.read_line(&mut line)? > 0 && line.ends_with('\n') {
        if whole == 0 {
            match serde_json::from_str::<String>(&line) {
                Ok(found) if found == asked => {}
                Ok(_) if lines.fill_buf()?.is_empty() => return Ok(Some((batches, 0))),
                _ => return Ok(None),
            }
        } else {
            let Ok(batch) = serde_json::from_str(&line) else { break };
            batches.push(batch);
        }
        whole += line.len() as u64;
        line.clear();
    }
    Ok(Some((batches, whole)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Item;

    fn item(id: &str) -> Item {
        serde_json::from_value(serde_json::json!({
            "id": id, "kind": "", "answer": "A", "completion": "", "accuracy": 1.0, "reward": 1.0, "length": 1, "truncated": false
        }))
        .unwrap()
    }

    #[test]
    fn what_was_kept_is_there_again_up_to_a_line_that_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.jsonl.partial");
        let mut begun = Begun::<Item>::open(&path, "this").unwrap();
        assert_eq!(begun.taken(), (vec![], LoaderState::default()));
        let states = [1, 3].map(|position| LoaderState { position, ..LoaderState::default() });
        begun.add(&states[0], &[item("a")]).unwrap();
        begun.add(&states[1], &[item("b"), item("c")]).unwrap();
        drop(begun);
        let whole = std::fs::read(&path).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"state\": ").unwrap();

        let mut again = Begun::<Item>::open(&path, "this").unwrap();
        assert_eq!(again.taken(), (vec![item("a"), item("b"), item("c")], states[1].clone()));
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        let busy = Begun::<Item>::open(&path, "this").unwrap_err().to_string();
        assert!(busy.contains("another process is writing here"), "{busy}");
        drop(again);
        let other = Begun::<Item>::open(&path, "that").unwrap_err().to_string();
        assert!(other.contains("name another --output"), "{other}");
        assert_eq!(std::fs::read(&path).unwrap(), whole, "nothing is lost");
        Begun::<Item>::open(&path, "this").unwrap().remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_was_asked_and_not_answered_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.jsonl.partial");
        drop(Begun::<Item>::open(&path, "this").unwrap());
        drop(Begun::<Item>::open(&path, "that").unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "\"that\"\n");
        crate::run::write_atomically(&path, b"notes of a user\n").unwrap();
        assert!(Begun::<Item>::open(&path, "this").is_err(), "it is not ours");
    }
}
