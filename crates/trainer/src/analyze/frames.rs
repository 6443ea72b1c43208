//! Do right and wrong completions of a question look at different frames, and how far apart (APPO, table A)?

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use foveate_algo::appo::{largest, response_to_frames};
use foveate_algo::{AlgoConfig, ScoredGroup};
use ndarray::{Array2, Array3, s};

use super::{Analysis, GroupReader, Seen, fixed, percent};
use crate::config::Config;
use crate::figures::{BarChart, Bars, Rgb, Table};
use crate::recorded::{HOW_TO_RECORD, RecordedCompletion, RecordedRun};

const TITLE: &str = "Frames that right and wrong completions look at";

/// Collects a question for each recorded group that has right and wrong completions.
pub(super) struct FrameDistances {
    k1: usize,
    k2: usize,
    questions: Vec<Question>,
    /// Groups whose completions are all right, or all wrong.
    uniform: usize,
    /// Groups read, and those of them with a video.
    groups: [usize; 2],
    names: Option<(u64, Vec<RecordedCompletion>)>,
}

/// What was found of one question.
#[derive(Debug)]
struct Question {
    step: u64,
    group: usize,
    id: String,
    kind: String,
    sides: Sides,
    split: Split,
    /// How often each distance comes up when completions are called right or wrong by turns, adding up to 1.
    chance: BTreeMap<usize, f64>,
}

/// Numbers of right and wrong completions.
#[derive(Debug, Clone, Copy)]
struct Sides {
    right: usize,
    wrong: usize,
}

/// Where two sides of a group look.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Split {
    /// Frames that the right and the wrong completions look at most.
    top: [usize; 2],
    /// Frames among the `k2` of some completion of both sides, of the right ones only, of the wrong ones only.
    shared: usize,
    only_right: usize,
    only_wrong: usize,
}

impl Split {
    fn distance(&self) -> usize {
        self.top[0].abs_diff(self.top[1])
    }
}

impl FrameDistances {
    /// With APPO's `k1` and `k2`: those given, or the run's own, or the paper's.
    pub(super) fn new(config: &Config, [k1, k2]: [Option<usize>; 2]) -> Self {
        let settings = match &config.algo {
            AlgoConfig::Appo(settings) => settings.clone(),
            _ => foveate_algo::appo::Settings::default(),
        };
        let (k1, k2) = (k1.unwrap_or(settings.k1), k2.unwrap_or(settings.k2));
        Self { k1, k2, questions: Vec::new(), uniform: 0, groups: [0, 0], names: None }
    }

    /// Name and kind of the example of a group; empty where the run does not say any more.
    fn name(&mut self, run: &RecordedRun, step: u64, group: usize) -> (String, String) {
        if self.names.as_ref().is_none_or(|(known, _)| *known != step) {
            self.names = Some((step, run.completions(step).unwrap_or_default()));
        }
        let lines = self.names.iter().flat_map(|(_, lines)| lines);
        let found = lines.into_iter().find(|line| line.group == group);
        found.map(|line| (line.id.clone(), line.kind.clone())).unwrap_or_default()
    }
}

impl GroupReader for FrameDistances {
    fn read(&mut self, seen: &Seen<'_>) -> Result<()> {
        self.groups[0] += 1;
        if !seen.group.has("frame_attention") {
            return Ok(());
        }
        let attention = seen.group.frame_attention(seen.scored)?;
        if attention.dim().2 == 0 {
            return Ok(());
        }
        self.groups[1] += 1;
        let right: Vec<Option<bool>> =
            seen.scored.accuracy.iter().map(|accuracy| (!accuracy.is_nan()).then_some(*accuracy >= 0.5)).collect();
        let shares = frame_shares(&attention, seen.scored, self.k1)?;
        let Some(split) = split(&shares, &right, self.k2) else {
            self.uniform += 1;
            return Ok(());
        };
        let (step, group) = (seen.rollout.step, seen.rollout.group);
        let (id, kind) = self.name(seen.run, step, group);
        let count = |side| right.iter().filter(|is| **is == Some(side)).count();
        let sides = Sides { right: count(true), wrong: count(false) };
        let chance = by_chance(&shares, &right, self.k2);
        self.questions.push(Question { step, group, id, kind, sides, split, chance });
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Analysis> {
        if self.groups[0] == 0 {
            return Ok(Analysis::missing(TITLE, format!("no group is recorded: {HOW_TO_RECORD}")));
        }
        if self.questions.is_empty() {
            let [groups, with_video] = self.groups;
            let why = format!(
                "of {groups} recorded groups {with_video} have attention to frames, and none of those has both right and \
                 wrong completions; more groups: {HOW_TO_RECORD}"
            );
            return Ok(Analysis::missing(TITLE, why));
        }
        let (distances, chart) = self.distances();
        Ok(Analysis {
            title: TITLE.into(),
            text: self.text(),
            tables: vec![("frame_distance", distances), ("frame_sets", self.sets()), ("frame_questions", self.list())],
            pictures: vec![("frame_distance", chart.picture())],
            ..Analysis::default()
        })
    }
}

impl FrameDistances {
    fn text(&self) -> Vec<String> {
        let all = self.questions.len() as f64;
        let share = |count: usize| percent(count as f64, all);
        let apart = self.questions.iter().filter(|question| question.split.distance() > 0).count();
        let differ = self.questions.iter().filter(|q| q.split.only_right + q.split.only_wrong > 0).count();
        vec![
            format!(
                "{} recorded groups have right and wrong completions; {} others have only one kind. In {:.1}% of them the \
                 frame that right completions look at most is not the one that wrong completions look at most (by chance \
                 {:.1}%: the same completions called right and wrong by turns). In {:.1}% the frames of right and wrong \
                 completions differ as sets.",
                self.questions.len(),
                self.uniform,
                share(apart),
                100.0 - 100.0 * self.chance_of(0),
                share(differ)
            ),
            format!(
                "A completion's attention to a frame is the mean of its {} largest over tokens (K1), its frames are the {} \
                 it attends to most (K2); right is an accuracy of at least 0.5. Distances are in frames.",
                self.k1, self.k2
            ),
        ]
    }

