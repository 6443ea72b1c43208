//! Reading a table into a struct, with errors that name the source, the key and the nearest known key.

use anyhow::Result;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::error::{nearest, user_error};

/// Reads a table into `T`. `source` says where the table is from ("run.toml", "--set optim.lr=1"), `prefix` the path that
/// the table itself stands at ("" for the root, "algo").
///
/// # Errors
/// An unknown key or a value of the wrong type, as one line.
pub(super) fn read<T: DeserializeOwned>(table: Table, source: &str, prefix: &str) -> Result<T> {
    serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let path = error.path().to_string();
        describe(source, &join(prefix, &path), error.inner())
    })
}

/// The one-line error for what serde said about the value at `path`.
pub(super) fn describe(source: &str, path: &str, error: &toml::de::Error) -> anyhow::Error {
    let message = error.message().lines().next().unwrap_or_default();
    if let Some((word, known)) = unknown(message, "unknown field ") {
        return user_error(unknown_key(source, path, word, &known));
    }
    if let Some((word, known)) = unknown(message, "unknown variant ") {
        let hint = hint(word, &known, "");
        return user_error(format!("{source}: {path} cannot be \"{word}\"{hint}"));
    }
    match path {
        "" | "." => user_error(format!("{source}: {message}")),
        _ => user_error(format!("{source}: {path}: {message}")),
    }
}

fn unknown_key(source: &str, path: &str, word: &str, known: &[&str]) -> String {
    // serde reports the path of the table or of the key itself, depending on where it noticed.
    let table = match path.rsplit_once('.') {
        Some((table, last)) if last == word => table,
        None if path == word || path == "." => "",
        _ => path,
    };
    let hint = match elsewhere(word) {
        Some(full) if nearest(word, known.iter().copied()).is_none() => {
            format!("; did you mean \"{full}\"?")
        }
        _ => hint(word, known, table),
    };
    format!("{source}: unknown key \"{}\"{hint}", join(table, word))
}

fn hint(word: &str, known: &[&str], table: &str) -> String {
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("; did you mean \"{}\"?", join(table, near)),
        None if known.is_empty() => String::new(),
        None => format!("; known: {}", known.join(", ")),
    }
}

/// The word and the known names in serde's "unknown X `word`, expected one of `a`, `b`".
fn unknown<'a>(message: &'a str, start: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let mut quoted = message.strip_prefix(start)?.split('`').skip(1).step_by(2);
    let word = quoted.next()?;
    Some((word, quoted.collect()))
}

/// The full path of a key of that name in another table of the configuration.
fn elsewhere(word: &str) -> Option<String> {
    let defaults = Table::try_from(super::Config::<Table>::default()).ok()?;
    find(&defaults, word)
}

fn find(table: &Table, word: &str) -> Option<String> {
    if table.contains_key(word) {
        return Some(word.to_owned());
    }
    table.iter().find_map(|(name, value)| {
        let inner = value.as_table()?;
        find(inner, word).map(|path| join(name, &path))
    })
}

/// `a` and `b` as a dotted path, either of which may be empty.
pub(super) fn join(a: &str, b: &str) -> String {
    match (a, b) {
        ("" | ".", b) => b.to_owned(),
        (a, "" | ".") => a.to_owned(),
        (a, b) => format!("{a}.{b}"),
    }
}
