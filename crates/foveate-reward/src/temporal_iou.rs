//! How well the named time spans meet those in which the clues are seen (APPO, grounding).

use serde::{Deserialize, Serialize};

use crate::answer::block;
use crate::python::{float, is_blank, is_digit};
use crate::{Answer, Completion, Scorer};

/// The opening tag of time spans.
pub(crate) const TIME: &str = "<time>";
/// The closing tag of time spans.
pub(crate) const TIMED: &str = "</time>";

/// The `temporal-iou` scorer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TemporalIou {
    /// Share in the total.
    pub weight: f32,
    /// How time is measured.
    pub bins: TimeBins,
}

impl Default for TemporalIou {
    fn default() -> Self {
        Self { weight: 1.0, bins: TimeBins::Exact }
    }
}

/// How time is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeBins {
    /// As named.
    Exact,
    /// In whole seconds, each of which counts as soon as a span touches it (released APPO).
    Seconds,
}

impl Scorer for TemporalIou {
    fn name(&self) -> &'static str {
        "temporal-iou"
    }

    fn score(&self, answer: &Answer, completion: &Completion) -> Option<f32> {
        temporal_iou(answer, completion.text, self.bins)
    }
}

/// Length of the intersection over length of the union of the spans in the completion's last `<time>` and those of the
/// answer, from 0 to 1; `None` if the answer has no span of any length.
///
/// A span is `(\d+\.?\d*)\s*to\s*(\d+\.?\d*)`, in seconds. One that ends where it starts or before does not count;
/// those that overlap count once. An infinite span is worth 0.
pub fn temporal_iou(answer: &Answer, completion: &str, bins: TimeBins) -> Option<f32> {
    let gold = union(&answer.times(), bins);
    if gold.is_empty() {
        return None;
    }
    let given = union(&time_spans(completion), bins);
    let both = intersection(&gold, &given);
    let either = length(&gold) + length(&given) - both;
    Some(if either.is_finite() { (both / either) as f32 } else { 0.0 })
}

/// The spans `[start, end]` in seconds of the last `<time> .. </time>`; empty if there is none.
pub fn time_spans(completion: &str) -> Vec<[f64; 2]> {
    let mut last = "";
    let mut rest = completion;
    while let Some((inside, after)) = block(rest, TIME, TIMED) {
        (last, rest) = (inside, after);
    }
    spans(last)
}

/// Every match of `(\d+\.?\d*)\s*to\s*(\d+\.?\d*)`, in time linear in the text.
pub fn spans(text: &str) -> Vec<[f64; 2]> {
    let mut spans = Vec::new();
    let (mut from, mut seen) = (0, 0); // end of the last match, end of the last "to"
    while let Some(at) = text[seen..].find("to").map(|found| seen + found) {
        seen = at + "to".len();
        let start = number_before(&text[from..at]);
        let Some((end, rest)) = number_after(&text[seen..]) else { continue };
        if let Some(span) = start.and_then(float).zip(float(end)) {
            spans.push([span.0, span.1]);
            from = text.len() - rest.len();
            seen = from;
        }
    }
    spans
}

/// The longest `\d+\.?\d*` that ends the text, but for blanks.
fn number_before(text: &str) -> Option<&str> {
    let text = text.trim_end_matches(is_blank);
    let mut head = text.trim_end_matches(is_digit);
    if let Some(whole) = head.strip_suffix('.').filter(|whole| whole.ends_with(is_digit)) {
        head = whole.trim_end_matches(is_digit);
    }
    Some(&text[head.len()..]).filter(|number| !number.is_empty())
}

/// The longest `\d+\.?\d*` that begins the text, but for blanks, and what follows it.
fn number_after(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches(is_blank);
    let mut rest = text.trim_start_matches(is_digit);
    if rest.len() == text.len() {
        return None;
    }
    if let Some(decimals) = rest.strip_prefix('.') {
        rest = decimals.trim_start_matches(is_digit);
    }
    Some((&text[..text.len() - rest.len()], rest))
}

/// The same time as spans that do not meet, in order.
fn union(spans: &[[f64; 2]], bins: TimeBins) -> Vec<[f64; 2]> {
    let mut spans: Vec<_> = spans.iter().copied().filter(|[start, end]| end > start).collect();
    if bins == TimeBins::Seconds {
        spans.iter_mut().for_each(|span| *span = [span[0].floor(), span[1].ceil()]);
    }
    spans.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let mut merged: Vec<[f64; 2]> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if span[0] <= last[1] => last[1] = last[1].max(span[1]),
            _ => merged.push(span),
        }
    }
    merged
}

fn length(spans: &[[f64; 2]]) -> f64 {
    spans.iter().map(|[start, end]| end - start).sum()
}

