//! The configuration of a run: TOML tables, layered, checked, and written back in full.
//!
//! Layers, later ones winning: built-in defaults, `configs/ALGO.toml` (compiled in), the embedded default when neither a
//! model nor data is given, the file of `--config`, each `--set`.

mod check;
mod embedded;
mod input;
mod layers;
mod prompts;
#[cfg(test)]
mod tests;
mod training;
mod validate;

use std::path::Path;

use anyhow::Context;
use foveate_algo::AlgoConfig;
use foveate_reward::RubricConfig;
use serde::{Deserialize, Serialize};

pub use embedded::{Demo, algorithm_names};
pub use input::*;
pub(crate) use layers::read_toml;
pub use layers::{Layers, Resolved, load_run, resolve, resolve_plain};
pub use prompts::{prompt_text, prompts};
pub use training::*;

use crate::error::UserContext;

/// Everything a run depends on. Its TOML form is `config.toml` in the run's folder.
///
/// `A` is the algorithm's table: as written while the layers are read, complete afterwards.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config<A = AlgoConfig> {
    /// The policy.
    pub model: ModelTable,
    /// Examples, videos and prompts.
    pub data: DataTable,
    /// Sampling of completions.
    pub rollout: RolloutTable,
    /// The optimizer.
    pub optim: OptimTable,
    /// Scorers and their weights.
    pub reward: RubricConfig,
    /// `name` and the algorithm's own settings.
    pub algo: A,
    /// Length, seed and what is kept.
    pub run: RunTable,
    /// Evaluation.
    pub eval: EvalTable,
    /// The supervised warm start.
    pub sft: SftTable,
    /// The frozen model that sets of frames are rewarded by.
    pub scorer: ScorerTable,
    /// The policy that picks frames.
    pub selector: SelectorTable,
}

impl<A> Config<A> {
    /// The same configuration with another algorithm table.
    fn with_algo<B>(self, algo: B) -> Config<B> {
        Config {
            algo,
            model: self.model,
            data: self.data,
            rollout: self.rollout,
            optim: self.optim,
            reward: self.reward,
            run: self.run,
            eval: self.eval,
            sft: self.sft,
            scorer: self.scorer,
            selector: self.selector,
        }
    }
}

impl Config {
    /// Whether accuracies measured under both configurations may be compared: the same questions, put and judged alike.
    pub fn evaluates_like(&self, other: &Self) -> bool {
        let (a, b) = (&self.data, &other.data);
        self.eval.protocol() == other.eval.protocol()
            && self.eval_tokens() == other.eval_tokens()
            && (&a.test, &a.test_format, &a.media_root) == (&b.test, &b.test_format, &b.media_root)
            && (&a.prompt, a.time_scale, a.max_prompt_tokens) == (&b.prompt, b.time_scale, b.max_prompt_tokens)
            && (&a.frames, &a.pixels) == (&b.frames, &b.pixels)
            && self.reward == other.reward
    }

    /// Most tokens of an answer in an evaluation.
    pub fn eval_tokens(&self) -> usize {
        if self.eval.max_new_tokens == 0 { self.rollout.max_new_tokens } else { self.eval.max_new_tokens }
    }

    /// The policy's directory.
    ///
    /// # Errors
    /// A user error: `model.path` is not given.
    pub fn model_path(&self) -> anyhow::Result<&Path> {
        self.model.path.as_deref().context("model.path is not given").user()
    }

    /// The directory of the model that rewards sets of frames.
    ///
    /// # Errors
    /// A user error: neither `scorer.path` nor `model.path` is given.
    pub fn scorer_path(&self) -> anyhow::Result<&Path> {
        self.scorer.path.as_deref().map_or_else(|| self.model_path(), Ok)
    }

    /// What the run is called: `run.name`, else the algorithm's name.
    pub fn name(&self) -> &str {
        self.run.name.as_deref().unwrap_or(self.algo.name())
    }

    /// What `--algo` called the algorithm: its name, or that of a configuration of it (`gspo`).
    pub fn algorithm_name(&self) -> &str {
        let own = self.algo.name();
        let of_own = |name: &&str| layers::method(name).is_ok_and(|method| method == own);
        self.run.algorithm.as_deref().filter(of_own).unwrap_or(own)
    }

    /// The same configuration with every path absolute, so that a run can go on from any folder.
    ///
    /// # Errors
    /// There is no current folder.
    fn absolute(mut self) -> anyhow::Result<Self> {
        let data = &mut self.data;
        let paths = [&mut self.model.path, &mut data.train, &mut data.test, &mut data.media_root, &mut data.cache];
        let frames = [&mut data.frames.from, &mut self.eval.frames.from];
        let others = [&mut self.scorer.path, &mut self.selector.backbone].into_iter().chain(frames);
        for path in paths.into_iter().chain(others).flatten() {
            *path = std::path::absolute(&path)?;
        }
        for prompt in [&mut data.prompt, &mut self.scorer.prompt, &mut self.selector.prompt] {
            if prompt.ends_with(".toml") {
                *prompt = std::path::absolute(&prompt)?.display().to_string();
            }
        }
        Ok(self)
    }

    /// The configuration as TOML.
    ///
    /// # Errors
    /// A value that TOML cannot hold.
    pub fn to_toml(&self) -> anyhow::Result<String> {
        Ok(toml::to_string(self)?)
    }
}
