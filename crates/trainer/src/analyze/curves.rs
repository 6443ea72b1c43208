//! Reward, its spread and the completions' length over training (TW-GRPO, figures 3 and A2), and attention to the event.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use super::{Analysis, fixed};
use crate::figures::{Curve, CurveChart, Picture, Stroke, Table, palette};
use crate::recorded::{RecordedCompletion, RecordedRun};
use crate::stats::sample_deviation;

const TITLE: &str = "Rewards and lengths over training";

/// Metrics of the table, in the order of its columns.
const METRICS: [&str; 9] = [
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "accuracy",
    "completions/mean_length",
    "completions/clipped_ratio",
    "entropy",
    "attention/event_mass",
    "attention/event_auc",
];

/// Points that a smoothed curve's window is a part of.
const WINDOWS: usize = 20;

/// A step's numbers.
struct Step {
    step: u64,
    metrics: BTreeMap<&'static str, f64>,
    /// Quartiles over its groups' reward deviations.
    reward_std: [f64; 2],
    /// Quartiles over its completions' lengths.
    length: [f64; 2],
}

/// Reads metrics and completions.
///
/// # Errors
/// A user error: there are none.
pub(super) fn analyze(run: &RecordedRun) -> Result<Analysis> {
    let recorded = run.steps()?;
    let mut steps = Vec::new();
    for line in run.metrics()? {
        let Some(step) = line.get("step").and_then(Value::as_u64) else { continue };
        let value = |name| line.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let completions = if recorded.contains(&step) { run.completions(step)? } else { Vec::new() };
        steps.push(Step {
            step,
            metrics: METRICS.into_iter().map(|name| (name, value(name))).collect(),
            reward_std: quartiles(deviations(&completions)),
            length: quartiles(completions.iter().map(|completion| completion.length as f64).collect()),
        });
    }
    if steps.is_empty() {
        return Ok(Analysis::missing(TITLE, "the run has not finished a step yet".into()));
    }
    let lines = match window(steps.len()) {
        1 => String::new(),
        window => format!("Faint lines are the steps, strong ones their mean over {window} steps."),
    };
    Ok(Analysis {
        title: TITLE.into(),
        text: vec![format!(
            "{lines} Bands hold the middle half of the step's groups (deviation of rewards) and completions (length). The \
             deviation is that within a group (divisor G - 1), mean over groups."
        )],
        pictures: pictures(&steps),
        tables: vec![("curves", table(&steps))],
        ..Analysis::default()
    })
}

fn pictures(steps: &[Step]) -> Vec<(&'static str, Picture)> {
    let chart = |title: &str, y: &str, series: &[Series]| {
        let known = |series: &&Series| steps.iter().any(|step| step.metrics[series.metric].is_finite());
        let curves: Vec<Curve> =
            series.iter().filter(known).enumerate().flat_map(|(place, series)| series.curves(steps, place)).collect();
        let chart = CurveChart { title: title.into(), x: "step".into(), y: y.into(), curves };
        (!chart.curves.is_empty()).then(|| chart.picture())
    };
    let plain = |name, metric| Series { name, metric, band: None };
    let pictures = [
        (
            "reward",
            chart("Reward", "mean over completions", &[plain("reward", "reward"), plain("accuracy", "accuracy")]),
        ),
        (
            "reward_std",
            chart(
                "Spread of rewards within a group",
                "standard deviation",
                &[Series { name: "", metric: "reward_std", band: Some(|step| step.reward_std) }],
            ),
        ),
        (
            "completion_length",
            chart(
                "Length of completions",
                "tokens",
                &[Series { name: "", metric: "completions/mean_length", band: Some(|step| step.length) }],
            ),
        ),
        (
            "event_attention",
            chart(
                "Attention on the true event",
                "share or AUC",
                &[
                    plain("share of the attention to frames", "attention/event_mass"),
                    plain("AUC of event frames", "attention/event_auc"),
                ],
            ),
        ),
    ];
    pictures.into_iter().filter_map(|(name, picture)| Some((name, picture?))).collect()
}

