//! Layering: tables merged key by key, each checked on its own so that an error names the layer it is in.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use foveate_algo::{AlgoConfig, refocus};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::check::{describe, join, read};
use super::{Config, Demo, algorithm_names, embedded};
use crate::error::{UserContext, existing, nearest, user_error};

/// The algorithm when none is named.
const DEFAULT_ALGORITHM: &str = "grpo";

/// What the source of a `--set` begins with.
const SET: &str = "--set ";

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// `--algo`.
    pub algo: Option<String>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// Each `--set`, as `key=value`.
    pub set: Vec<String>,
}

/// A configuration, and whether it is the embedded default.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The configuration, complete and checked.
    pub config: Config,
    /// The embedded default, if that is what is used.
    pub demo: Option<Demo>,
}

/// A table and what to call it in an error.
struct Layer {
    source: String,
    table: Table,
}

impl Layer {
    fn parse(source: &str, text: &str) -> Result<Self> {
        let table = text.parse::<Table>().map_err(|error| syntax(source, text, &error))?;
        Ok(Self { source: source.to_owned(), table })
    }

    fn file(what: &str, path: &Path) -> Result<Self> {
        existing(what, path)?;
        let text = fs_err::read_to_string(path).context("configuration").user()?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// The algorithm that it names.
    fn algorithm(&self) -> Option<&str> {
        self.table.get("algo")?.as_table()?.get("name")?.as_str()
    }

    /// Takes the algorithm's settings out of the table; its name, which is known by now, is dropped.
    fn split_algo(&mut self) -> Table {
        match self.table.remove("algo") {
            Some(Value::Table(mut algo)) => {
                algo.remove("name");
                algo
            }
            Some(other) => {
                self.table.insert("algo".into(), other);
                Table::new()
            }
            None => Table::new(),
        }
    }

    fn set(text: &str) -> Result<Self> {
        let source = format!("{SET}{text}");
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| user_error(format!("{source}: expected key=value, as in optim.lr=1e-6")))?;
        let mut value = parse_value(value.trim());
        for part in key.trim().rsplit('.') {
            if part.is_empty() {
                return Err(user_error(format!("{source}: a key has an empty part")));
            }
            value = Value::Table(Table::from_iter([(part.to_owned(), value)]));
        }
        match value {
            Value::Table(table) => Ok(Self { source, table }),
            _ => Err(user_error(format!("{source}: expected key=value"))),
        }
    }
}

/// The configuration that the layers of a command give. Training falls back on the algorithm's file and, with neither a
/// model nor data, on the embedded default.
///
/// # Errors
/// A user error: a file that is not there or not TOML, an unknown key, a wrong type, an unknown algorithm, a value out of
/// its range, a model without data or data without a model.
pub fn resolve(layers: &Layers) -> Result<Resolved> {
    let mut own = Vec::new();
    if let Some(path) = &layers.config {
        own.push(Layer::file("--config", path)?);
    }
    for text in &layers.set {
        own.push(Layer::set(text)?);
    }
    let name = algorithm_name(layers.algo.as_deref(), &own)?;
    let method = method(&name)?;
    // A typo is told before a model is looked for.
    check(&mut own, &name)?;
    let given = merged(&own);
    let demo = match (has(&given, "model", "path"), has(&given, "data", "train")) {
        (false, false) => Some(Demo::find(method == refocus::NAME)?),
        (true, true) => None,
        (true, false) => {
            return Err(user_error("model.path is given but data.train is not: which examples to train on?"));
        }
        (false, true) => return Err(user_error("data.train is given but model.path is not: which model to train?")),
    };
    let mut all = Vec::new();
    for (source, text) in base_files(&name, demo.is_some()) {
        all.push(Layer::parse(source, text)?);
    }
    if let Some(demo) = &demo {
        all.push(Layer { source: "the embedded default".into(), table: demo.layer() });
    }
    all.extend(own);
    let mut config = finish(all, &name)?.absolute()?;
    config.run.algorithm = Some(name);
    Ok(Resolved { config, demo })
}

/// The configuration of a command that trains no policy by reinforcement: defaults, the algorithm's file if the command
/// line names one, `--config`, `--set`.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_plain(layers: &Layers) -> Result<Config> {
    let file = layers.config.iter().map(|path| Layer::file("--config", path));
    let set = layers.set.iter().map(|text| Layer::set(text));
    let own = file.chain(set).collect::<Result<Vec<_>>>()?;
    let name = algorithm_name(layers.algo.as_deref(), &own)?;
    let paper = layers.algo.as_ref().and_then(|_| embedded::algorithm(&name));
    let mut all = paper.map(|(source, text)| Layer::parse(source, text)).into_iter().collect::<Result<Vec<_>>>()?;
    all.extend(own);
    let mut config = finish(all, &name)?;
    if layers.algo.is_some() {
        config.run.algorithm = Some(name);
    }
    Ok(config)
}

/// The configuration of a run, with changes laid over it.
///
/// # Errors
/// As [`resolve`]; the run's file may also be missing.
pub fn load_run(path: &Path, set: &[String]) -> Result<Config> {
    for text in set {
        if Layer::set(text)?.algorithm().is_some() {
            return Err(user_error(format!("--set {text}: what algorithm a run is of cannot be changed")));
        }
    }
    resolve_plain(&Layers { algo: None, config: Some(path.to_owned()), set: set.to_vec() })
}

