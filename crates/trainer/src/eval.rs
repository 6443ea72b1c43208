//! Evaluation without the model: accuracies with their intervals, tables, and every item's answer kept.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer, Serialize};

use crate::stats::EventAttention;

/// Standard normal quantile of a two-sided 95% interval.
const Z: f64 = 1.959_963_984_540_054;

/// One evaluated example.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Item {
    /// The example's name.
    pub id: String,
    /// Type of question.
    pub kind: String,
    /// How long the video is, in the words of its benchmark.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub duration: String,
    /// The right answer.
    pub answer: String,
    /// The answer that was read from the completion; empty if there was none.
    #[serde(default)]
    pub given: String,
    /// What the policy said.
    pub completion: String,
    /// 1 if right, 0 if wrong; an accuracy with partial credit lies between. NaN (null in the file) if there is nothing
    /// to judge it by: such an item is left out of every share.
    #[serde(deserialize_with = "number_or_null")]
    pub accuracy: f32,
    /// Whole reward; NaN (null in the file) if it could not be scored.
    #[serde(deserialize_with = "number_or_null")]
    pub reward: f32,
    /// Other scores where they apply: `soft` (partial credit of several letters), `strict` (1 if all of several letters are
    /// named and no other), `iou` (of time spans), `relative` (mean relative accuracy of a number); of a selector `uniform`
    /// (accuracy from as many frames at equal distances).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<String, f32>,
    /// Length of the completion in tokens.
    pub length: usize,
    /// Whether the completion was cut off.
    pub truncated: bool,
    /// Length of the prompt in tokens, media included.
    #[serde(default)]
    pub prompt_tokens: usize,
    /// Tokens of each medium.
    #[serde(default)]
    pub media_tokens: Vec<usize>,
    /// Frames, height and width in pixels of each medium as the policy saw it.
    #[serde(default)]
    pub shapes: Vec<[usize; 3]>,
    /// Its attention to the frames of the event, in the last 3 layers, where the data knows the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<EventAttention>,
}

fn number_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f32::NAN))
}

/// A share of right answers and its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Items.
    pub items: usize,
    /// Mean accuracy.
    pub mean: f64,
    /// Lower end of the Wilson interval.
    pub low: f64,
    /// Upper end of the Wilson interval.
    pub high: f64,
}

impl Share {
    /// The share of right answers among items.
    pub fn of<'a>(items: impl IntoIterator<Item = &'a Item>) -> Self {
        let (mut count, mut sum) = (0, 0.0);
        for item in items.into_iter().filter(|item| !item.accuracy.is_nan()) {
            count += 1;
            sum += f64::from(item.accuracy);
        }
        Self::new(sum, count)
    }

    /// The share of `right` right answers out of `items`.
    pub fn new(right: f64, items: usize) -> Self {
        let (low, high) = wilson(right, items);
        Self { items, mean: right / items.max(1) as f64, low, high }
    }

    /// In percent with its interval.
    pub fn text(&self) -> String {
        format!("{:.1} ({:.1} to {:.1})", 100.0 * self.mean, 100.0 * self.low, 100.0 * self.high)
    }
}

/// Wilson's 95% interval of a share, from `right` right answers out of `items`; [0, 1] if there are none.
///
/// Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
pub fn wilson(right: f64, items: usize) -> (f64, f64) {
    if items == 0 {
        return (0.0, 1.0);
    }
    let n = items as f64;
    let share = right / n;
    let centre = share + Z * Z / (2.0 * n);
    let spread = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((centre - spread) / scale).max(0.0), ((centre + spread) / scale).min(1.0))
}

/// Shares by type of question, in the order of their names.
pub fn by_kind(items: &[Item]) -> BTreeMap<&str, Share> {
    shares(items, |item| &item.kind)
}

fn shares(items: &[Item], of: impl Fn(&Item) -> &str) -> BTreeMap<&str, Share> {
    let mut groups: BTreeMap<&str, Vec<&Item>> = BTreeMap::new();
    for item in items {
        groups.entry(of(item)).or_default().push(item);
    }
    groups.into_iter().map(|(name, items)| (name, Share::of(items))).collect()
}

/// Change of accuracy between two evaluations of the same examples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Mean of the examples' differences, after less before.
    pub mean: f64,
    /// Half the width of its 95% interval, from the differences' standard deviation; `None` where all are the same (or there
    /// is one), which tells nothing of how far off their mean may be.
    pub half_width: Option<f64>,
}

