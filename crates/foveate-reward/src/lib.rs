//! Rewards of completions: (answer of the example, completion) to a number and its parts.
//!
//! A [`Rubric`] is a weighted sum of scorers, one file each. A scorer gives `None` where the example has nothing to
//! score against; the total is then NaN, which advantages leave out, and never a made-up number. [`judge`] asks single
//! scorers by name. Time is linear in the length of a completion, whatever stands in it.
//!
//! Rewards of a whole rollout are not here: a truncated completion is shaped by `foveate-algo` (overlong), which knows
//! the limit of tokens. [`margin`] is the reward of a set of frames, of logits rather than text.
//!
//! This crate knows nothing of models and videos.

mod accuracy;
mod answer;
mod error;
mod format;
mod judge;
mod length;
mod margin;
mod number;
mod porter;
mod problem;
mod python;
mod relative;
mod remote;
mod rouge;
mod rubric;
mod soft_choice;
mod temporal_iou;
mod word_error;

pub use accuracy::{Accuracy, AnswerRule, accuracy};
pub use answer::{Answer, Completion, answer_text, parts, solution_text};
pub use error::RewardError;
pub use format::{Format, FormatStyle, format};
pub use judge::{Record, ScorerName, judge};
pub use length::Length;
pub use margin::margin;
pub use problem::ProblemType;
pub use relative::mean_relative_accuracy;
pub use remote::RemoteConfig;
pub use rubric::{Reward, Rubric, RubricConfig};
pub use soft_choice::{SoftChoice, soft_choice};
pub use temporal_iou::{TemporalIou, TimeBins, spans, temporal_iou, time_spans};

/// One way to judge a completion.
pub trait Scorer: std::fmt::Debug + Send + Sync {
    /// The key in the `[reward]` table and the name in a breakdown.
    fn name(&self) -> &'static str;

    /// From 0 to 1; `None` if the example cannot be scored.
    fn score(&self, answer: &Answer, completion: &Completion) -> Option<f32>;
}
