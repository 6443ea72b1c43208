//! Question-answer inversion: a question is negated, and what was wrong becomes right (TW-GRPO, arXiv 2505.24718, section 3.3).

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Example, letter};

/// Whose words are negated, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// The second word, if it is one of a list.
    NextGqa,
    /// The beginning of the question, or its second word, by a list.
    Star,
}

/// Which questions of a file are inverted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Inversion {
    /// Whose words.
    pub style: Style,
    /// Probability that a question is inverted. TW-GRPO: 0.5.
    pub probability: f64,
    /// Whether the answers of a question whose wording cannot be negated are inverted all the same, as the released script
    /// does: it then asks for what it does not say.
    pub as_released: bool,
    /// Seed; the same seed gives the same file.
    pub seed: u64,
}

/// Words and what negates them.
const NEXT: &[(&str, &str)] = &[
    ("did", "didn't"),
    ("does", "doesn't"),
    ("do", "don't"),
    ("is", "isn't"),
    ("are", "aren't"),
    ("was", "wasn't"),
    ("were", "weren't"),
];

/// In the order in which they are tried.
const STAR: &[(&str, &str)] = &[
    ("did", "didn't"),
    ("was", "wasn't"),
    ("able", "unable"),
    ("would", "wouldn't"),
    ("what will", "what won't"),
    ("what happened", "what didn't happen"),
];

impl Inversion {
    /// The example as it stands in the new file, `negated` set; `number` is its place in the old one.
    ///
    /// Only a question with one right letter and a wrong option that is not inverted yet can be; any other stays as it is.
    pub fn apply(&self, example: Example, number: u64) -> Example {
        if example.negated == Some(true) {
            return example;
        }
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(number);
        let chosen = random.random_bool(self.probability);
        let right = (0..example.options.len()).find(|index| letter(*index) == example.answer);
        let question = negated(self.style, &example.question, self.as_released);
        let question = question.or_else(|| self.as_released.then(|| example.question.to_lowercase()));
        let inverted = match (right, question) {
            (Some(right), Some(question)) if chosen => inverted(&example, right, question, &mut random),
            _ => None,
        };
        inverted.unwrap_or(Example { negated: Some(false), ..example })
    }
}

/// Keeps 1 to all of the wrong options, adds the old answer, and shuffles: all but the old answer are right now. An option
/// that says the same as the old answer is left out; `None` if no other is there.
fn inverted(example: &Example, right: usize, question: String, random: &mut ChaCha8Rng) -> Option<Example> {
    let old = &example.options[right];
    let wrong: Vec<&String> = example.options.iter().filter(|option| said(option) != said(old)).collect();
    if wrong.is_empty() {
        return None;
    }
    let count = random.random_range(1..=wrong.len());
    let mut kept: Vec<&String> = wrong.choose_multiple(random, count).copied().collect();
    kept.push(old);
    kept.shuffle(random);
    let letters: Vec<String> = (0..kept.len()).filter(|place| kept[*place] != old).map(letter).collect();
    Some(Example {
        question,
        options: kept.into_iter().cloned().collect(),
        answer: letters.join(","),
        negated: Some(true),
        // Neither a thought for the old answer nor the place where it is seen says anything of the new ones.
        target: None,
        spans: Vec::new(),
        ..example.clone()
    })
}

/// What an option says, whatever its letter case, blanks and full stop.
fn said(option: &str) -> String {
    let plain = option.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    plain.trim_end_matches('.').to_owned()
}

