//! Video-MMMU: `Perception`, `Comprehension` and `Adaptation`, a file or a folder each, which results are given by
//! (arXiv 2501.13826; <https://huggingface.co/datasets/lmms-lab/VideoMMMU>; folders of videos:
//! <https://github.com/EvolvingLMMs-Lab/lmms-eval/blob/2bb5e98/lmms_eval/tasks/videommmu/utils.py>; the files as JSON:
//! <https://github.com/OpenGVLab/VideoChat-R1/tree/67d2d75/Videochat-R1.5/src_eval/jsons/videommmu>). Videos lie in
//! `DISCIPLINE/ID.mp4`; the picture that an Adaptation question calls `<image 1>` is at the end of its video.

use std::path::Path;

use serde::Deserialize;

use super::{At, Record, choices, lenient};
use crate::{Example, Fault, Medium};

#[derive(Deserialize)]
pub(super) struct Question {
    id: String,
    question: String,
    #[serde(default, deserialize_with = "lenient::texts")]
    options: Vec<String>,
    #[serde(deserialize_with = "lenient::text")]
    answer: String,
}

/// The disciplines with their subjects.
const DISCIPLINES: [(&str, &[&str]); 6] = [
    ("Art", &["Art", "Art_Theory", "Design", "Music"]),
    ("Business", &["Accounting", "Economics", "Finance", "Manage", "Marketing"]),
    (
        "Engineering",
        &[
            "Agriculture",
            "Architecture_and_Engineering",
            "Computer_Science",
            "Electronics",
            "Energy_and_Power",
            "Materials",
            "Mechanical_Engineering",
        ],
    ),
    ("Humanities", &["History", "Literature", "Psychology", "Sociology"]),
    (
        "Medicine",
        &[
            "Basic_Medical_Science",
            "Clinical_Medicine",
            "Diagnostics_and_Laboratory_Medicine",
            "Pharmacy",
            "Public_Health",
        ],
    ),
    ("Science", &["Biology", "Chemistry", "Geography", "Math", "Physics"]),
];

impl Record for Question {
    fn examples(self, at: &At<'_>) -> Result<Vec<Example>, Fault> {
        let track = track(at.file)?;
        let discipline = discipline(&self.id)?;
        let mut example = Example {
            id: format!("{track}-{}", self.id),
            media: vec![Medium::video(format!("{discipline}/{}.mp4", self.id))],
            question: self.question,
            options: choices::texts(self.options),
            kind: track.to_owned(),
            source: "Video-MMMU".to_owned(),
            ..Example::default()
        };
        if example.options.is_empty() {
            choices::answer_openly(&mut example, &self.answer);
        } else {
            example.answer = choices::named("answer", &self.answer, &example.options)?;
        }
        Ok(vec![example])
    }
}

/// Which of the three a file is of, by its name or its folder's.
fn track(file: &Path) -> Result<&'static str, Fault> {
    let names = [file.file_stem(), file.parent().and_then(Path::file_name)];
    let known = ["Perception", "Comprehension", "Adaptation"];
    let is = |track: &str| names.iter().flatten().any(|name| name.eq_ignore_ascii_case(track));
    let reason = || format!("expected a file or folder named {}, found {}", known.join(", "), file.display());
    known.into_iter().find(|track| is(track)).ok_or_else(|| Fault::new("", reason()))
}

/// The discipline of a question by its name: `validation_Art_Theory_3` is of the subject `Art_Theory`.
fn discipline(id: &str) -> Result<&'static str, Fault> {
    let subject = id.split_once('_').and_then(|(_, rest)| rest.rsplit_once('_')).map_or("", |(subject, _)| subject);
    let found = DISCIPLINES.iter().find(|(_, subjects)| subjects.contains(&subject));
    let reason = || format!("expected a name such as validation_Biology_7 with a known subject, found {id:?}");
    found.map(|(discipline, _)| *discipline).ok_or_else(|| Fault::new("id", reason()))
}
