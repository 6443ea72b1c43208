//! What kind of answer a problem has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::RewardError;

/// The kind of an answer, which decides how accuracy is measured. Written and read under Video-R1's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ProblemType {
    /// `multiple choice`: a letter, or letters joined by commas.
    #[default]
    MultipleChoice,
    /// `numerical`: a number that must be met.
    Numerical,
    /// `OCR`: the words that stand in the picture.
    Ocr,
    /// `free-form`: a sentence.
    FreeForm,
    /// `regression`: a number to come close to.
    Regression,
    /// `temporal grounding`: when something takes place (not among Video-R1's).
    Grounding,
}

impl ProblemType {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::MultipleChoice, Self::Numerical, Self::Ocr, Self::FreeForm, Self::Regression, Self::Grounding];

    /// The name in Video-R1's records.
    pub fn name(self) -> &'static str {
        match self {
            Self::MultipleChoice => "multiple choice",
            Self::Numerical => "numerical",
            Self::Ocr => "OCR",
            Self::FreeForm => "free-form",
            Self::Regression => "regression",
            Self::Grounding => "temporal grounding",
        }
    }
}

impl fmt::Display for ProblemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ProblemType {
    type Err = RewardError;

    /// From Video-R1's name, in any case and with `-`, `_` or a blank between words.
    fn from_str(text: &str) -> Result<Self, RewardError> {
        let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '_'], " ");
        let found = Self::ALL.into_iter().find(|kind| plain(kind.name()) == plain(text));
        found.ok_or_else(|| RewardError::ProblemType { found: text.to_owned() })
    }
}

impl TryFrom<String> for ProblemType {
    type Error = RewardError;

    fn try_from(text: String) -> Result<Self, RewardError> {
        text.parse()
    }
}

impl From<ProblemType> for String {
    fn from(kind: ProblemType) -> Self {
        kind.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_dashes_do_not_count() {
        for kind in ProblemType::ALL {
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(serde_json::from_str::<ProblemType>(&json).unwrap(), kind);
        }
        for (text, kind) in [("multiple-choice", ProblemType::MultipleChoice), ("ocr", ProblemType::Ocr)] {
            assert_eq!(text.parse::<ProblemType>().unwrap(), kind);
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_with_the_known_ones() {
        assert_eq!(
            serde_json::from_str::<ProblemType>("\"essay\"").unwrap_err().to_string(),
            "the problem type is `essay`, expected one of multiple choice, numerical, OCR, free-form, regression, temporal grounding"
        );
    }
}
