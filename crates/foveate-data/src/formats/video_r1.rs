//! Video-R1-260k and its cold-start file: a JSON array (arXiv 2503.21776;
//! <https://huggingface.co/datasets/Video-R1/Video-R1-data>). The Perception Test as APPO trains on it is written
//! alike.

use std::path::PathBuf;

use foveate_reward::{ProblemType, answer_text};
use serde::Deserialize;

use super::{At, Record, choices, lenient};
use crate::{Example, Fault, Medium};

#[derive(Deserialize)]
pub(super) struct Question {
    #[serde(default, deserialize_with = "lenient::text")]
    problem_id: String,
    problem: String,
    data_type: DataType,
    problem_type: ProblemType,
    #[serde(default)]
    options: Vec<String>,
    solution: String,
    path: PathBuf,
    data_source: Option<String>,
    /// In the Perception Test, beside the other.
    dataset_name: Option<String>,
    /// A whole thought, in the cold-start file.
    process: Option<String>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum DataType {
    Image,
    Video,
}

impl Record for Question {
    fn examples(self, at: &At<'_>) -> Result<Vec<Example>, Fault> {
        let answer = answer_text(&self.solution);
        if answer.is_empty() {
            let found = format!("expected \"<answer>..</answer>\", found {:?}", self.solution);
            return Err(Fault::new("solution", found));
        }
        let options = choices::texts(self.options);
        let answer = choices::letters_or_text("solution", answer, self.problem_type, &options)?;
        Ok(vec![Example {
            id: if self.problem_id.is_empty() { at.id() } else { self.problem_id },
            media: vec![match self.data_type {
                DataType::Video => Medium::video(self.path),
                DataType::Image => Medium::Image(self.path),
            }],
            question: self.problem,
            options,
            answer,
            problem: self.problem_type,
            kind: self.problem_type.to_string(),
            source: self.data_source.filter(|name| !name.is_empty()).or(self.dataset_name).unwrap_or_default(),
            target: self.process.map(|process| process + "\n" + &self.solution),
            ..Example::default()
        }])
    }
}
