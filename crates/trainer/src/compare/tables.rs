//! The tables of a report: a line for each row of the plan, numbers as means over its seeds.

use std::collections::BTreeSet;

use anyhow::Result;

use super::interval::{Interval, mean};
use super::outcome::{Outcome, extra};
use crate::eval::{Share, by_kind, wilson};
use crate::figures::Table;
use crate::stats::EventAttention;

/// The rows' labels with their finished runs.
type Rows<'a> = [(&'a str, &'a [Outcome])];

/// Accuracy and cost.
pub(super) fn accuracy(rows: &Rows<'_>) -> Result<String> {
    let first = rows.first().map_or(f64::NAN, |(_, runs)| step_time(runs));
    let mut lines = Vec::new();
    for (label, runs) in rows {
        let [before, after] = [0, 1].map(|end| runs.iter().map(|run| run.accuracy()[end]).collect::<Vec<_>>());
        let gains: Vec<f64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        let each: Vec<String> = after.iter().map(|value| number(*value, 1)).collect();
        let drawn = runs.iter().map(Outcome::drawn).collect::<Result<Vec<_>>>()?;
        let [own, contrasts] = [0, 1].map(|kind| mean(&drawn.iter().map(|drawn| drawn[kind]).collect::<Vec<_>>()));
        lines.push(vec![
            (*label).to_owned(),
            number(mean(&before), 1),
            with_interval(runs, &after),
            if gains.is_empty() { "-".to_owned() } else { format!("{:+.1}", mean(&gains)) },
            if each.is_empty() { "-".to_owned() } else { each.join(", ") },
            number(of_runs(runs, Outcome::seconds), 1),
            number(step_time(runs) / first, 2),
            runs.first().map_or_else(|| Ok("-".to_owned()), |run| extra(&run.config))?,
            if contrasts > 0.0 { format!("{} + {}", number(own, 0), number(contrasts, 0)) } else { number(own, 0) },
            number(of_runs(runs, |run| run.ends("completions/mean_length")[1]), 1),
        ]);
    }
    let header =
        ["", "before", "after", "gain", "each seed", "seconds", "step time", "extra passes", "completions", "tokens"];
    Ok(format!(
        "## Held-out accuracy\n\n{}\n\n\
        In percent, mean over the seeds. After training with a 95% interval: Student's t over the seeds, which says how \
        much a training run varies; of a row with one run Wilson's interval over its answers, which only says how many \
        questions there are. Seconds: sum of `step_time` over a run, without evaluations. Step time: relative to the \
        first row, mean over all steps. Extra passes: besides drawing a group and one update on it. Completions: drawn \
        in a whole run, dropped groups included, + contrast completions. Tokens: of a completion in the last {} steps.",
        markdown(&header, lines),
        window(rows)
    ))
}

/// Accuracy by type of question.
pub(super) fn kinds(rows: &Rows<'_>) -> String {
    let runs = || rows.iter().flat_map(|(_, runs)| runs.iter());
    let kinds: BTreeSet<&str> = runs().flat_map(|run| run.after.iter().map(|item| item.kind.as_str())).collect();
    let cells = |of: &dyn Fn(&str) -> f64| kinds.iter().map(|kind| number(of(kind), 1)).collect::<Vec<_>>();
    let mut lines = Vec::new();
    if let Some(first) = runs().next() {
        let of = |kind: &str| by_kind(&first.before).get(kind).map_or(f64::NAN, percent);
        lines.push([vec!["before training".to_owned()], cells(&of)].concat());
        let count = |kind: &str| by_kind(&first.after).get(kind).map_or(f64::NAN, |share| share.items as f64);
        let counts = kinds.iter().map(|kind| number(count(kind), 0)).collect();
        lines.insert(0, [vec!["questions".to_owned()], counts].concat());
    }
    for (label, runs) in rows {
        let of = |kind: &str| of_runs(runs, |run| by_kind(&run.after).get(kind).map_or(f64::NAN, percent));
        lines.push([vec![(*label).to_owned()], cells(&of)].concat());
    }
    let header: Vec<&str> = [""].into_iter().chain(kinds.iter().copied()).collect();
    format!(
        "## By type of question\n\n{}\n\nAccuracy after training in percent, mean over the seeds. Before training: the \
        first run's.",
        markdown(&header, lines)
    )
}

