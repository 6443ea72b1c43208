//! The data sets, one file each: what a record of theirs looks like, and the examples that it stands for.
//!
//! A data set is a [`Format`]; adding one adds a file here and a line in the list below.

mod beside;
mod charades_sta;
mod choices;
mod clevrer;
mod foveate;
mod lenient;
mod longvideobench;
mod mlvu;
mod mmvu;
mod mvbench;
mod next_gqa;
mod next_qa;
mod perception_test;
mod seed_bench_r1;
mod star;
mod tempcompass;
mod times;
mod tw_grpo;
mod video_holmes;
mod video_mme;
mod video_mmmu;
mod video_r1;

use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Example, Fault};

pub(crate) use beside::Beside;
pub use choices::texts as option_texts;
pub use foveate::line;

/// A record of a data set.
trait Record: DeserializeOwned {
    /// The examples that it stands for; a question each.
    fn examples(self, at: &At<'_>) -> Result<Vec<Example>, Fault>;
}

/// Where a record stands, for data sets that say by it what the record does not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a> {
    /// The file.
    pub(crate) file: &'a Path,
    /// Its key, in a file that is an object.
    pub(crate) key: Option<&'a str>,
    /// Its number in the file, counted from 0.
    pub(crate) record: usize,
    /// Files that lie beside it.
    pub(crate) beside: &'a Beside,
}

impl At<'_> {
    /// Name of the file without its ending.
    fn stem(&self) -> &str {
        self.file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
    }

    /// Its key, for data sets whose files are objects.
    fn entry(&self) -> Result<&str, Fault> {
        self.key.ok_or_else(|| Fault::new("", "expected a file that is an object with an entry for each video"))
    }

    /// What the JSON file of this name beside the record's own holds; none if there is no such file.
    fn beside(&self, name: &str) -> Result<Option<Arc<Value>>, Fault> {
        self.beside.json(self.file, name)
    }

    /// A name for the record, if it has none.
    fn id(&self) -> String {
        self.key.map_or_else(|| format!("{}-{}", self.stem(), self.record), str::to_owned)
    }
}

/// Declares the data sets: variant, name, record, whether a record may be several examples.
macro_rules! formats {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $record:ty, expands $expands:literal;)*) => {
        /// A data set, by what its records look like.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        pub enum Format {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Format {
            /// All data sets.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name in configurations.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether a file of this name only lies beside the records of a folder.
            pub(crate) fn is_beside(self, stem: &str) -> bool {
                let beside = ["gsub_", "frame2time_", "upbd_", "map_vid"];
                matches!(self, Self::NextGqa | Self::NextQa) && beside.iter().any(|begin| stem.starts_with(begin))
            }

            /// Whether a record may stand for several examples.
            pub(crate) fn expands(self) -> bool {
                match self { $(Self::$variant => $expands,)* }
            }

            /// The examples of a record.
            pub(crate) fn examples(self, value: Value, at: &At<'_>) -> Result<Vec<Example>, Fault> {
                match self { $(Self::$variant => parse::<$record>(value)?.examples(at),)* }
            }
        }
    };
}

formats! {
    /// foveate's own.
    #[default]
    Foveate = "foveate", foveate::Question, expands false;
    /// Video-R1-260k and its cold start, and what is written like it (Perception Test as APPO uses it).
    VideoR1 = "video-r1", video_r1::Question, expands false;
    /// SEED-Bench-R1, training and validation.
    SeedBenchR1 = "seed-bench-r1", seed_bench_r1::Question, expands false;
    /// NExT-QA, multiple choice.
    NextQa = "next-qa", next_qa::Question, expands false;
    /// NExT-GQA, with the times of what answers a question: the official csv, or one file of JSON.
    NextGqa = "next-gqa", next_gqa::Question, expands false;
    /// CLEVRER: several choices may be correct.
    Clevrer = "clevrer", clevrer::Scene, expands true;
    /// The Perception Test's own files.
    PerceptionTest = "perception-test", perception_test::Video, expands true;
    /// STAR.
    Star = "star", star::Question, expands false;
    /// TW-GRPO's files of single and multiple answers.
    TwGrpo = "tw-grpo", tw_grpo::Question, expands false;
    /// Charades-STA: when does a sentence take place?
    CharadesSta = "charades-sta", charades_sta::Video, expands true;
    /// Video-Holmes.
    VideoHolmes = "video-holmes", video_holmes::Question, expands false;
    /// MMVU, multiple choice and open.
    Mmvu = "mmvu", mmvu::Question, expands false;
    /// Video-MME.
    VideoMme = "video-mme", video_mme::Question, expands false;
    /// TempCompass: multiple choice, matching of captions, yes or no.
    TempCompass = "tempcompass", tempcompass::Video, expands true;
    /// TempCompass' captions: a model writes one, and another answers from it.
    TempCompassCaptioning = "tempcompass-captioning", tempcompass::Captioned, expands true;
    /// MVBench: a folder with a file for each task.
    MvBench = "mvbench", mvbench::Question, expands false;
    /// LongVideoBench.
    LongVideoBench = "longvideobench", longvideobench::Question, expands false;
    /// MLVU: a folder with a file for each task.
    Mlvu = "mlvu", mlvu::Question, expands false;
    /// Video-MMMU: Perception, Comprehension, Adaptation.
    VideoMmmu = "video-mmmu", video_mmmu::Question, expands false;
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ");
        Self::ALL
            .iter()
            .copied()
            .find(|format| format.name() == name)
            .ok_or_else(|| format!("expected one of {}", known()))
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A value as a record, or the field that does not fit. A field that is null is one left out, as in a table with gaps.
fn parse<T: DeserializeOwned>(mut value: Value) -> Result<T, Fault> {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, value| !value.is_null());
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        Fault::new(if field == "." { String::new() } else { field }, error.into_inner().to_string())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_null_is_a_field_left_out() {
        let at = At { file: Path::new("f.parquet"), key: None, record: 0, beside: &Beside::default() };
        let record = json!({"id": "a", "video": null, "question": "?", "options": null, "answer": "x", "spans": null});
        let examples = Format::Foveate.examples(record, &at).unwrap();
        assert_eq!((examples[0].media.len(), examples[0].options.len()), (0, 0));
        let fault = Format::Foveate.examples(json!({"id": "a", "question": null, "answer": "x"}), &at).unwrap_err();
        assert_eq!(fault.to_string(), "missing field `question`");
    }
}
