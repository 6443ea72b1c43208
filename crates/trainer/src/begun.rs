//! What a long command over a file of records has done so far, so that one that was stopped can go on.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use foveate_data::{Format, Records};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::cli::SourceArgs;
use crate::config::{Config, RolloutTable};
use crate::data::LoaderState;
use crate::error::{UserContext, user_error};
use crate::run::lock;

/// A file whose first line says what is asked, and every further line holds a batch of answers.
#[derive(Debug)]
pub(crate) struct Begun<T> {
    path: PathBuf,
    file: File,
    items: Vec<T>,
    state: LoaderState,
}

/// A batch of answers, and where the loader stood after it. Of the bad records only those of the batch are named.
#[derive(Serialize, Deserialize)]
struct Batch<T> {
    state: LoaderState,
    items: T,
}

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
        lock(&file, path, "another process is writing here")?;
        let Some((items, state, whole)) = read::<T>(&file, asked)? else {
            let what = "answers to other questions, another model or under other settings: let that command end, remove the \
                file, or name another --output";
            return Err(user_error(format!("{}: it holds {what}", path.display())));
        };
        file.set_len(whole)?; // a line that was being written when the evaluation ended
        if whole == 0 {
            writeln!(file, "{}", serde_json::to_string(asked)?)?;
        }
        if !items.is_empty() {
            tracing::info!("going on after {} answers", items.len());
        }
        Ok(Self { path: path.to_owned(), file, items, state })
    }

    /// The answers so far, and where the loader stood after them.
    pub(crate) fn taken(&mut self) -> (Vec<T>, LoaderState) {
        (std::mem::take(&mut self.items), self.state.clone())
    }

    /// Keeps a batch of answers, and where the loader, which takes the records in their order, stands after it.
    ///
    /// # Errors
    /// They cannot be kept.
    pub(crate) fn add(&mut self, state: &LoaderState, items: &[T]) -> Result<()> {
        let bad = state.bad.range(self.state.position as usize..).copied().collect();
        self.state.position = state.position;
        let batch = Batch { state: LoaderState { position: state.position, bad }, items };
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
    let prompts = [&config.data.prompt, &config.scorer.prompt].map(|prompt| file_state(Path::new(prompt)));
    let selector = config.data.frames.from.as_deref().map(weights_state);
    let records = records_state(&source.input, source.format)?;
    let rollout = RolloutTable { max_rows: 0, ..config.rollout.clone() };
    let settings = (config.data.alike(), rollout, &config.reward, &config.scorer, &config.model.dtype, config.run.seed);
    Ok(serde_json::to_string(&(weights_state(model), selector, prompts, records, &source.media_root, settings, more))?)
}

/// The states of the files of records at `path`.
///
/// # Errors
/// They cannot be listed.
pub(crate) fn records_state(path: &Path, format: Format) -> Result<impl Serialize> {
    let files = Records::files(path, format)?;
    Ok(files.iter().map(|file| file_state(file)).collect::<Vec<_>>())
}

/// The states of a model's directory and of its weights.
pub(crate) fn weights_state(model: &Path) -> impl Serialize {
    [model, &model.join("model.safetensors")].map(file_state)
}

/// A file's name, length and time of change.
pub(crate) fn file_state(path: &Path) -> (String, Option<(u64, Option<SystemTime>)>) {
    let facts = fs_err::metadata(path).ok().map(|facts| (facts.len(), facts.modified().ok()));
    (path.display().to_string(), facts)
}

/// The answers of a file, where the loader stood after them, and the length of what is whole of it, in bytes; nothing if it
/// holds answers to something else. A file that something else was asked in and not answered is as good as empty.
fn read<T: DeserializeOwned>(file: &File, asked: &str) -> Result<Option<(Vec<T>, LoaderState, u64)>> {
    let mut lines = BufReader::new(file);
    let (mut items, mut state, mut whole, mut line) = (Vec::new(), LoaderState::default(), 0, String::new());
    while lines.read_line(&mut line)? > 0 && line.ends_with('\n') {
        if whole == 0 {
            match serde_json::from_str::<String>(&line) {
                Ok(found) if found == asked => {}
                Ok(_) if lines.fill_buf()?.is_empty() => return Ok(Some((items, state, 0))),
                _ => return Ok(None),
            }
        } else {
            let Ok(batch) = serde_json::from_str::<Batch<Vec<T>>>(&line) else { return Ok(None) };
            items.extend(batch.items);
            state.position = batch.state.position;
            state.bad.extend(batch.state.bad);
        }
        whole += line.len() as u64;
        line.clear();
    }
    Ok(Some((items, state, whole)))
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
        let states = [(2, [0].into()), (5, [0, 3].into())].map(|(position, bad)| LoaderState { position, bad });
        begun.add(&states[0], &[item("a")]).unwrap();
        begun.add(&states[1], &[item("b"), item("c")]).unwrap();
        drop(begun);
        let whole = std::fs::read(&path).unwrap();
        let last = String::from_utf8(whole.clone()).unwrap().lines().last().unwrap().to_owned();
        assert!(last.starts_with(r#"{"state":{"position":5,"bad":[3]}"#), "no more than is new: {last}");
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
        for other in
            [&b"notes of a user\n"[..], b"\"this\"\n{\"state\":{\"position\":1,\"bad\":[]},\"items\":[[1,2]]}\n"]
        {
            crate::run::write_atomically(&path, other).unwrap();
            assert!(Begun::<Item>::open(&path, "this").is_err(), "it is not ours");
            assert_eq!(std::fs::read(&path).unwrap(), other);
        }
    }
}
