//! What can be wrong with a rubric, a record or a remote scorer.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
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
    #[error(
        "no scorer measures accuracy: expected one of accuracy, soft-choice, temporal-iou; found {}",
        found(.scorers)
    )]
    NoAccuracy {
        /// Names of the scorers given.
        scorers: Vec<&'static str>,
    },
    /// The length bonus asks for an empty range.
    #[error("the length bonus is for {min} to {max} tokens, expected min at most max")]
    Length {
        /// Fewest tokens.
        min: usize,
        /// Most tokens.
        max: usize,
    },
    /// A problem type that is not known.
    #[error(
        "the problem type is `{found}`, expected one of multiple choice, numerical, OCR, free-form, regression, temporal grounding"
    )]
    ProblemType {
        /// The name found.
        found: String,
    },
    /// A setting of the remote scorer.
    #[error("remote.{setting} is {value}, expected {expected}")]
    RemoteSetting {
        /// Its name.
        setting: &'static str,
        /// The value found.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The remote scorer cannot be asked by this build or in this process.
    #[error("the remote scorer cannot be asked: {reason}")]
    NoRemote {
        /// Why.
        reason: String,
    },
    /// The remote scorer gave no scores, asked as often as allowed.
    #[error(
        "the remote scorer at {url} gave no scores for {completions} completions, asked {attempts} times; \
         expected status 200 and {{\"scores\": [{completions} numbers or nulls]}}"
    )]
    Remote {
        /// Where it was asked.
        url: String,
        /// How many scores were expected.
        completions: usize,
        /// How often it was asked.
        attempts: u32,
        /// What the last attempt ended with.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn found(scorers: &[&str]) -> String {
    if scorers.is_empty() { "none".to_owned() } else { scorers.join(", ") }
}
