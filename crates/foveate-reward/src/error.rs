//! What can be wrong with a rubric.

/// Errors of this crate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RewardError {
    /// A weight is negative or not finite.
    #[error("the weight of scorer {scorer} is {weight}, expected a number of at least 0")]
    Weight {
        /// Name of the scorer.
        scorer: &'static str,
        /// The weight found.
        weight: f32,
    },
    /// No scorer says whether the answer is right.
    #[error("no scorer measures accuracy: expected one of accuracy, soft-choice; found {}", found(.scorers))]
    NoAccuracy {
        /// Names of the scorers given.
        scorers: Vec<&'static str>,
    },
}

fn found(scorers: &[&str]) -> String {
    if scorers.is_empty() { "none".to_owned() } else { scorers.join(", ") }
}
