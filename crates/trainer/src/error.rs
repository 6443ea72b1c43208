//! Which errors are the user's to mend, and how every error is printed: one line, the whole chain.

use std::fmt;
use std::path::Path;

/// An error that the person at the keyboard can mend: a typo, a missing file, a model that does not fit.
///
/// The program ends with exit code 2 for these and 1 for all others.
#[derive(Debug)]
pub struct UserError(anyhow::Error);

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&self.0))
    }
}

impl std::error::Error for UserError {}

/// A user error with this message; of an error, the whole chain of causes.
pub fn user_error(message: impl fmt::Display) -> anyhow::Error {
    anyhow::Error::new(UserError(anyhow::anyhow!("{message:#}")))
}

/// Marks errors as the user's to mend.
pub trait UserContext<T> {
    /// The same result, its error marked as a [`UserError`]; the chain of causes is kept in its message.
    ///
    /// # Errors
    /// The error it was given.
    fn user(self) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> UserContext<T> for Result<T, E> {
    fn user(self) -> anyhow::Result<T> {
        self.map_err(|error| anyhow::Error::new(UserError(error.into())))
    }
}

/// The exit code of an error: 2 for the user's, 1 for all others.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<UserError>()) { 2 } else { 1 }
}

/// The error and its causes; a cause that the error before it has told already is left out.
fn chain(error: &anyhow::Error) -> String {
    let mut told: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.last().is_none_or(|last| !last.ends_with(&cause)) {
            told.push(cause);
        }
    }
    told.join(": ")
}

/// The error and its causes on one line.
pub fn one_line(error: &anyhow::Error) -> String {
    let chain = chain(error);
    let lines: Vec<&str> = chain.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

/// The candidate nearest to a mistyped word, if any is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const NEAR_ENOUGH: f64 = 0.75;
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(score, _)| *score >= NEAR_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A user error if nothing is at `path`, with the nearest name beside it.
///
/// # Errors
/// The path does not exist.
pub fn existing(what: &str, path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let entries = std::fs::read_dir(parent).map(|listing| listing.flatten().collect()).unwrap_or_else(|_| Vec::new());
    let names: Vec<String> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let wanted = path.file_name().unwrap_or_default().to_string_lossy();
    let hint = match nearest(&wanted, names.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean {}?", path.with_file_name(near).display()),
        None => String::new(),
    };
    Err(user_error(format!("{what}: {} does not exist{hint}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_chain_is_printed_on_one_line_and_keeps_its_exit_code() {
        let cause: Result<(), _> = Err(std::io::Error::other("no such\n  file"));
        let error = cause.user().context("model").context("train").unwrap_err();
        assert_eq!(one_line(&error), "train: model: no such; file");
        assert_eq!(exit_code(&error), 2);
        assert_eq!(exit_code(&anyhow::anyhow!("other")), 1);
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = std::io::Error::other("no such file");
        let error = anyhow::Error::new(cause).context("model.json: no such file").context("train");
        assert_eq!(one_line(&error), "train: model.json: no such file");
    }

    #[test]
    fn a_path_that_is_not_there_is_named_with_its_nearest_neighbour() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join("tiny-vlm")).unwrap();
        let error = existing("model.path", &dir.path().join("tiny-vml")).unwrap_err();
        assert!(one_line(&error).ends_with("tiny-vlm?"), "{error}");
        assert_eq!(exit_code(&error), 2);
        existing("model.path", &dir.path().join("tiny-vlm")).unwrap();
    }

    #[test]
    fn only_near_words_are_suggested() {
        let names = ["max_new_tokens", "temperature", "top_p"];
        assert_eq!(nearest("temperatur", names), Some("temperature"));
        assert_eq!(nearest("zebra", names), None);
    }
}
