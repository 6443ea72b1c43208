//! What can be wrong with data.

use std::path::PathBuf;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file cannot be read.
    #[error("{}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what its name or the data set says.
    #[error("{}: {reason}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// A record is not one of its data set.
    #[error("{place}: {fault}")]
    Record {
        /// File and line, or file and number of the record.
        place: String,
        /// What is wrong.
        fault: Fault,
    },
    /// A prompt file or the filling in of one.
    #[error("prompt {name}: {reason}")]
    Prompt {
        /// Its name or file.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", if .field.is_empty() { String::new() } else { format!("{}: ", .field) })]
pub struct Fault {
    /// The field, as a path such as `options[1]`; empty if the record as a whole is meant.
    pub field: String,
    /// What was expected and found.
    pub reason: String,
}

impl Fault {
    /// A fault of a field.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}