    /// Share of that distance by chance, over the questions that can be dealt otherwise.
    fn chance_of(&self, distance: usize) -> f64 {
        let dealt: Vec<_> = self.questions.iter().filter(|question| !question.chance.is_empty()).collect();
        // From 0.0: the sum of nothing is -0.0, which would be shown.
        let sum =
            dealt.iter().filter_map(|question| question.chance.get(&distance)).fold(0.0, |sum, share| sum + share);
        sum / dealt.len().max(1) as f64
    }

    /// Share of questions by distance.
    fn distances(&self) -> (Table, BarChart) {
        let header = ["distance", "questions", "share_percent", "at_least_percent", "by_chance_percent"];
        let mut table = Table::new("distance of the frames looked at most, in frames", &header);
        let furthest =
            self.questions.iter().map(|q| q.split.distance().max(q.chance.keys().next_back().copied().unwrap_or(0)));
        let all = self.questions.len() as f64;
        let (mut shares, mut chances) = (Vec::new(), Vec::new());
        for distance in 0..=furthest.max().unwrap_or(0) {
            let count = self.questions.iter().filter(|q| q.split.distance() == distance).count();
            let beyond = self.questions.iter().filter(|q| q.split.distance() >= distance).count();
            shares.push(percent(count as f64, all));
            chances.push(100.0 * self.chance_of(distance));
            table.push(vec![
                distance.to_string(),
                count.to_string(),
                fixed(shares[distance], 1),
                fixed(percent(beyond as f64, all), 1),
                fixed(chances[distance], 1),
            ]);
        }
        let chart = BarChart {
            title: "How far apart right and wrong completions look".into(),
            x: "distance of the frames looked at most, in frames".into(),
            y: "% of questions".into(),
            categories: (0..shares.len()).map(|distance| distance.to_string()).collect(),
            marked: Vec::new(),
            series: vec![
                Bars { name: "right against wrong".into(), values: shares, colour: Rgb::RIGHT },
                Bars { name: "by chance".into(), values: chances, colour: Rgb([0xb8; 3]) },
            ],
        };
        (table, chart)
    }

    /// How many frames only right completions look at: what APPO's hard selection is left with.
    fn sets(&self) -> Table {
        let header = ["frames", "only_right", "only_right_percent", "only_wrong", "only_wrong_percent"];
        let mut table = Table::new("questions by the number of frames that one side alone looks at (K2)", &header);
        let most = self.questions.iter().map(|q| q.split.only_right.max(q.split.only_wrong)).max().unwrap_or(0);
        for frames in 0..=most {
            let count = |of: fn(&Split) -> usize| self.questions.iter().filter(|q| of(&q.split) == frames).count();
            let (right, wrong) = (count(|split| split.only_right), count(|split| split.only_wrong));
            let share = |count: usize| fixed(percent(count as f64, self.questions.len() as f64), 1);
            table.push(vec![frames.to_string(), right.to_string(), share(right), wrong.to_string(), share(wrong)]);
        }
        table
    }