/// The question in lower case with its negation; `None` if it has no word to negate. The released script takes the beginning
/// of a word for the word ("washing" for "was").
fn negated(style: Style, question: &str, as_released: bool) -> Option<String> {
    let question = question.to_lowercase();
    let words: Vec<&str> = question.split_whitespace().collect();
    let second = |list: &[(&str, &str)]| {
        let word = words.get(1)?;
        let (_, negation) = list.iter().find(|(known, _)| known == word)?;
        let rest = words.get(2..).unwrap_or_default();
        Some([&[words[0], *negation], rest].concat().join(" "))
    };
    match style {
        Style::NextGqa => second(NEXT),
        Style::Star => {
            let is_word = |rest: &str| as_released || !rest.starts_with(|c: char| c.is_alphanumeric() || c == '\'');
            let begins = STAR.iter().find(|(word, _)| question.strip_prefix(word).is_some_and(is_word));
            let begins = begins.map(|(word, negation)| question.replacen(word, negation, 1));
            let two = || {
                let begin = words.get(..2)?.join(" ");
                let (_, negation) = STAR.iter().find(|(known, _)| *known == begin)?;
                Some([&[*negation], words.get(2..).unwrap_or_default()].concat().join(" "))
            };
            begins.or_else(two).or_else(|| second(STAR))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn next_questions_are_negated_at_their_second_word() {
        let next = |question: &str| negated(Style::NextGqa, question, false);
        assert_eq!(next("Why did the boy  run?").unwrap(), "why didn't the boy run?");
        assert_eq!(next("what were they doing").unwrap(), "what weren't they doing");
        assert_eq!(next("how is it").unwrap(), "how isn't it");
        for other in ["Did he run?", "why the boy did run", "where", "", "what diddly"] {
            assert_eq!(next(other), None, "{other}");
        }
    }

    #[test]
    fn star_questions_are_negated_at_their_beginning_or_second_word() {
        let star = |question: &str| negated(Style::Star, question, false);
        assert_eq!(star("What will the person do next?").unwrap(), "what won't the person do next?");
        assert_eq!(star("What happened after?").unwrap(), "what didn't happen after?");
        assert_eq!(star("What  will the person do?").unwrap(), "what won't the person do?");
        assert_eq!(star("Which did they take?").unwrap(), "which didn't they take?");
        assert_eq!(star("Did he sit, or did he stand?").unwrap(), "didn't he sit, or did he stand?");
        assert_eq!(star("Which object was taken?"), None);
        for other in ["Washing what happened?", "Didn't he run?", "What willing person sat?"] {
            assert_eq!(star(other), None, "{other}");
        }
        assert_eq!(negated(Style::Star, "Washing what?", true).unwrap(), "wasn'thing what?");
    }

    fn example(question: &str, options: usize, right: usize) -> Example {
        Example {
            question: question.into(),
            options: (0..options).map(|index| format!("option {index}")).collect(),
            answer: letter(right),
            ..Example::default()
        }
    }

    #[test]
    fn an_option_that_says_what_the_old_answer_says_is_no_answer() {
        let all = Inversion { style: Style::NextGqa, probability: 1.0, as_released: false, seed: 1 };
        let mut twice = example("Why did it fall?", 3, 1);
        twice.options[0] = format!(" {}.", twice.options[1].to_uppercase());
        let after = all.apply(twice.clone(), 0);
        assert_eq!((after.options.len(), after.negated), (2, Some(true)));
        let right: usize = after.options.iter().position(|option| *option == twice.options[2]).unwrap();
        assert_eq!(after.answer, letter(right));
        twice.options[2] = twice.options[1].clone();
        assert_eq!(all.apply(twice.clone(), 0), Example { negated: Some(false), ..twice });
    }

    proptest! {
        #[test]
        fn an_inverted_question_has_answers_and_none_is_the_old_one(
            question in "(Why|What|Which|Did|Was)( (did|was|will|would|happened|man|runs)){1,4}\\?",
            star: bool, as_released: bool, options in 2usize..8, right in 0usize..8, seed: u64, number: u64,
        ) {
            let style = if star { Style::Star } else { Style::NextGqa };
            let before = example(&question, options, right % options);
            let all = Inversion { style, probability: 1.0, as_released, seed };
            let after = all.apply(before.clone(), number);
            prop_assert_eq!(&after, &all.apply(before.clone(), number));
            let wording = negated(style, &question, as_released);
            if wording.is_none() && !as_released {
                prop_assert_eq!(after, Example { negated: Some(false), ..before });
                return Ok(());
            }
            prop_assert_eq!(after.negated, Some(true));
            prop_assert_eq!(&after.question, &wording.unwrap_or(question.to_lowercase()));
            let texts: BTreeSet<&String> = after.options.iter().collect();
            prop_assert!(texts.len() == after.options.len() && texts.iter().all(|text| before.options.contains(text)));
            let old = &before.options[right % options];
            prop_assert!(texts.contains(old));
            let letters: Vec<&str> = after.answer.split(',').collect();
            prop_assert!(!letters.is_empty() && letters.len() + 1 == after.options.len());
            for (index, text) in after.options.iter().enumerate() {
                prop_assert_eq!(letters.contains(&letter(index).as_str()), text != old);
            }
        }
    }

    #[test]
    fn half_are_inverted_and_what_cannot_be_stays_as_it_is() {
        let half = Inversion { style: Style::NextGqa, probability: 0.5, as_released: false, seed: 3 };
        let negated = (0..1000)
            .filter(|number| half.apply(example("Why did it fall?", 4, 1), *number).negated == Some(true))
            .count();
        assert!((440..560).contains(&negated), "{negated}");

        let all = Inversion { probability: 1.0, ..half };
        let plain = Example { question: "Where?".into(), ..example("Why did it fall?", 4, 1) };
        assert_eq!(all.apply(plain.clone(), 0), Example { negated: Some(false), ..plain.clone() });
        let released = Inversion { as_released: true, ..all }.apply(plain, 0);
        assert_eq!((released.negated, released.question.as_str()), (Some(true), "where?"));
        for one in [
            Example { answer: "A,B".into(), ..example("Why did it fall?", 4, 1) },
            example("Why did it fall?", 1, 0),
            Example::default(),
        ] {
            assert_eq!(all.apply(one.clone(), 0), Example { negated: Some(false), ..one });
        }
    }
}
