//! What is compiled into the program: the algorithms' configurations and the embedded default.

use std::env;
use std::path::PathBuf;

use anyhow::Result;
use toml::{Table, Value};

use crate::error::user_error;

/// Variable that names the folder holding `data/tiny-vlm` when the checkout that the program was built in has moved.
const HOME_VARIABLE: &str = "FOVEATE_HOME";

const DEMO: &str = include_str!("../../../../configs/demo/base.toml");

/// For each name that `--algo` takes, its file and what it has of its own in the embedded default.
macro_rules! files {
    ($($name:literal)*) => {
        const NAMES: &[&str] = &[$($name),*];

        const FILES: &[(File, File)] = &[$((
            (concat!("configs/", $name, ".toml"), include_str!(concat!("../../../../configs/", $name, ".toml"))),
            (
                concat!("configs/demo/", $name, ".toml"),
                include_str!(concat!("../../../../configs/demo/", $name, ".toml")),
            ),
        )),*];
    };
}

files!("grpo" "dr-grpo" "gspo" "dapo" "t-grpo" "tw-grpo" "appo" "video-ktr" "refocus");

/// A compiled-in file: its name in the repository and its text.
pub(super) type File = (&'static str, &'static str);

/// An algorithm's file and its part of the embedded default.
fn files(name: &str) -> Option<(File, File)> {
    NAMES.iter().zip(FILES).find(|(known, _)| **known == name).map(|(_, files)| *files)
}

/// The names that train a policy: those of the algorithms of tokens, and of configurations of one of them that papers gave
/// a name.
pub fn algorithm_names() -> &'static [&'static str] {
    NAMES
}

/// The algorithm's settings from its paper.
pub(super) fn algorithm(name: &str) -> Option<File> {
    files(name).map(|(paper, _)| paper)
}

/// The embedded default for that algorithm: what all share, and the algorithm's own.
pub(super) fn demo(name: &str) -> Option<[File; 2]> {
    files(name).map(|(_, demo)| [("configs/demo/base.toml", DEMO), demo])
}

/// The embedded default: a tiny model and synthetic scenes in the checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demo {
    home: PathBuf,
    /// Whether frames are picked: of long scenes, for a model that answers from sets of frames.
    picks: bool,
}

impl Demo {
    /// The embedded default in the checkout that the program was built in, or in `FOVEATE_HOME`.
    ///
    /// # Errors
    /// The folder holds no such model.
    pub fn find(picks: bool) -> Result<Self> {
        let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let home = env::var_os(HOME_VARIABLE).map_or_else(|| PathBuf::from(built), PathBuf::from);
        let home = home.canonicalize().unwrap_or(home);
        let demo = Self { home, picks };
        if demo.model().is_dir() {
            return Ok(demo);
        }
        Err(user_error(format!(
            "no model given and no embedded one at {}: name a Qwen2.5-VL directory with --set model.path=DIR and \
             examples with --set data.train=FILE, or set {HOME_VARIABLE} to a checkout of foveate",
            demo.model().display()
        )))
    }

    /// The tiny model's directory.
    pub fn model(&self) -> PathBuf {
        self.home.join(if self.picks { "data/tiny-scorer" } else { "data/tiny-vlm" })
    }

    /// Folder of the synthetic scenes, which are rendered on first use.
    pub fn scenes(&self) -> PathBuf {
        self.home.join(if self.picks { "data/long-scenes" } else { "data/scenes" })
    }

    /// Whether the scenes are long ones.
    pub fn is_long(&self) -> bool {
        self.picks
    }

    fn records(&self, split: &str) -> PathBuf {
        self.scenes().join(format!("{split}.jsonl"))
    }

    /// Whether a configuration trains on the embedded scenes.
    pub fn trains(&self, config: &super::Config) -> bool {
        config.data.train.as_deref() == Some(self.records("train").as_path())
    }

    /// The line that says what is used and how to use something else.
    pub fn note(&self) -> String {
        format!(
            "no model and no data given: using the embedded tiny model ({}) and synthetic scenes; \
             for your own: --set model.path=QWEN2.5-VL-DIR --set data.train=FILE.jsonl",
            self.model().display()
        )
    }

    /// The paths, as a layer of the configuration.
    pub(super) fn layer(&self) -> Table {
        let path = |path: PathBuf| Value::String(path.to_string_lossy().into_owned());
        let model = Table::from_iter([("path".to_owned(), path(self.model()))]);
        let backbone = Table::from_iter([("backbone".to_owned(), path(self.home.join("data/tiny-mamba")))]);
        let data = Table::from_iter([
            ("train".to_owned(), path(self.records("train"))),
            ("test".to_owned(), path(self.records("test"))),
        ]);
        let tables = [("model", model), ("data", data)].into_iter().chain(self.picks.then_some(("selector", backbone)));
        tables.map(|(name, table)| (name.to_owned(), Value::Table(table))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_has_its_configurations() {
        for name in foveate_algo::NAMES {
            assert!(algorithm(name).is_some() && demo(name).is_some(), "{name}");
        }
    }

    #[test]
    fn every_configuration_of_an_algorithm_is_compiled_in() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs");
        let files = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: Vec<_> = files.filter_map(|file| Some(file.strip_suffix(".toml")?.to_owned())).collect();
        assert_eq!(names.len(), NAMES.len());
        assert!(names.iter().all(|name| algorithm(name).is_some()), "{names:?}");
    }
}
