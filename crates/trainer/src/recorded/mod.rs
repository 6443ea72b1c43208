//! What a run left behind, read again: its metrics, its completions and its recorded groups.

mod group;
mod run;

pub use group::{MissingTensor, RecordedGroup};
pub use run::{HOW_TO_RECORD, RecordedCompletion, RecordedRun, Rollout};
