//! Whether a completion thinks aloud and answers, each in its tags.

use serde::{Deserialize, Serialize};

use crate::answer::{CLOSE, OPEN};
use crate::{Answer, Scorer};

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
}

impl Scorer for Format {
    fn name(&self) -> &'static str {
        "format"
    }

    fn score(&self, _answer: &Answer, completion: &str) -> Option<f32> {
        Some(format(completion, self.style))
    }
}

/// 1 if the completion has the form, else 0.
pub fn format(completion: &str, style: FormatStyle) -> f32 {
    let fits = match style {
        FormatStyle::VideoR1 => whole(completion, |_| true),
        FormatStyle::Appo => whole(completion.strip_suffix('\n').unwrap_or(completion), is_letter),
        FormatStyle::TwGrpo => {
            let once = |tag| completion.matches(tag).count() == 1;
            let from = completion.find(THINK).unwrap_or_default();
            once(THINK) && once(OPEN) && whole(&completion[from..], |_| true)
        }
    };
    if fits { 1.0 } else { 0.0 }
}

/// Whether the text is a thought and then an answer that is accepted, from its first to its last byte. Some `</think>`
/// must stand directly before some `<answer>`; other tags may lie on either side of the two.
fn whole(text: &str, accepts: impl Fn(&str) -> bool) -> bool {
    let inside = text.strip_prefix(THINK).and_then(|rest| rest.strip_suffix(CLOSE));
    inside.is_some_and(|inside| {
        inside.match_indices(THOUGHT).any(|(at, _)| {
            let answer = inside[at + THOUGHT.len()..].trim_start().strip_prefix(OPEN);
            answer.is_some_and(&accepts)
        })
    })
}

fn is_letter(answer: &str) -> bool {
    let answer = answer.trim();
    answer.len() == 1 && answer.starts_with(|c: char| c.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use FormatStyle::{Appo, TwGrpo, VideoR1};

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
}
