//! Whether a completion thinks aloud and answers, each in its tags.

use serde::{Deserialize, Serialize};

use crate::accuracy::is_letter;
use crate::answer::{CLOSE, OPEN};
use crate::python::{is_blank, strip};
use crate::temporal_iou::{TIME, TIMED};
use crate::{Answer, Completion, Scorer};

const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";

/// The `format` scorer: 1 for a completion of the form asked for, else 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Format {
    /// Share in the total. APPO: 0.1; Video-R1, TW-GRPO: 1.
    pub weight: f32,
    /// Whose form.
    pub style: FormatStyle,
}

impl Default for Format {
    fn default() -> Self {
        Self { weight: 0.1, style: FormatStyle::Appo }
    }
}

/// The form that a completion must have. In all of them anything, line breaks included, may stand inside `<think>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FormatStyle {
    /// The whole completion is `<think>.*?</think>\s*<answer>.*?</answer>`, without even a blank around it.
    VideoR1,
    /// `^<think>.*?</think>\s*<answer>\s*[A-Z]\s*</answer>$`; as with Python's `$`, one line break may follow.
    Appo,
    /// Ends with `<think>.*?</think>\s*<answer>.*?</answer>`, with at most one opening tag of each; text may precede.
    TwGrpo,
    /// `<think>.*?</think>\s*<answer>.*?</answer>\s*<time>.*?</time>`, blanks around it dropped (APPO, grounding).
    Grounding,
}

impl Scorer for Format {
    fn name(&self) -> &'static str {
        "format"
    }

    fn score(&self, _answer: &Answer, completion: &Completion) -> Option<f32> {
        Some(format(completion.text, self.style))
    }
}

/// 1 if the completion has the form, else 0.
pub fn format(completion: &str, style: FormatStyle) -> f32 {
    let fits = match style {
        FormatStyle::VideoR1 => answers(completion, CLOSE).next().is_some(),
        FormatStyle::Appo => {
            let line = completion.strip_suffix('\n').unwrap_or(completion);
            answers(line, CLOSE).last().is_some_and(|answer| is_letter(strip(answer)))
        }
        FormatStyle::TwGrpo => {
            let once = |tag| completion.matches(tag).count() == 1;
            let from = completion.find(THINK).unwrap_or_default();
            once(THINK) && once(OPEN) && answers(&completion[from..], CLOSE).next().is_some()
        }
        FormatStyle::Grounding => {
            let answer = answers(strip(completion), TIMED).next();
            answer.is_some_and(|answer| after_joints(answer, CLOSE, TIME).next().is_some())
        }
    };
    if fits { 1.0 } else { 0.0 }
}

/// In a text from `<think>` to the closing tag given, all that could be its answer: what stands between any
/// `</think>\s*<answer>` and the end. Other tags may lie on either side.
fn answers<'a>(text: &'a str, close: &str) -> impl Iterator<Item = &'a str> {
    let inside = text.strip_prefix(THINK).and_then(|rest| rest.strip_suffix(close));
    inside.into_iter().flat_map(|inside| after_joints(inside, THOUGHT, OPEN))
}

/// What follows each place where a closing tag stands before an opening one, with nothing but blanks between.
fn after_joints<'a>(text: &'a str, close: &'static str, open: &'static str) -> impl Iterator<Item = &'a str> {
    text.match_indices(close)
        .filter_map(move |(at, _)| text[at + close.len()..].trim_start_matches(is_blank).strip_prefix(open))
}

#[cfg(test)]
mod tests {
    use super::*;
    use FormatStyle::{Appo, Grounding, TwGrpo, VideoR1};
    use proptest::prelude::*;
    use regex::Regex;

    /// Who accepts the completion, in the order Video-R1, APPO, TW-GRPO.
    fn accepted(completion: &str) -> [bool; 3] {
        [VideoR1, Appo, TwGrpo].map(|style| format(completion, style) == 1.0)
    }

    #[test]
    fn a_thought_and_a_letter_fit_every_style() {
        for completion in ["<think>a\nb</think><answer>B</answer>", "<think></think>\n <answer> B\n</answer>"] {
            assert_eq!(accepted(completion), [true, true, true], "{completion}");
        }
    }

