//! What a run trains: a policy of tokens or one of frames.

use std::path::Path;

use anyhow::Result;

use crate::answer::Answers;
use crate::config::Config;
use crate::data::Source;
use crate::eval::Item;
use crate::run::{StepMetrics, Stop};

/// Gives the next examples, as many as are asked for.
pub(super) type Examples<'a, L> = dyn FnMut(usize) -> Result<Vec<<<L as Learner>::Source as Source>::Item>> + 'a;

/// A policy with its optimizer and whatever its steps take.
pub(super) trait Learner: Sized {
    /// Where its examples come from.
    type Source: Source;

    /// The examples to train on.
    ///
    /// # Errors
    /// A user error: they cannot be read.
    fn examples(config: &Config) -> Result<Self::Source>;

    /// Everything else, as a checkpoint has it if there is one.
    ///
    /// # Errors
    /// A user error: something cannot be read or does not fit.
    fn load(config: &Config, examples: &Self::Source, checkpoint: Option<&Path>) -> Result<Self>;

    /// Warns of settings under which the run may not learn what it is meant to.
    fn warn(&self, config: &Config);

    /// One step; its groups are recorded in the folder `record`, if one is given.
    ///
    /// # Errors
    /// Something is not finite or cannot be used; the policy is unchanged then.
    fn step(
        &mut self,
        config: &Config,
        step: u64,
        examples: &mut Examples<'_, Self>,
        record: Option<&Path>,
    ) -> Result<Step>;

    /// Saves policy and optimizer in a checkpoint's folder.
    ///
    /// # Errors
    /// A file cannot be written.
    fn save(&self, folder: &Path) -> Result<()>;

    /// The policy's answers to held-out examples; those so far, if it is asked to stop.
    ///
    /// # Errors
    /// The examples cannot be read.
    fn answer(&self, config: &Config, test: &Path, stop: &Stop) -> Result<Answers>;

    /// What is said below the table of accuracies before and after.
    fn remarks(before: &[Item], after: &[Item]) -> String;
}

/// A finished step.
#[derive(Debug)]
pub(super) struct Step {
    /// Its metrics, but for those that every run has.
    pub(super) metrics: StepMetrics,
    /// Contents of `completions/step-N.jsonl`.
    pub(super) completions: Vec<u8>,
    /// Tokens that it trained on.
    pub(super) tokens: u64,
}
