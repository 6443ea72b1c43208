//! What can be wrong with a group, an observation or a setting.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum AlgoError {
    /// A completion without a token has no log-prob to train on.
    #[error("completion {completion} of the group has no token: every completion needs at least one")]
    EmptyCompletion {
        /// Index of the completion in its group.
        completion: usize,
    },
    /// A completion's mask is not ones followed by zeros.
    #[error("the mask of completion {completion} has a hole at token {token}: expected ones, then zeros")]
    MaskHole {
        /// Index of the completion in its group.
        completion: usize,
        /// First token after the hole.
        token: usize,
    },
    /// Two arrays of one group disagree.
    #[error("{what} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The array.
        what: &'static str,
        /// Its shape by the group's mask.
        expected: Vec<usize>,
        /// Its shape as given.
        found: Vec<usize>,
    },
    /// An observation that the algorithm needs was not given.
    #[error("{algorithm} needs {what}, which the group lacks")]
    Missing {
        /// Name of the algorithm.
        algorithm: &'static str,
        /// Name of the observation.
        what: &'static str,
    },
    /// An observation of a real token is NaN or infinite.
    #[error("{what} of completion {completion}, token {token} is {value}, expected a finite number")]
    NotFinite {
        /// Name of the observation.
        what: &'static str,
        /// Index of the completion in its group.
        completion: usize,
        /// Index of the token in its completion.
        token: usize,
        /// The value found.
        value: f32,
    },
    /// A divergence came back as NaN or infinite.
    #[error("the divergence at rank {rank} is {value}, expected a finite number")]
    Divergence {
        /// Index into the positions asked for.
        rank: usize,
        /// The value found.
        value: f64,
    },
    /// Distributions were asked for under a counterfactual that they were not made with.
    #[error("the token distributions under the {under} video are needed, which the group lacks")]
    NoCounterfactual {
        /// The counterfactual.
        under: crate::Counterfactual,
    },
    /// What compares log-probs of single tokens was asked of whole distributions.
    #[error("{kind:?} compares log-probs of tokens, not distributions")]
    NotOfDistributions {
        /// The distance.
        kind: crate::Distance,
    },
    /// A setting lies outside its range.
    #[error("{setting} is {found}, expected {expected}")]
    Setting {
        /// Name of the setting, as in the config.
        setting: &'static str,
        /// The value found.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// The keeper of the token distributions failed.
    #[error("token distributions: {0}")]
    Distributions(#[source] Box<dyn std::error::Error + Send + Sync>),
}
