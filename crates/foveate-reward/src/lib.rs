//! Rewards of completions: (answer of the example, text of the completion) to a number and its parts.
//!
//! A [`Rubric`] is a weighted sum of scorers, one file each. A scorer gives `None` where the example has nothing to
//! score against; the total is then NaN, which advantages leave out, and never a made-up number.
//!
//! This crate knows nothing of models and videos.

mod accuracy;
mod answer;
mod error;
mod format;
mod rubric;
mod soft_choice;

pub use accuracy::{Accuracy, AnswerRule, accuracy};
pub use answer::{Answer, answer_text, parts};
pub use error::RewardError;
pub use format::{Format, FormatStyle, format};
pub use rubric::{Reward, Rubric, RubricConfig};
pub use soft_choice::{SoftChoice, soft_choice};

/// One way to judge a completion.
pub trait Scorer: std::fmt::Debug + Send + Sync {
    /// The key in the `[reward]` table and the name in a breakdown.
    fn name(&self) -> &'static str;

    /// From 0 to 1; `None` if the example cannot be scored.
    fn score(&self, answer: &Answer, completion: &str) -> Option<f32>;
}