impl Change {
    /// The change on the examples that both evaluations have; of several that share an id, the first of one evaluation and
    /// the first of the other are taken for the same, and so on.
    pub fn between<'a>(before: impl IntoIterator<Item = &'a Item>, after: impl IntoIterator<Item = &'a Item>) -> Self {
        let before: HashMap<_, f32> = numbered(before).map(|(name, item)| (name, item.accuracy)).collect();
        let differences: Vec<f64> = numbered(after)
            .filter_map(|(name, item)| Some(f64::from(item.accuracy - before.get(&name)?)))
            .filter(|difference| !difference.is_nan())
            .collect();
        Self::of(&differences)
    }

    /// The mean of differences, or of other numbers, with its interval.
    pub fn of(differences: &[f64]) -> Self {
        let n = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / n.max(1.0);
        let squares: f64 = differences.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (squares / (n - 1.0).max(1.0)).sqrt();
        let differ = differences.iter().any(|value| *value != differences[0]);
        Self { mean, half_width: differ.then(|| Z * deviation / n.sqrt()) }
    }

    /// In percent, with its interval if it has one.
    pub fn text(&self) -> String {
        let half_width = self.half_width.map(|half_width| format!(" +- {:.1}", 100.0 * half_width));
        format!("{:+.1}{}", 100.0 * self.mean, half_width.unwrap_or_default())
    }
}

/// Items with their ids, and how many before them have the same one.
fn numbered<'a>(items: impl IntoIterator<Item = &'a Item>) -> impl Iterator<Item = ((&'a str, usize), &'a Item)> {
    let mut known: HashMap<&str, usize> = HashMap::new();
    items.into_iter().map(move |item| {
        let count = known.entry(&item.id).or_default();
        *count += 1;
        ((item.id.as_str(), *count), item)
    })
}

/// Mean attention to the event's frames, of the items whose event is known.
pub fn event(items: &[Item]) -> Option<EventAttention> {
    EventAttention::mean(&items.iter().filter_map(|item| item.event).collect::<Vec<_>>())
}

/// The table of one evaluation: accuracy in percent with its interval, by type of question and in all.
pub fn table(items: &[Item]) -> String {
    let mut rows = vec![header(&["type", "items", "accuracy", "95% interval"])];
    for (kind, share) in by_kind(items) {
        rows.push(share_row(kind, &share));
    }
    for (duration, share) in shares(items, |item| &item.duration) {
        if !duration.is_empty() {
            rows.push(share_row(&format!("duration {duration}"), &share));
        }
    }
    let (several, one): (Vec<&Item>, Vec<&Item>) = items.iter().partition(|item| item.scores.contains_key("soft"));
    if !several.is_empty() && !one.is_empty() {
        rows.push(share_row("one right answer", &Share::of(one)));
        rows.push(share_row("several right answers", &Share::of(several)));
    }
    rows.push(share_row("all", &Share::of(items)));
    layout(&rows) + &others(items)
}

/// Scores beside the accuracy, and what they are.
pub(crate) const SCORES: [(&str, &str); 5] = [
    ("uniform", "accuracy from as many frames at equal distances"),
    ("soft", "soft accuracy of several letters"),
    ("strict", "strict accuracy of several letters"),
    ("iou", "mean temporal IoU"),
    ("relative", "mean relative accuracy"),
];

/// The scores beside the accuracy, each over the items that have it.
pub(crate) fn others(items: &[Item]) -> String {
    let line = |(key, name): (&str, &str)| {
        let scores: Vec<f64> = items.iter().filter_map(|item| Some(f64::from(*item.scores.get(key)?))).collect();
        let percent = |sum: f64| 100.0 * sum / scores.len() as f64;
        let mean = percent(scores.iter().sum());
        let line = format!("{name}: {mean:.1} over {} items\n", scores.len());
        // What papers on grounding give: the share of items whose only answer overlaps by so much (R1@0.5).
        let recall = |least: f64| percent(scores.iter().filter(|score| **score >= least).count() as f64);
        let recalls = [0.3, 0.5, 0.7].map(|least| format!("{:.1} at {least}", recall(least))).join(", ");
        let more = if key == "iou" { format!("recall by temporal IoU: {recalls}\n") } else { String::new() };
        (!scores.is_empty()).then_some(line + &more)
    };
    SCORES.into_iter().filter_map(line).collect()
}

/// The table of two evaluations of the same examples, before and after training.
pub fn comparison(before: &[Item], after: &[Item]) -> String {
    let mut rows = vec![header(&["type", "items", "before", "after", "gain"])];
    let (first, second) = (by_kind(before), by_kind(after));
    for (kind, share) in &second {
        let of_kind =
            |items: &[Item]| -> Vec<Item> { items.iter().filter(|item| item.kind == *kind).cloned().collect() };
        let change = Change::between(&of_kind(before), &of_kind(after));
        rows.push(change_row(kind, first.get(kind), share, &change));
    }
    let (all_before, all_after) = (Share::of(before), Share::of(after));
    rows.push(change_row("all", Some(&all_before), &all_after, &Change::between(before, after)));
    layout(&rows)
}

fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn share_row(name: &str, share: &Share) -> Vec<String> {
    vec![
        name.to_owned(),
        share.items.to_string(),
        format!("{:.1}", 100.0 * share.mean),
        format!("{:.1} to {:.1}", 100.0 * share.low, 100.0 * share.high),
    ]
}

fn change_row(name: &str, before: Option<&Share>, after: &Share, change: &Change) -> Vec<String> {
    vec![
        name.to_owned(),
        after.items.to_string(),
        before.map_or_else(|| "-".to_owned(), Share::text),
        after.text(),
        change.text(),
    ]
}

/// Columns two blanks apart, the first flush left, the others flush right.
fn layout(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a String cannot fail.
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.push('\n');
    }
    text
}