/// One metric of a chart.
struct Series {
    name: &'static str,
    metric: &'static str,
    band: Option<fn(&Step) -> [f64; 2]>,
}

impl Series {
    /// The steps' own values, faint, and their smoothed course.
    fn curves(&self, steps: &[Step], place: usize) -> Vec<Curve> {
        let values: Vec<f64> = steps.iter().map(|step| step.metrics[self.metric]).collect();
        let points =
            |values: &[f64]| steps.iter().zip(values).map(|(step, value)| [step.step as f64, *value]).collect();
        let width = window(steps.len());
        let colour = palette(place);
        let band: Vec<[f64; 2]> = self.band.map(|band| steps.iter().map(band).collect()).unwrap_or_default();
        let ends = [0, 1].map(|end| smoothed(&band.iter().map(|band| band[end]).collect::<Vec<_>>(), width));
        let raw =
            Curve { name: String::new(), points: points(&values), band: Vec::new(), colour, stroke: Stroke::Faint };
        let smooth = Curve {
            name: self.name.into(),
            points: points(&smoothed(&values, width)),
            band: ends[0].iter().zip(&ends[1]).map(|(low, high)| [*low, *high]).collect(),
            colour,
            stroke: Stroke::Solid,
        };
        if width > 1 { vec![raw, smooth] } else { vec![smooth] }
    }
}

fn window(steps: usize) -> usize {
    (steps / WINDOWS).max(1)
}

/// Mean over a window around each value; what is not a number is left out.
fn smoothed(values: &[f64], window: usize) -> Vec<f64> {
    let around = |index: usize| {
        let near = &values[index.saturating_sub(window / 2)..(index + window.div_ceil(2)).min(values.len())];
        let known: Vec<f64> = near.iter().copied().filter(|value| value.is_finite()).collect();
        known.iter().sum::<f64>() / known.len() as f64
    };
    (0..values.len()).map(around).collect()
}

/// Standard deviation (divisor G - 1) of each group's rewards.
fn deviations(completions: &[RecordedCompletion]) -> Vec<f64> {
    let mut groups: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for completion in completions {
        groups.entry(completion.group).or_default().extend(completion.reward);
    }
    groups.values().filter(|rewards| rewards.len() > 1).map(|rewards| sample_deviation(rewards)).collect()
}

/// First and third quartile, by linear interpolation; of nothing, no numbers.
fn quartiles(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [0.25, 0.75].map(|share| {
        let at = share * (values.len().max(1) - 1) as f64;
        let pick = |index: f64| values.get(index as usize).copied().unwrap_or(f64::NAN);
        pick(at.floor()) + (at - at.floor()) * (pick(at.ceil()) - pick(at.floor()))
    })
}

fn table(steps: &[Step]) -> Table {
    let quartiles = ["reward_std_q1", "reward_std_q3", "length_q1", "length_q3"];
    let header: Vec<&str> = ["step"].into_iter().chain(METRICS).chain(quartiles).collect();
    let mut table = Table::new("each step", &header);
    for step in steps {
        let metrics = METRICS.iter().map(|name| step.metrics[name]);
        let values = metrics.chain(step.reward_std).chain(step.length).map(|value| fixed(value, 4));
        table.push(std::iter::once(step.step.to_string()).chain(values).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_a_constant_and_passes_over_what_is_missing() {
        assert_eq!(smoothed(&[2.0; 5], 3), [2.0; 5]);
        assert_eq!(smoothed(&[1.0, f64::NAN, 3.0], 3)[1], 2.0);
        assert_eq!(smoothed(&[1.0, 5.0], 1), [1.0, 5.0]);
    }

    #[test]
    fn quartiles_are_interpolated() {
        assert_eq!(quartiles(vec![4.0, 1.0, 2.0, 3.0]), [1.75, 3.25]);
        assert!(quartiles(Vec::new())[0].is_nan());
        assert_eq!(quartiles(vec![7.0]), [7.0, 7.0]);
    }
}
