//! MVBench: a folder of files, one for each task, named after it (arXiv 2311.17005;
//! <https://huggingface.co/datasets/OpenGVLab/MVBench>). Folders of videos, and which tasks are about a part of the
//! video, are those of <https://github.com/open-compass/VLMEvalKit/blob/01d0d52/vlmeval/dataset/MVBench.py>; the data
//! root is the folder that the archives of videos are unpacked in. The videos of episodic reasoning are folders of
//! pictures, 3 a second (`data.decode.folder_fps`).

use serde::Deserialize;

use super::{At, Record, choices, lenient, times};
use crate::{Example, Fault, Medium};

#[derive(Deserialize)]
pub(super) struct Question {
    video: String,
    question: String,
    #[serde(deserialize_with = "lenient::texts")]
    candidates: Vec<String>,
    #[serde(deserialize_with = "lenient::text")]
    answer: String,
    start: Option<f64>,
    end: Option<f64>,
}

/// What a task's questions are about.
enum Part {
    Whole,
    Clip,
}

/// The tasks with their folders.
const TASKS: [(&str, &str, Part); 20] = [
    ("action_sequence", "star/Charades_v1_480", Part::Clip),
    ("action_prediction", "star/Charades_v1_480", Part::Clip),
    ("action_antonym", "ssv2_video", Part::Whole),
    ("fine_grained_action", "Moments_in_Time_Raw/videos", Part::Whole),
    ("unexpected_action", "FunQA_test/test", Part::Whole),
    ("object_existence", "clevrer/video_validation", Part::Whole),
    ("object_interaction", "star/Charades_v1_480", Part::Clip),
    ("object_shuffle", "perception/videos", Part::Whole),
    ("moving_direction", "clevrer/video_validation", Part::Whole),
    ("action_localization", "sta/sta_video", Part::Clip),
    ("scene_transition", "scene_qa/video", Part::Whole),
    ("action_count", "perception/videos", Part::Whole),
    ("moving_count", "clevrer/video_validation", Part::Whole),
    ("moving_attribute", "clevrer/video_validation", Part::Whole),
    ("state_change", "perception/videos", Part::Whole),
    ("fine_grained_pose", "nturgbd", Part::Whole),
    ("character_order", "perception/videos", Part::Whole),
    ("egocentric_navigation", "vlnqa", Part::Whole),
    ("episodic_reasoning", "tvqa/frames_fps3_hq", Part::Clip),
    ("counterfactual_inference", "clevrer/video_validation", Part::Whole),
];

impl Record for Question {
    fn examples(self, at: &At<'_>) -> Result<Vec<Example>, Fault> {
        let unknown = || {
            Fault::new("", format!("expected a file named after a task (action_sequence ..), found {:?}", at.stem()))
        };
        let (task, folder, part) = TASKS.iter().find(|(task, ..)| *task == at.stem()).ok_or_else(unknown)?;
        let clip = match part {
            Part::Whole => None,
            Part::Clip => {
                let ends = [lenient::required("start", self.start)?, lenient::required("end", self.end)?];
                Some(times::span("end", ends)?)
            }
        };
        Ok(vec![Example {
            id: at.id(),
            media: vec![Medium::Video { path: format!("{folder}/{}", self.video).into(), clip }],
            question: self.question,
            answer: choices::of_text("answer", &self.answer, &self.candidates)?,
            options: self.candidates,
            kind: (*task).to_owned(),
            source: "MVBench".to_owned(),
            ..Example::default()
        }])
    }
}