/// Reads a TOML file that is no configuration, told of its mistakes as one is. `what` it is for goes before its name where
/// there is none.
///
/// # Errors
/// A user error: no such file, not TOML, an unknown key or a value of the wrong type.
pub(crate) fn read_toml<T: DeserializeOwned>(what: &str, path: &Path) -> Result<T> {
    let layer = Layer::file(what, path)?;
    read(layer.table, &layer.source, "")
}

fn base_files(name: &str, demo: bool) -> Vec<embedded::File> {
    let mut files: Vec<_> = embedded::algorithm(name).into_iter().collect();
    if demo {
        files.extend(embedded::demo(name).into_iter().flatten());
    }
    files
}

fn algorithm_name(flag: Option<&str>, own: &[Layer]) -> Result<String> {
    let stated = own.iter().rev().find_map(|layer| Some((layer.source.as_str(), layer.algorithm()?)));
    match (flag, stated) {
        // `gspo` may be restated as the `grpo` that it configures.
        (Some(name), Some((source, other))) if source.starts_with(SET) && other != name && *other != method(name)? => {
            Err(user_error(format!("--algo {name} beside {source}: expected one algorithm")))
        }
        (Some(name), _) => known("--algo", name),
        (None, Some((source, name))) => known(source, name),
        (None, None) => Ok(DEFAULT_ALGORITHM.to_owned()),
    }
}

/// The name, unless no algorithm has it.
fn known(source: &str, name: &str) -> Result<String> {
    let known = algorithm_names();
    if known.contains(&name) {
        return Ok(name.to_owned());
    }
    let hint = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("known: {}", known.join(", ")),
    };
    Err(user_error(format!("{source}: unknown algorithm \"{name}\"; {hint}")))
}

/// The algorithm that a name stands for: its own, or the one that the name's file configures (`gspo`: `grpo`).
pub(super) fn method(name: &str) -> Result<String> {
    let file = embedded::algorithm(name).map(|(source, text)| Layer::parse(source, text)).transpose()?;
    let stated = file.as_ref().and_then(|file| file.table.get("algo")?.get("name")?.as_str());
    Ok(stated.unwrap_or(name).to_owned())
}

/// Checks each layer on its own; what is left of `algo` are the algorithm's settings.
fn check(layers: &mut [Layer], name: &str) -> Result<()> {
    let own = method(name)?;
    for layer in layers {
        let stated = layer.algorithm().map(ToOwned::to_owned);
        let algo = layer.split_algo();
        let _: Config<Table> = read(layer.table.clone(), &layer.source, "")?;
        if let Err(error) = algorithm(&own, algo.clone(), &layer.source) {
            return Err(match stated.filter(|stated| method(stated).is_ok_and(|method| method != own)) {
                Some(stated) => user_error(format!("{error}; the file is for algorithm \"{stated}\", not \"{name}\"")),
                None => error,
            });
        }
        layer.table.insert("algo".into(), Value::Table(algo));
    }
    Ok(())
}

/// Checks the layers and puts them together.
fn finish(mut layers: Vec<Layer>, name: &str) -> Result<Config> {
    check(&mut layers, name)?;
    let mut table = merged(&layers);
    inherit(&mut table, "frames");
    inherit(&mut table, "pixels");
    let raw: Config<Table> = read(table, "configuration", "")?;
    let algo = algorithm(&method(name)?, raw.algo.clone(), "configuration")?;
    let config = raw.with_algo(algo);
    config.validate()?;
    Ok(config)
}

/// The algorithm's settings in a table without `name`.
fn algorithm(name: &str, table: Table, source: &str) -> Result<AlgoConfig> {
    let mut track = serde_path_to_error::Track::new();
    let settings = serde_path_to_error::Deserializer::new(Value::Table(table), &mut track);
    let parsed = AlgoConfig::parse(name, settings);
    parsed.map_err(|error| describe(source, &join("algo", &track.path().to_string()), &error))
}

/// What `eval` does not state about frames or pixels is as in `data`.
fn inherit(table: &mut Table, key: &str) {
    let Some(data) = table.get("data").and_then(|data| data.get(key)).cloned() else {
        return;
    };
    let mut base = Table::from_iter([("eval".to_owned(), Value::Table(Table::from_iter([(key.to_owned(), data)])))]);
    if let Some(eval) = table.remove("eval") {
        merge(&mut base, Table::from_iter([("eval".to_owned(), eval)]));
    }
    merge(table, base);
}

fn merged(layers: &[Layer]) -> Table {
    let mut table = Table::new();
    for layer in layers {
        merge(&mut table, layer.table.clone());
    }
    table
}

fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => merge(inner, value),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn has(table: &Table, section: &str, key: &str) -> bool {
    table.get(section).and_then(|section| section.get(key)).is_some()
}

/// The value as TOML if it is, else as a string: `--set data.train=my.jsonl` needs no quotes.
fn parse_value(text: &str) -> Value {
    format!("value = {text}")
        .parse::<Table>()
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

fn syntax(source: &str, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = 1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
    user_error(format!("{source}:{line}: {}", error.message().lines().collect::<Vec<_>>().join("; ")))
}
