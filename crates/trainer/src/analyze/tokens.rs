//! Which tokens Video-KTR makes key: words, positions, and how far its three scores agree (figures 4 to 6 and 12).

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use foveate_algo::video_ktr::{Settings, Signal, VideoKtr, Weighting};
use foveate_algo::{AlgoConfig, Distance, MediaKind};
use foveate_policy::TextProcessor;
use ndarray::Array2;

use super::{Analysis, GroupReader, Seen, fixed, percent};
use crate::figures::{BarChart, Bars, Curve, CurveChart, Rgb, Stroke, Table, palette, visible};
use crate::recorded::{HOW_TO_RECORD, RecordedGroup, RecordedRun};

const TITLE: &str = "Tokens that Video-KTR makes key";

/// The scores, in the order of the columns.
const SIGNALS: [(Signal, &str); 3] =
    [(Signal::Entropy, "entropy"), (Signal::Visual, "visual"), (Signal::Temporal, "temporal")];

/// Parts that a completion is divided into.
const TENTHS: usize = 10;

/// Words of the figure.
const WORDS: usize = 20;

/// Occurrences that a word must have to be listed by its share.
const RARE: usize = 5;

/// Collects key tokens.
pub(super) struct KeyTokens {
    settings: Settings,
    text: Option<Arc<TextProcessor>>,
    words: BTreeMap<i64, Count>,
    tenths: [Count; TENTHS],
    /// Tokens by the scores that make them key: bit by bit, in the order of [`SIGNALS`].
    regions: [usize; 8],
    groups: usize,
    /// Groups that were recorded without a changed video.
    lacking: usize,
}

/// Tokens, and those of them that each score makes key.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    all: usize,
    key: [usize; 3],
    union: usize,
}

impl Count {
    fn add(&mut self, region: usize) {
        self.all += 1;
        self.union += usize::from(region > 0);
        self.key.iter_mut().enumerate().for_each(|(bit, key)| *key += region >> bit & 1);
    }
}

impl KeyTokens {
    /// With the run's settings if it trains by Video-KTR, else with the paper's.
    pub(super) fn new(run: &RecordedRun) -> Self {
        let settings = match &run.config().algo {
            AlgoConfig::VideoKtr(settings) => settings.clone(),
            _ => Settings::default(),
        };
        Self {
            settings: Settings { weighting: Weighting::Binary, ..settings },
            text: run.text_if_there(),
            words: BTreeMap::new(),
            tenths: [Count::default(); TENTHS],
            regions: [0; 8],
            groups: 0,
            lacking: 0,
        }
    }

    /// Whether a group has what all three scores are made of.
    fn suffices(&self, group: &RecordedGroup, media: MediaKind) -> bool {
        let [plain, masked, shuffled] = match self.settings.distance {
            Distance::LogProb => ["old_logprobs", "masked_logprobs", "shuffled_logprobs"],
            _ => ["logits", "masked_logits", "shuffled_logits"],
        };
        let has = |signal: Signal, tensor| !signal.applies(media) || group.has(tensor);
        let counterfactuals = has(Signal::Visual, masked) && has(Signal::Temporal, shuffled);
        group.has(plain) && counterfactuals && (group.has("entropy") || group.has("logits"))
    }

    /// The tokens that one score makes key, `[G, T]`.
    fn key(&self, signal: Signal, seen: &Seen<'_>) -> Result<Array2<bool>> {
        if !signal.applies(seen.scored.media) {
            return Ok(Array2::from_elem(seen.scored.mask.dim(), false));
        }
        let alone = VideoKtr::new(Settings { signals: vec![signal], ..self.settings.clone() })?;
        Ok(seen.group.credit(&alone, seen.scored)?.selected)
    }
}