/// Reads items, one a line.
///
/// # Errors
/// The file cannot be read or holds something else.
pub fn read_items(path: &Path) -> Result<Vec<Item>> {
    let text = fs_err::read_to_string(path)?;
    let item = |(number, line)| {
        serde_json::from_str(line).with_context(|| {
            format!(
                "{}:{number}: expected an answered item, as `trainer eval --output` writes one a line",
                path.display()
            )
        })
    };
    (1..).zip(text.lines()).map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::write_lines;

    fn item(id: usize, kind: &str, accuracy: f32) -> Item {
        Item {
            id: id.to_string(),
            kind: kind.into(),
            answer: "A".into(),
            completion: "<answer>A</answer>".into(),
            accuracy,
            reward: accuracy,
            length: 3,
            ..Item::default()
        }
    }

    #[test]
    fn wilsons_interval_has_its_known_values() {
        let close = |(low, high): (f64, f64), expected: (f64, f64)| {
            assert!((low - expected.0).abs() < 5e-5 && (high - expected.1).abs() < 5e-5, "{low} {high}");
        };
        // R. G. Newcombe, Statistics in Medicine 17 (1998), table I, has 81 of 263 as 0.2553 to 0.3662.
        close(wilson(0.0, 10), (0.0, 0.277_53));
        close(wilson(5.0, 10), (0.236_59, 0.763_41));
        close(wilson(81.0, 263), (0.255_29, 0.366_21));
        close(wilson(0.0, 0), (0.0, 1.0));
    }

    #[test]
    fn the_change_is_paired_by_example() {
        let before: Vec<Item> = (0..4).map(|id| item(id, "k", f32::from(id % 2 == 0))).collect();
        let after: Vec<Item> = (0..5).rev().map(|id| item(id, "k", 1.0)).collect();
        let change = Change::between(&before, &after);
        assert!((change.mean - 0.5).abs() < 1e-12);
        assert!((change.half_width.unwrap() - Z * (1.0f64 / 3.0).sqrt() / 2.0).abs() < 1e-12);
        assert_eq!(change.text(), "+50.0 +- 56.6");
        assert_eq!(Change::between(&before, &before).text(), "+0.0", "no difference, no interval");
        let twice = |first, second| [item(0, "k", first), item(0, "k", second)];
        let change = Change::between(&twice(0.0, 1.0), &twice(1.0, 0.0));
        assert_eq!((change.mean, change.half_width.is_some()), (0.0, true), "in the order in which they stand");
    }

    #[test]
    fn tables_line_up_and_end_with_the_whole() {
        let before = [item(0, "flash", 0.0), item(1, "order", 1.0)];
        let after = [item(0, "flash", 1.0), item(1, "order", 1.0)];
        let text = comparison(&before, &after);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{text}");
        assert!(lines[3].starts_with("all") && lines[3].contains("50.0") && lines[3].contains("+50.0"), "{text}");
        assert!(table(&after).lines().nth(1).is_some_and(|line| line.starts_with("flash")));
    }

    #[test]
    fn overlaps_in_time_are_told_as_their_mean_and_as_recalls() {
        let with = |iou: f32| Item { scores: BTreeMap::from([("iou".to_owned(), iou)]), ..item(0, "k", 0.0) };
        let text = others(&[with(0.5), with(0.9), with(0.1), item(1, "k", 0.0)]);
        assert_eq!(
            text,
            "mean temporal IoU: 50.0 over 3 items\nrecall by temporal IoU: 66.7 at 0.3, 66.7 at 0.5, 33.3 at 0.7\n"
        );
    }

    #[test]
    fn an_item_without_a_judgement_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.jsonl");
        write_lines(&path, &[item(0, "k", 1.0), item(1, "k", f32::NAN)]).unwrap();
        let items = read_items(&path).unwrap();
        assert!(items[1].accuracy.is_nan());
        assert_eq!((Share::of(&items).items, Share::of(&items).mean), (1, 1.0));
        assert_eq!(Change::between(&items, &items).mean, 0.0);
    }

    #[test]
    fn items_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eval/before.jsonl");
        let items = [item(0, "flash", 0.0), item(1, "order", 1.0)];
        write_lines(&path, &items).unwrap();
        assert_eq!(read_items(&path).unwrap(), items);
    }
}
