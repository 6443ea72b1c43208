//! Charades-STA: sentences and when in the video what they say takes place (arXiv 1705.02101), as an object by video,
//! the form read by
//! <https://github.com/OpenGVLab/VideoChat-R1/blob/67d2d75/Videochat-R1.5/src_eval/evaluate_chara.py>. Each sentence
//! is a question, and its span the answer. Videos lie in the data root: `ID.mp4`.

use foveate_reward::ProblemType;
use serde::Deserialize;

use super::{At, Record, times};
use crate::{Example, Fault, Medium};

#[derive(Deserialize)]
pub(super) struct Video {
    timestamps: Vec<[f64; 2]>,
    sentences: Vec<String>,
}

impl Record for Video {
    fn examples(self, at: &At<'_>) -> Result<Vec<Example>, Fault> {
        let video = at.entry()?;
        let (sentences, timestamps) = (self.sentences.len(), self.timestamps.len());
        if sentences != timestamps {
            return Err(Fault::new(
                "timestamps",
                format!("expected one for each of {sentences} sentences, found {timestamps}"),
            ));
        }
        let spans = times::spans("timestamps", self.timestamps)?;
        let example = |(index, (question, [start, end])): (usize, (String, [f64; 2]))| Example {
            id: format!("{video}-{index}"),
            media: vec![Medium::video(format!("{video}.mp4"))],
            question,
            answer: format!("{start} to {end}"),
            problem: ProblemType::Grounding,
            spans: vec![[start, end]],
            source: "Charades-STA".to_owned(),
            ..Example::default()
        };
        Ok(self.sentences.into_iter().zip(spans).enumerate().map(example).collect())
    }
}
