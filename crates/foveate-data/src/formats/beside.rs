//! Files that a data set keeps beside its records.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::Fault;
use crate::store::unmarked;

/// JSON files that were looked for beside a file of records: what they hold, or that there is none. Each is read once.
#[derive(Debug, Default)]
pub(crate) struct Beside(Mutex<HashMap<PathBuf, Found>>);

type Found = Result<Option<Arc<Value>>, Fault>;

impl Beside {
    /// What `name` in the folder of `file` holds; none if there is no such file.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn json(&self, file: &Path, name: &str) -> Result<Option<Arc<Value>>, Fault> {
        let path = file.with_file_name(name);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(path).or_insert_with_key(|path| read(path)).clone()
    }
}

fn read(path: &Path) -> Found {
    let fault = |reason: String| Fault::new("", format!("{}: {reason}", path.display()));
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(unmarked(&bytes))
            .map(|value| Some(Arc::new(value)))
            .map_err(|e| fault(e.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault(error.to_string())),
    }
}
