//! SEED-Bench-R1 (arXiv 2503.24376; <https://huggingface.co/datasets/TencentARC/SEED-Bench-R1>): the training set,
//! whose wrong answers are drawn, and the validation set of levels L1, L2 and L3, whose options are given. Read as by
//! <https://github.com/TencentARC/SEED-Bench-R1/blob/fe726e5/src/open_r1_egoplan/grpo.py>, but what is drawn depends
//! on the record's name alone.
//!
//! The data root holds `videos/SOURCE/NAME` and `images/SOURCE/NAME`.

use std::collections::HashSet;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{At, Record, choices, lenient};
use crate::{Example, Fault, Medium};

#[derive(Deserialize)]
pub(super) struct Question {
    #[serde(deserialize_with = "lenient::text")]
    sample_id: String,
    question: String,
    answer: Option<String>,
    negative_answers: Option<Vec<String>>,
    choice_a: Option<String>,
    choice_b: Option<String>,
    choice_c: Option<String>,
    choice_d: Option<String>,
    golden_choice_idx: Option<String>,
    task_progress_metadata: Vec<IgnoredAny>,
    video_source: String,
    video_basename: Option<String>,
    current_observation_basename: String,
    #[serde(default)]
    task_level: String,
}

impl Record for Question {
    fn examples(mut self, _: &At<'_>) -> Result<Vec<Example>, Fault> {
        let mut media = Vec::new();
        if !self.task_progress_metadata.is_empty() {
            let name = lenient::required("video_basename", self.video_basename.take())?;
            media.push(Medium::video(format!("videos/{}/{name}", self.video_source)));
        }
        let image = format!("images/{}/{}", self.video_source, self.current_observation_basename);
        media.push(Medium::Image(image.into()));
        let (options, answer) = self.choice()?;
        Ok(vec![Example {
            id: self.sample_id,
            media,
            question: self.question,
            options,
            answer,
            kind: self.task_level,
            source: "SEED-Bench-R1".to_owned(),
            ..Example::default()
        }])
    }
}

impl Question {
    /// The options and the letter of the right one.
    fn choice(&mut self) -> Result<(Vec<String>, String), Fault> {
        let Some(golden) = &self.golden_choice_idx else {
            let answer = lenient::required("answer", self.answer.take())?;
            let negatives = lenient::required("negative_answers", self.negative_answers.take())?;
            return drawn(&self.sample_id, answer, negatives);
        };
        let options = vec![
            lenient::required("choice_a", self.choice_a.take())?,
            lenient::required("choice_b", self.choice_b.take())?,
            lenient::required("choice_c", self.choice_c.take())?,
            lenient::required("choice_d", self.choice_d.take())?,
        ];
        let answer = choices::named("golden_choice_idx", golden, &options)?;
        Ok((options, answer))
    }
}

/// Three wrong answers and the right one, drawn and ordered by the record's name, and the right one's letter.
fn drawn(name: &str, answer: String, mut negatives: Vec<String>) -> Result<(Vec<String>, String), Fault> {
    let mut seen = HashSet::from([answer.trim().to_owned()]);
    negatives.retain(|negative| seen.insert(negative.trim().to_owned()));
    if negatives.len() < 3 {
        let reason = format!("expected at least 3 different wrong answers, found {}", negatives.len());
        return Err(Fault::new("negative_answers", reason));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed(name));
    let (picked, _) = negatives.partial_shuffle(&mut rng, 3);
    let mut options = picked.to_vec();
    options.push(answer.clone());
    options.shuffle(&mut rng);
    let letter = choices::of_text("answer", &answer, &options)?;
    Ok((options, letter))
}

/// FNV-1a, since the standard library's hash may change from one release to the next.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_answer_is_one_of_four_different_options_and_the_same_each_time(
            name in ".*",
            answer in "[a-c]{1,2}",
            negatives in proptest::collection::vec("[a-c]{1,2}", 0..12),
        ) {
            let wrong: HashSet<&String> = negatives.iter().filter(|negative| **negative != answer).collect();
            let found = drawn(&name, answer.clone(), negatives.clone());
            proptest::prop_assert_eq!(found.is_ok(), wrong.len() >= 3);
            if let Ok((options, letter)) = found {
                proptest::prop_assert_eq!(options.iter().collect::<HashSet<_>>().len(), 4);
                proptest::prop_assert_eq!(options.iter().filter(|option| **option == answer).count(), 1);
                let index = usize::from(letter.as_bytes()[0] - b'A');
                proptest::prop_assert_eq!(&options[index], &answer);
                proptest::prop_assert_eq!(drawn(&name, answer, negatives).unwrap(), (options, letter));
            }
        }
    }

    #[test]
    fn another_record_has_another_draw() {
        let negatives: Vec<String> = (0..9).map(|index| format!("wrong {index}")).collect();
        let draws: HashSet<_> =
            (0..20).map(|name| drawn(&name.to_string(), "right".into(), negatives.clone()).unwrap()).collect();
        assert!(draws.len() > 15, "{}", draws.len());
        assert_eq!(draws.iter().map(|(_, letter)| letter).collect::<HashSet<_>>().len(), 4);
    }
}
