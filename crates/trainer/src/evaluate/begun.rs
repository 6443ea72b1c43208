//! Answers of an evaluation under way, so that one that was stopped can go on.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::answer::Keep;
use crate::data::LoaderState;
use crate::error::{UserContext, user_error};
use crate::eval::Item;

/// A file whose first line says what is asked, and every further line holds a batch of answers.
#[derive(Debug)]
pub(super) struct Begun {
    path: PathBuf,
    file: File,
    items: Vec<Item>,
    state: LoaderState,
}

/// A batch of answers, and where the loader stood after it.
#[derive(Serialize, Deserialize)]
struct Batch {
    state: LoaderState,
    items: Vec<Item>,
}

impl Begun {
    /// Goes on with the file if there is one.
    ///
    /// # Errors
    /// A user error: the file holds answers to something else, or another process writes to it; or it cannot be written.
    pub(super) fn open(path: &Path, asked: &str) -> Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs_err::create_dir_all(folder).user()?;
        }
        let options = fs_err::OpenOptions::new().read(true).append(true).create(true).clone();
        let mut file = options.open(path).user()?.into_file();
        if file.try_lock().is_err() {
            return Err(user_error(format!("{}: another evaluation is writing here", path.display())));
        }
        let Some((batches, whole)) = read(&file, asked)? else {
            let what = "answers to other questions, another model or under other settings: finish that evaluation, remove the \
                file, or name another --output";
            return Err(user_error(format!("{}: it holds {what}", path.display())));
        };
        file.set_len(whole)?; // a line that was being written when the evaluation ended
        if whole == 0 {
            writeln!(file, "{}", serde_json::to_string(asked)?)?;
        }
        let state = batches.last().map(|batch| batch.state.clone()).unwrap_or_default();
        let items: Vec<Item> = batches.into_iter().flat_map(|batch| batch.items).collect();
        if !items.is_empty() {
            tracing::info!("going on after {} answers", items.len());
        }
        Ok(Self { path: path.to_owned(), file, items, state })
    }

    /// Takes the file away, once all answers are kept elsewhere.
    pub(super) fn remove(self) -> Result<()> {
        Ok(fs_err::remove_file(&self.path)?)
    }
}

impl Keep for Begun {
    fn kept(&mut self) -> (Vec<Item>, LoaderState) {
        (std::mem::take(&mut self.items), self.state.clone())
    }

    fn keep(&mut self, state: &LoaderState, items: &[Item]) -> Result<()> {
        let batch = Batch { state: state.clone(), items: items.to_vec() };
        writeln!(self.file, "{}", serde_json::to_string(&batch)?).with_context(|| self.path.display().to_string())
    }
}

/// The batches of a file, and the length of what is whole of it, in bytes; nothing if it holds answers to something else. A
/// file that something else was asked in and not answered is as good as empty.
fn read(file: &File, asked: &str) -> Result<Option<(Vec<Batch>, u64)>> {
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
        let mut begun = Begun::open(&path, "this").unwrap();
        assert_eq!(begun.kept(), (vec![], LoaderState::default()));
        let states = [1, 3].map(|position| LoaderState { position, ..LoaderState::default() });
        begun.keep(&states[0], &[item("a")]).unwrap();
        begun.keep(&states[1], &[item("b"), item("c")]).unwrap();
        drop(begun);
        let whole = std::fs::read(&path).unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"state\": ").unwrap();

        let mut again = Begun::open(&path, "this").unwrap();
        assert_eq!(again.kept(), (vec![item("a"), item("b"), item("c")], states[1].clone()));
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        let busy = Begun::open(&path, "this").unwrap_err().to_string();
        assert!(busy.contains("another evaluation is writing here"), "{busy}");
        drop(again);
        let other = Begun::open(&path, "that").unwrap_err().to_string();
        assert!(other.contains("name another --output"), "{other}");
        assert_eq!(std::fs::read(&path).unwrap(), whole, "nothing is lost");
        Begun::open(&path, "this").unwrap().remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_was_asked_and_not_answered_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.jsonl.partial");
        drop(Begun::open(&path, "this").unwrap());
        drop(Begun::open(&path, "that").unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "\"that\"\n");
        crate::run::write_atomically(&path, b"notes of a user\n").unwrap();
        assert!(Begun::open(&path, "this").is_err(), "it is not ours");
    }
}