    fn list(&self) -> Table {
        let header = [
            "step",
            "group",
            "id",
            "kind",
            "right",
            "wrong",
            "top_right",
            "top_wrong",
            "distance",
            "shared",
            "only_right",
            "only_wrong",
        ];
        let mut table = Table::new("each question", &header);
        for question in &self.questions {
            let (sides, split) = (question.sides, &question.split);
            let numbers = [
                sides.right,
                sides.wrong,
                split.top[0],
                split.top[1],
                split.distance(),
                split.shared,
                split.only_right,
                split.only_wrong,
            ];
            let names =
                [question.step.to_string(), question.group.to_string(), question.id.clone(), question.kind.clone()];
            table.push(names.into_iter().chain(numbers.map(|number| number.to_string())).collect());
        }
        table
    }
}

/// Each completion's attention to each frame, the mean of its `k1` largest over tokens, as shares of the completion's
/// whole: `[G, F]`.
fn frame_shares(attention: &Array3<f32>, scored: &ScoredGroup, k1: usize) -> Result<Array2<f64>> {
    let (completions, _, frames) = attention.dim();
    let mut shares = Array2::zeros((completions, frames));
    for (completion, length) in scored.lengths()?.into_iter().enumerate() {
        let response = response_to_frames(attention.slice(s![completion, ..length, ..]), k1);
        let sum = response.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        shares.row_mut(completion).iter_mut().zip(response).for_each(|(share, response)| *share = response / sum);
    }
    Ok(shares)
}

/// Where both sides look; none if there is only one.
fn split(shares: &Array2<f64>, right: &[Option<bool>], k2: usize) -> Option<Split> {
    let side = |wanted: bool| -> Option<(usize, BTreeSet<usize>)> {
        let rows = right.iter().enumerate().filter(|(_, is)| **is == Some(wanted)).map(|(row, _)| shares.row(row));
        let (mut sum, mut frames, mut any) = (vec![0.0; shares.ncols()], BTreeSet::new(), false);
        for row in rows {
            any = true;
            sum.iter_mut().zip(row).for_each(|(sum, share)| *sum += share);
            frames.extend(largest(row.iter(), k2));
        }
        any.then(|| largest(sum.iter(), 1).first().copied()).flatten().map(|top| (top, frames))
    };
    let ((top_right, high), (top_wrong, low)) = (side(true)?, side(false)?);
    let shared = high.intersection(&low).count();
    Some(Split { top: [top_right, top_wrong], shared, only_right: high.len() - shared, only_wrong: low.len() - shared })
}

/// Distances when the same numbers of completions are called right and wrong, moved on by one place at a time; deals
/// that divide the group as it is divided are left out.
fn by_chance(shares: &Array2<f64>, right: &[Option<bool>], k2: usize) -> BTreeMap<usize, f64> {
    let scored: Vec<usize> = (0..right.len()).filter(|index| right[*index].is_some()).collect();
    let labels: Vec<bool> = scored.iter().filter_map(|index| right[*index]).collect();
    let mut found = BTreeMap::new();
    for shift in 1..labels.len() {
        let mut moved = labels.clone();
        moved.rotate_left(shift);
        if moved == labels || moved.iter().zip(&labels).all(|(a, b)| a != b) {
            continue;
        }
        let mut dealt = vec![None; right.len()];
        scored.iter().zip(moved).for_each(|(index, label)| dealt[*index] = Some(label));
        if let Some(split) = split(shares, &dealt, k2) {
            *found.entry(split.distance()).or_insert(0.0) += 1.0;
        }
    }
    let deals: f64 = found.values().sum();
    found.values_mut().for_each(|count| *count /= deals);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use foveate_algo::MediaKind;
    use ndarray::{Array1, array};

    #[test]
    fn sides_that_look_elsewhere_are_so_many_frames_apart() {
        let shares = array![[0.7, 0.2, 0.1, 0.0], [0.6, 0.3, 0.1, 0.0], [0.0, 0.1, 0.2, 0.7]];
        let right = [Some(true), Some(true), Some(false)];
        let split = split(&shares, &right, 2).unwrap();
        assert_eq!(split, Split { top: [0, 3], shared: 0, only_right: 2, only_wrong: 2 });
        assert_eq!(split.distance(), 3);
    }

    #[test]
    fn one_side_alone_is_no_question() {
        let shares = array![[1.0, 0.0], [0.5, 0.5]];
        assert_eq!(split(&shares, &[Some(true), None], 1), None);
        assert_eq!(split(&shares, &[Some(false), Some(false)], 1), None);
    }

    #[test]
    fn a_completions_attention_to_a_frame_is_the_mean_of_its_largest_tokens() {
        let attention = array![[[0.1f32, 0.3], [0.5, 0.3], [9.0, 9.0]]];
        let scored = ScoredGroup {
            rewards: array![1.0],
            accuracy: array![1.0],
            mask: array![[true, true, false]],
            truncated: Array1::from_elem(1, false),
            media: MediaKind::Video,
        };
        let top = frame_shares(&attention, &scored, 1).unwrap();
        assert!((top[[0, 0]] - 0.5 / 0.8).abs() < 1e-6, "{top}");
        let both = frame_shares(&attention, &scored, 15).unwrap();
        assert!((both[[0, 0]] - 0.5).abs() < 1e-6, "{both}");
    }

    #[test]
    fn chance_deals_the_same_completions_otherwise() {
        // Right completions look at frame 0, wrong ones at 2; dealt otherwise, both sides hold one of each.
        let shares = array![[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.1, 0.2, 0.7]];
        let right = [true, true, false, false].map(Some);
        assert_eq!(split(&shares, &right, 1).unwrap().distance(), 2);
        let chance = by_chance(&shares, &right, 1);
        assert!((chance.values().sum::<f64>() - 1.0).abs() < 1e-12, "{chance:?}");
        assert!(by_chance(&shares, &[Some(true), Some(false), None, None], 1).is_empty());
    }
}