/// Attention to the event; `None` if the held-out examples know of none.
pub(super) fn attention(rows: &Rows<'_>) -> Option<String> {
    let line = |(label, runs): &(&str, &[Outcome])| {
        let seen: Vec<_> = runs.iter().filter_map(Outcome::event).collect();
        let of = |end: usize, value: fn(&EventAttention) -> f64| {
            mean(&seen.iter().map(|ends| value(&ends[end])).collect::<Vec<_>>())
        };
        let after: Vec<f64> = seen.iter().map(|ends| ends[1].mass).collect();
        (!seen.is_empty()).then(|| {
            let interval = Interval::student(&after);
            let spread = interval.map_or_else(String::new, |of| format!(" ({:.3} to {:.3})", of.low, of.high));
            vec![
                (*label).to_owned(),
                number(of(0, |event| event.mass), 3),
                number(of(1, |event| event.mass), 3) + &spread,
                number(of(0, |event| event.auc), 3),
                number(of(1, |event| event.auc), 3),
                number(of(1, |event| event.uniform), 3),
            ]
        })
    };
    let lines: Vec<_> = rows.iter().filter_map(line).collect();
    let header = ["", "mass, before", "mass, after", "AUC, before", "AUC, after", "uniform mass"];
    (!lines.is_empty()).then(|| {
        format!(
            "## Attention on the event\n\n{}\n\n\
            Of the held-out answers, mean over the seeds; after training with Student's 95% interval over them. An \
            answer's attention to each frame, in the last 3 layers, is averaged over its tokens. Mass: the share of it \
            that falls on the frames in which the event happens. AUC: the probability that a frame of the event has more \
            of it than another frame of the video, ties counting half; 0.5 if the policy were blind. Uniform mass: the \
            event's share of the frames, which is the mass if all frames had the same attention. (`event` in \
            `eval/before.jsonl` and `eval/after.jsonl`)",
            markdown(&header, lines)
        )
    })
}

/// What training does to rewards, lengths and entropies.
pub(super) fn curves(rows: &Rows<'_>) -> String {
    let metrics = [("reward_std", 3), ("completions/mean_length", 1), ("entropy", 3)];
    let line = |(label, runs): &(&str, &[Outcome])| {
        let ends = metrics
            .into_iter()
            .flat_map(|(metric, places)| [0, 1].map(|end| number(of_runs(runs, |run| run.ends(metric)[end]), places)));
        [(*label).to_owned()].into_iter().chain(ends).collect()
    };
    let lines: Vec<Vec<String>> = rows.iter().map(line).collect();
    let header = [
        "",
        "reward std, first",
        "reward std, last",
        "length, first",
        "length, last",
        "entropy, first",
        "entropy, last",
    ];
    format!(
        "## Over training\n\n{}\n\nMeans over the first and the last {} steps and over the seeds: standard deviation of \
        a group's rewards, tokens of a completion, and entropy of the distributions that tokens were drawn from, in \
        nats. (`reward_std`, `completions/mean_length` and `entropy` in `metrics.jsonl`)",
        markdown(&header, lines),
        window(rows)
    )
}

/// The mean with its interval: Student's over the runs, Wilson's over the answers of a single one.
fn with_interval(runs: &[Outcome], values: &[f64]) -> String {
    let single = || {
        let share = Share::of(&runs.first()?.after);
        let (low, high) = wilson(share.mean * share.items as f64, share.items);
        Some(Interval { mean: 100.0 * share.mean, low: 100.0 * low, high: 100.0 * high })
    };
    match Interval::student(values).or_else(single) {
        None => "-".to_owned(),
        Some(Interval { mean, low, high }) => {
            format!("{} ({} to {})", number(mean, 1), number(low.max(0.0), 1), number(high.min(100.0), 1))
        }
    }
}

/// Mean over a row's runs; NaN without any.
fn of_runs(runs: &[Outcome], of: impl Fn(&Outcome) -> f64) -> f64 {
    mean(&runs.iter().map(of).collect::<Vec<_>>())
}

fn step_time(runs: &[Outcome]) -> f64 {
    of_runs(runs, |run| run.mean("step_time"))
}

fn percent(share: &Share) -> f64 {
    100.0 * share.mean
}

/// Steps at either end that metrics are averaged over, as said of all runs.
fn window(rows: &Rows<'_>) -> String {
    let windows: BTreeSet<usize> = rows.iter().flat_map(|(_, runs)| runs.iter().map(Outcome::window)).collect();
    windows.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

/// A number with so many places; a dash for what is none.
fn number(value: f64, places: usize) -> String {
    if value.is_finite() { format!("{value:.places$}") } else { "-".to_owned() }
}

fn markdown(header: &[&str], lines: Vec<Vec<String>>) -> String {
    let mut table = Table::new("", header);
    lines.into_iter().for_each(|line| table.push(line));
    table.markdown()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_a_dash_and_bars_do_not_end_a_cell() {
        assert_eq!((number(12.345, 1), number(f64::NAN, 1)), ("12.3".to_owned(), "-".to_owned()));
        let table = markdown(&["", "a"], vec![vec!["x|y".to_owned(), "1".to_owned()]]);
        assert_eq!(table, "|  | a |\n| --- | ---: |\n| x\\|y | 1 |");
    }
}