impl GroupReader for KeyTokens {
    fn read(&mut self, seen: &Seen<'_>) -> Result<()> {
        if !self.suffices(seen.group, seen.scored.media) {
            self.lacking += 1;
            return Ok(());
        }
        self.groups += 1;
        let keys = SIGNALS.map(|(signal, _)| self.key(signal, seen));
        let keys = keys.into_iter().collect::<Result<Vec<_>>>()?;
        for (completion, ids) in seen.group.completions(seen.scored)?.iter().enumerate() {
            for (position, id) in ids.iter().enumerate() {
                let bits = keys.iter().enumerate().map(|(bit, key)| usize::from(key[[completion, position]]) << bit);
                let region = bits.sum::<usize>();
                self.regions[region] += 1;
                self.words.entry(*id).or_default().add(region);
                self.tenths[position * TENTHS / ids.len()].add(region);
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Analysis> {
        if self.groups == 0 {
            let why = match self.lacking {
                0 => format!("no group is recorded: {HOW_TO_RECORD}"),
                _ => "the recorded groups do not say what the tokens' log-probs are with the video masked and its frames \
                      shuffled (masked_logprobs, shuffled_logprobs): train with --algo video-ktr, all three algo.signals, and --set \
                      run.save_rollouts=N"
                    .into(),
            };
            return Ok(Analysis::missing(TITLE, why));
        }
        let all: usize = self.regions.iter().sum();
        let union = percent((all - self.regions[0]) as f64, all as f64);
        let text = format!(
            "{all} tokens of {} groups; {union:.1}% of them are key by at least one score. Each score alone makes the {:.0}% \
             of a group's tokens key that have it highest.",
            self.groups,
            100.0 * self.settings.ratio
        );
        Ok(Analysis {
            title: TITLE.into(),
            text: vec![text],
            pictures: vec![
                ("key_overlap", self.overlap_chart().picture()),
                ("key_positions", self.position_chart().picture()),
                ("key_words", self.word_chart().lying()),
            ],
            tables: vec![
                ("key_sets", self.sets()),
                ("key_agreement", self.agreement()),
                ("key_positions", self.positions()),
                ("key_words", self.word_table()),
            ],
            ..Analysis::default()
        })
    }
}

impl KeyTokens {
    fn spelled(&self, id: i64) -> String {
        let spelled = self.text.as_ref().and_then(|text| text.spelling(id).ok());
        spelled.map_or_else(|| format!("#{id}"), |token| visible(&token))
    }

    /// Tokens that are in all of these sets, given as bits.
    fn within(&self, bits: usize) -> usize {
        self.regions.iter().enumerate().filter(|(region, _)| region & bits == bits).map(|(_, count)| count).sum()
    }

    /// Tokens by exactly which scores make them key.
    fn sets(&self) -> Table {
        let mut table = Table::new("tokens by the scores that make them key", &["scores", "tokens", "share_percent"]);
        let all: usize = self.regions.iter().sum();
        for (region, count) in self.regions.iter().enumerate() {
            table.push(vec![name(region), count.to_string(), fixed(percent(*count as f64, all as f64), 2)]);
        }
        let union = all - self.regions[0];
        table.push(vec!["any".into(), union.to_string(), fixed(percent(union as f64, all as f64), 2)]);
        table
    }

    fn agreement(&self) -> Table {
        let mut table = Table::new("agreement of two scores", &["scores", "both", "either", "intersection_over_union"]);
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let (first, second) = (1 << a, 1 << b);
            let both = self.within(first | second);
            let either = self.within(first) + self.within(second) - both;
            let iou = fixed(both as f64 / either as f64, 4);
            table.push(vec![name(first | second), both.to_string(), either.to_string(), iou]);
        }
        table
    }

    fn positions(&self) -> Table {
        let header = ["tenth", "tokens", "entropy_percent", "visual_percent", "temporal_percent", "any_percent"];
        let mut table = Table::new("share of key tokens in each tenth of a completion", &header);
        for (tenth, count) in (1..).zip(&self.tenths) {
            let shares = count.key.into_iter().chain([count.union]);
            let shares = shares.map(|key| fixed(percent(key as f64, count.all as f64), 2));
            table.push([format!("{tenth}"), count.all.to_string()].into_iter().chain(shares).collect());
        }
        table
    }

    /// Words by how many of the key tokens they are.
    fn ranked(&self) -> Vec<(String, Count)> {
        let mut words: Vec<_> = self.words.iter().map(|(id, count)| (self.spelled(*id), *count)).collect();
        words.sort_by(|a, b| b.1.union.cmp(&a.1.union).then_with(|| a.0.cmp(&b.0)));
        words
    }

    fn word_table(&self) -> Table {
        let header = [
            "word",
            "tokens",
            "of_all_percent",
            "of_key_percent",
            "key_percent",
            "entropy_percent",
            "visual_percent",
            "temporal_percent",
        ];
        let mut table = Table::new("words", &header);
        let all: usize = self.regions.iter().sum();
        let union = all - self.regions[0];
        for (word, count) in self.ranked() {
            let share = |part: usize, whole: usize| fixed(percent(part as f64, whole as f64), 2);
            let own = [count.union].into_iter().chain(count.key).map(|key| share(key, count.all));
            let names = [word, count.all.to_string(), share(count.all, all), share(count.union, union)];
            table.push(names.into_iter().chain(own).collect());
        }
        table
    }

    fn overlap_chart(&self) -> BarChart {
        let all: usize = self.regions.iter().sum();
        let regions = [1, 2, 4, 3, 5, 6, 7];
        let values = regions.map(|region| percent(self.regions[region] as f64, all as f64));
        BarChart {
            title: "Which scores make tokens key".into(),
            x: "exactly these scores (E entropy, V visual, T temporal)".into(),
            y: "% of tokens".into(),
            categories: ["E", "V", "T", "E+V", "E+T", "V+T", "E+V+T"].map(str::to_owned).to_vec(),
            marked: Vec::new(),
            series: vec![Bars { name: String::new(), values: values.to_vec(), colour: Rgb::RIGHT }],
        }
    }

    fn position_chart(&self) -> CurveChart {
        let names = SIGNALS.map(|(_, name)| name).into_iter().chain(["any"]);
        let curve = |(place, name): (usize, &str)| {
            let share = |count: &Count| {
                let key = count.key.get(place).copied().unwrap_or(count.union);
                percent(key as f64, count.all as f64)
            };
            Curve {
                name: name.into(),
                points: (0..).zip(&self.tenths).map(|(at, count)| [10.0 * f64::from(at) + 5.0, share(count)]).collect(),
                band: Vec::new(),
                colour: if name == "any" { Rgb::GREY } else { palette(place) },
                stroke: if name == "any" { Stroke::Dashed } else { Stroke::Solid },
            }
        };
        CurveChart {
            title: "Where key tokens are".into(),
            x: "position in the completion, %".into(),
            y: "% of the tokens there".into(),
            curves: names.enumerate().map(curve).collect(),
        }
    }

    fn word_chart(&self) -> BarChart {
        let all: usize = self.regions.iter().sum();
        let union = all - self.regions[0];
        let words: Vec<_> = self.ranked().into_iter().filter(|(_, count)| count.all >= RARE).take(WORDS).collect();
        let values = |of: fn(&Count) -> usize, whole: usize| {
            words.iter().map(|(_, count)| percent(of(count) as f64, whole as f64)).collect()
        };
        BarChart {
            title: "Words among key tokens".into(),
            x: "word".into(),
            y: "% of tokens".into(),
            categories: words.iter().map(|(word, _)| word.clone()).collect(),
            marked: Vec::new(),
            series: vec![
                Bars { name: "of key tokens".into(), values: values(|count| count.union, union), colour: Rgb::RIGHT },
                Bars { name: "of all tokens".into(), values: values(|count| count.all, all), colour: Rgb([0xb8; 3]) },
            ],
        }
    }
}

/// The scores of a region.
fn name(region: usize) -> String {
    let names: Vec<&str> =
        SIGNALS.iter().enumerate().filter(|(bit, _)| region >> bit & 1 == 1).map(|(_, (_, name))| *name).collect();
    if names.is_empty() { "none".into() } else { names.join(" + ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_counts_for_each_of_its_scores_and_once_for_the_union() {
        let mut count = Count::default();
        [0b000, 0b101, 0b010].into_iter().for_each(|region| count.add(region));
        assert_eq!((count.all, count.key, count.union), (3, [1, 1, 1], 2));
        assert_eq!(name(0b101), "entropy + temporal");
        assert_eq!(name(0), "none");
    }
}
