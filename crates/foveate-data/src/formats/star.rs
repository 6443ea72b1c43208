//! STAR: `STAR_train.json`, `STAR_val.json` (arXiv 2405.09711; <https://github.com/csbobby/STAR_Benchmark>). A
//! question is about a part of a video of Charades; its type is the first word of its name (Interaction, Sequence,
//! Prediction, Feasibility). Videos lie as Charades' archive unpacks: `Charades_v1_480/ID.mp4`.

use serde::Deserialize;

use super::{At, Record, choices, lenient, times};
use crate::{Example, Fault, Medium};

#[derive(Deserialize)]
pub(super) struct Question {
    question_id: String,
    question: String,
    video_id: String,
    #[serde(deserialize_with = "lenient::number")]
    start: f64,
    #[serde(deserialize_with = "lenient::number")]
    end: f64,
    answer: String,
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    choice: String,
}

impl Record for Question {
    fn examples(self, _: &At<'_>) -> Result<Vec<Example>, Fault> {
        let clip = times::span("end", [self.start, self.end])?;
        let options: Vec<String> = self.choices.into_iter().map(|choice| choice.choice).collect();
        let answer = choices::of_text("answer", &self.answer, &options)?;
        let kind = self.question_id.split('_').next().unwrap_or_default().to_owned();
        Ok(vec![Example {
            id: self.question_id,
            media: vec![Medium::Video {
                path: format!("Charades_v1_480/{}.mp4", self.video_id).into(),
                clip: Some(clip),
            }],
            question: self.question,
            options,
            answer,
            kind,
            source: "STAR".to_owned(),
            ..Example::default()
        }])
    }
}
