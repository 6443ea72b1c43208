//! `completions/step-N.jsonl`: every completion with its rewards, to be read by people.

use serde::Serialize;
use serde_json::{Map, Value};

/// One completion.
#[derive(Debug, Clone, Serialize)]
pub struct CompletionLine<'a> {
    /// The step it was sampled in.
    pub step: u64,
    /// Group within the step.
    pub group: usize,
    /// Completion within the group.
    pub completion: usize,
    /// The example's name.
    pub id: &'a str,
    /// Type of question.
    pub kind: &'a str,
    /// The question.
    pub question: &'a str,
    /// The right answer.
    pub answer: &'a str,
    /// What the policy said.
    pub text: &'a str,
    /// Length in tokens.
    pub length: usize,
    /// Whether it was cut off at the longest length.
    pub truncated: bool,
    /// Whole reward; null if it could not be scored.
    pub reward: f32,
    /// Accuracy part of it.
    pub accuracy: f32,
    /// Each scorer's part.
    pub rewards: Map<String, Value>,
    /// Advantage after the algorithm's shaping; null in a group that the algorithm did not keep.
    pub advantage: Option<f32>,
}