/// Length of what two unions share.
fn intersection(a: &[[f64; 2]], b: &[[f64; 2]]) -> f64 {
    let (mut i, mut j, mut shared) = (0, 0, 0.0);
    while let (Some(one), Some(other)) = (a.get(i), b.get(j)) {
        shared += (one[1].min(other[1]) - one[0].max(other[0])).max(0.0);
        if one[1] < other[1] { i += 1 } else { j += 1 }
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::Regex;

    fn score(gold: &[[f64; 2]], time: &str, bins: TimeBins) -> Option<f32> {
        temporal_iou(&Answer::new("B").with_times(gold.to_vec()), &format!("<time>{time}</time>"), bins)
    }

    #[test]
    fn spans_are_compared_as_unions() {
        for (gold, time, expected) in [
            (&[[2.0, 6.0]][..], "2 to 6", 1.0),
            (&[[2.0, 6.0]], "4 to 8", 1.0 / 3.0),
            (&[[2.0, 6.0]], "2.0 to 4., 4to6.0", 1.0),
            (&[[2.0, 6.0]], "2 to 6, 3 to 5, 2 to 6", 1.0),
            (&[[2.0, 6.0]], "6 to 2", 0.0),
            (&[[2.0, 6.0]], "4 to 4", 0.0),
            (&[[2.0, 6.0]], "", 0.0),
            (&[[2.0, 6.0]], "from 2 until 6", 0.0),
            (&[[2.0, 6.0]], "6 to 9", 0.0),
            (&[[1.0, 2.0], [5.0, 7.0]], "0 to 10", 0.3),
            (&[[1.0, 2.0], [5.0, 7.0], [1.0, 1.5]], "1 to 2 and 5 to 7", 1.0),
            (&[[2.0, 6.0]], "\u{662}\u{a0}to\n\u{ff16}", 1.0),
            (&[[2.0, 6.0]], "-2 to 6", 1.0),
        ] {
            let found = score(gold, time, TimeBins::Exact).unwrap();
            assert!((found - expected).abs() < 1e-6, "{gold:?} {time}: {found}");
        }
    }

    #[test]
    fn whole_seconds_count_as_soon_as_they_are_touched() {
        assert_eq!(score(&[[2.0, 4.0]], "2.9 to 3.1", TimeBins::Seconds), Some(1.0));
        assert_eq!(score(&[[2.5, 3.5]], "3 to 6", TimeBins::Seconds), Some(0.25));
        assert_eq!(score(&[[2.0, 4.0]], "3.1 to 2.9", TimeBins::Seconds), Some(0.0));
    }

    #[test]
    fn the_last_closed_time_counts() {
        let answer = Answer::new("B").with_times(vec![[2.0, 6.0]]);
        let score = |completion| temporal_iou(&answer, completion, TimeBins::Exact);
        assert_eq!(score("<time>2 to 6</time><time>9 to 10</time>"), Some(0.0));
        assert_eq!(score("<time>9 to 10</time><time>2 to 6</time> <time>8 to 9"), Some(1.0));
        assert_eq!(score("<time><time>2 to 6</time></time>"), Some(1.0));
        assert_eq!(score("2 to 6"), Some(0.0));
    }

    #[test]
    fn an_answer_without_time_cannot_be_scored_and_an_endless_span_is_worth_nothing() {
        assert_eq!(score(&[], "2 to 6", TimeBins::Exact), None);
        assert_eq!(score(&[[6.0, 2.0], [f64::NAN, 1.0]], "2 to 6", TimeBins::Exact), None);
        let endless = format!("0 to 1{}", "0".repeat(400));
        assert_eq!(score(&[[2.0, 6.0]], &endless, TimeBins::Seconds), Some(0.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn spans_are_those_of_the_regular_expression(
            pieces in prop::collection::vec(
                prop::sample::select(vec!["1", "23", ".", "to", " ", ",", "t", "\u{665}", "\n"]), 0..14,
            )
        ) {
            let text = pieces.concat();
            let pattern = Regex::new(r"(\d+\.?\d*)\s*to\s*(\d+\.?\d*)").unwrap();
            let number = |text: &str| float(text).unwrap();
            let expected: Vec<_> =
                pattern.captures_iter(&text).map(|found| [number(&found[1]), number(&found[2])]).collect();
            prop_assert_eq!(spans(&text), expected);
        }

        #[test]
        fn whole_seconds_are_counted_one_by_one(
            gold in prop::collection::vec([0.0..20.0f64, 0.0..20.0], 1..4),
            given in prop::collection::vec([0.0..20.0f64, 0.0..20.0], 0..4),
        ) {
            let touched = |spans: &[[f64; 2]], second: f64| {
                spans.iter().any(|[start, end]| end > start && *start < second + 1.0 && *end > second)
            };
            let seconds = || (0..20).map(f64::from);
            let both = seconds().filter(|&s| touched(&gold, s) && touched(&given, s)).count();
            let either = seconds().filter(|&s| touched(&gold, s) || touched(&given, s)).count();
            let time: Vec<_> = given.iter().map(|[start, end]| format!("{start} to {end}")).collect();
            let expected = seconds().any(|s| touched(&gold, s)).then(|| both as f32 / either as f32);
            prop_assert_eq!(score(&gold, &time.join(", "), TimeBins::Seconds), expected);
        }
    }
}