    #[test]
    fn only_appo_wants_one_capital_letter() {
        for answer in ["b", "A,C", "B.", "", "42", "\u{c4}"] {
            let completion = format!("<think>x</think><answer>{answer}</answer>");
            assert_eq!(accepted(&completion), [true, false, true], "{completion}");
        }
    }

    #[test]
    fn nothing_may_stand_around_except_before_in_tw_grpo() {
        let fit = "<think>x</think><answer>B</answer>";
        assert_eq!(accepted(&format!(" {fit}")), [false, false, true]);
        assert_eq!(accepted(&format!("Well: {fit}")), [false, false, true]);
        assert_eq!(accepted(&format!("{fit} ")), [false, false, false]);
        assert_eq!(accepted(&format!("{fit}\n")), [false, true, false]);
        assert_eq!(accepted(&format!("{fit}\n\n")), [false, false, false]);
    }

    #[test]
    fn repeated_tags_are_refused_by_tw_grpo_only() {
        assert_eq!(accepted("<think>x<think>y</think><answer>B</answer>"), [true, true, false]);
        assert_eq!(accepted("<think>x</think><answer>A</answer><answer>B</answer>"), [true, false, false]);
        assert_eq!(accepted("<think>x</think>y</think><answer>B</answer>"), [true, true, true]);
    }

    #[test]
    fn missing_or_misplaced_tags_fit_nothing() {
        for completion in [
            "",
            "B",
            "<answer>B</answer>",
            "<think>x</think>",
            "<think>x<answer>B</answer>",
            "<think>x</think> so <answer>B</answer>",
            "<answer>B</answer><think>x</think>",
            "<think></answer>",
        ] {
            assert_eq!(accepted(completion), [false, false, false], "{completion}");
        }
    }

    #[test]
    fn grounding_wants_a_time_after_the_answer_whatever_blanks_stand_around() {
        let fit = |text: &str| format(text, Grounding) == 1.0;
        for text in [
            "<think>x</think> <answer>B</answer> <time> 8.4 to 12.5, 25 to 30.2 </time>",
            "\n<think></think><answer></answer>\n<time></time> \u{a0}",
            "<think>x<think></think><answer>B</answer>y</answer><time>1</time></time>",
        ] {
            assert!(fit(text), "{text}");
            assert_eq!(accepted(text), [false; 3], "{text}");
        }
        for text in [
            "<think>x</think><answer>B</answer>",
            "<think>x</think><time>1 to 2</time><answer>B</answer>",
            "<think>x</think><answer>B</answer> at <time>1 to 2</time>",
            "<think>x</think><answer>B</answer><time>1 to 2",
            "So: <think>x</think><answer>B</answer><time>1 to 2</time>",
            "<think>x</think><answer><time>1 to 2</time>",
        ] {
            assert!(!fit(text), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_style_is_its_regular_expression(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "<think>", "</think>", "<answer>", "</answer>", "<time>", "</time>", "A", "b", " ", "\n", "\x1c",
                    "<think>x</think>", "</think>\n<answer>", "<answer> A</answer>", "</answer> <time>",
                ]),
                0..9,
            )
        ) {
            let completion = pieces.concat();
            let blanks = |pattern: &str| pattern.replace(r"\s", r"[\s\x1c-\x1f]");
            let matches = |pattern: &str| Regex::new(&blanks(pattern)).unwrap().is_match(&completion);
            let once = |tag: &str| completion.matches(tag).count() <= 1;
            let expected = [
                matches(r"(?s)\A<think>.*?</think>\s*<answer>.*?</answer>\z"),
                matches(r"(?s)\A<think>.*?</think>\s*<answer>\s*[A-Z]\s*</answer>\n?\z"),
                once("<think>") && once("<answer>") && matches(r"(?s)<think>.*?</think>\s*<answer>.*?</answer>\z"),
            ];
            prop_assert_eq!(accepted(&completion), expected);
            let grounded = matches(r"(?s)\A\s*<think>.*?</think>\s*<answer>.*?</answer>\s*<time>.*?</time>\s*\z");
            prop_assert_eq!(format(&completion, Grounding) == 1.0, grounded);
        }
    }
}
