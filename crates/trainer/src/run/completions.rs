//! `completions/step-N.jsonl`: every completion, or set of frames, with its rewards, to be read by people.

use foveate_data::Example;
use serde::Serialize;
use serde_json::{Map, Value};

/// Which completion a line is of.
#[derive(Debug, Clone, Serialize)]
pub struct LineOf<'a> {
    /// The step it was sampled in.
    pub step: u64,
    /// Group within the step.
    pub group: usize,
    /// Completion, or set of frames, within the group.
    pub completion: usize,
    /// The example's name.
    pub id: &'a str,
    /// Type of question.
    pub kind: &'a str,
    /// The question.
    pub question: &'a str,
    /// The right answer.
    pub answer: &'a str,
}

impl<'a> LineOf<'a> {
    /// A completion of this example's group.
    pub fn new(step: u64, [group, completion]: [usize; 2], example: &'a Example) -> Self {
        let Example { id, kind, question, answer, .. } = example;
        Self { step, group, completion, id, kind, question, answer }
    }
}

/// One completion.
#[derive(Debug, Clone, Serialize)]
pub struct CompletionLine<'a> {
    /// Which.
    #[serde(flatten)]
    pub of: LineOf<'a>,
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

/// One set of frames.
#[derive(Debug, Clone, Serialize)]
pub struct PickLine<'a> {
    /// Which.
    #[serde(flatten)]
    pub of: LineOf<'a>,
    /// The frames in the order in which they were picked, counted from 0 among the candidates.
    pub picks: &'a [usize],
    /// Their times, in seconds.
    pub times: Vec<f64>,
    /// The option that the frozen model prefers.
    pub given: String,
    /// The margin of the right option; null if there is none.
    pub reward: f32,
    /// 1 if the preferred option is right.
    pub accuracy: f32,
    /// Advantage of the set.
    pub advantage: f32,
}
