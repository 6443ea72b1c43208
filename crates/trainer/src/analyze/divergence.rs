//! How much completions disagree at each position, over training (TW-GRPO, figure A3).

use std::collections::BTreeMap;

use anyhow::Result;
use foveate_algo::{AlgoConfig, Divergence, RecordedDistributions, TokenDistributions};
use ndarray::{Array2, Ix3};

use super::{Analysis, GroupReader, Seen, fixed};
use crate::config::Config;
use crate::figures::{Curve, CurveChart, Picture, Stroke, Table, sequential};

const TITLE: &str = "Divergence of positions over training";

/// Curves of a figure at most; more steps are put together.
const MAX_CURVES: usize = 6;

/// A position is shown if one in so many groups has it.
const ENOUGH: usize = 4;

/// Adds up divergences by step and position.
pub(super) struct Divergences {
    kind: Divergence,
    groups: usize,
    steps: BTreeMap<u64, Vec<Position>>,
}

/// Sums at a position.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    /// Over all groups that have it.
    sum: f64,
    groups: usize,
    /// Over groups whose completions all reach it.
    reached_sum: f64,
    reached: usize,
}

impl Position {
    /// The mean of a sum over some groups of a part, if they are enough of its groups: a curve that goes on with one of
    /// them says nothing of the others.
    fn mean(sum: f64, groups: usize, part: &Part) -> f64 {
        let all = part.positions.first().map_or(0, |first| first.groups);
        if groups * ENOUGH >= all { sum / groups as f64 } else { f64::NAN }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            sum: self.sum + other.sum,
            groups: self.groups + other.groups,
            reached_sum: self.reached_sum + other.reached_sum,
            reached: self.reached + other.reached,
        }
    }
}

impl Divergences {
    /// Measured as the run's algorithm does, or else as TW-GRPO's paper.
    pub(super) fn new(config: &Config) -> Self {
        let kind = match &config.algo {
            AlgoConfig::Appo(settings) => settings.divergence,
            AlgoConfig::TwGrpo(settings) => settings.divergence,
            _ => Divergence::Kl,
        };
        Self { kind, groups: 0, steps: BTreeMap::new() }
    }
}

impl GroupReader for Divergences {
    fn read(&mut self, seen: &Seen<'_>) -> Result<()> {
        if !seen.group.has("logits") {
            return Ok(());
        }
        self.groups += 1;
        let mask = &seen.scored.mask;
        let positions = Array2::from_shape_fn(mask.dim(), |(_, position)| position);
        let distributions = RecordedDistributions::new(seen.group.array::<Ix3>("logits")?, mask)?;
        let divergence = distributions.divergence(positions.view(), self.kind)?;
        let known = self.steps.entry(seen.rollout.step).or_default();
        known.resize(known.len().max(divergence.len()), Position::default());
        for ((place, divergence), column) in known.iter_mut().zip(&divergence).zip(mask.columns()) {
            let value = f64::from(*divergence as f32);
            let all = column.iter().all(|token| *token);
            let reached = if all { (value, 1) } else { (0.0, 0) };
            *place = place.plus(Position { sum: value, groups: 1, reached_sum: reached.0, reached: reached.1 });
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Analysis> {
        if self.groups == 0 {
            let why = "no recorded group holds logits: train with --set run.save_rollouts=N --set \
                       run.rollout_contents=logits";
            return Ok(Analysis::missing(TITLE, why.into()));
        }
        let text = format!(
            "Sum over completions of the divergence ({}) of each one's token distribution from their mean, mean over {} \
             recorded groups, a darker line for a later part of training. On the left, positions that every completion of \
             the group reaches. On the right, all positions as TW-GRPO weighs them: the uniform distribution stands in for \
             a completion that has ended. Shown are positions that at least one group in {ENOUGH} has.",
            match self.kind {
                Divergence::Kl => "kl",
                Divergence::LogK3 => "log-k3",
            },
            self.groups
        );
        let parts = self.parts();
        let reached = chart(&parts, "Positions that all completions reach", |p, part| {
            Position::mean(p.reached_sum, p.reached, part)
        });
        let all = chart(&parts, "All positions, as weighed", |p, part| Position::mean(p.sum, p.groups, part));
        Ok(Analysis {
            title: TITLE.into(),
            text: vec![text],
            pictures: vec![("divergence_reached", reached), ("divergence", all)],
            tables: vec![("divergence_flatness", flatness(&parts)), ("divergence", self.table())],
            ..Analysis::default()
        })
    }
}

/// Some steps put together.
struct Part {
    name: String,
    positions: Vec<Position>,
}

impl Divergences {
    fn parts(&self) -> Vec<Part> {
        let steps: Vec<_> = self.steps.iter().collect();
        let size = steps.len().div_ceil(MAX_CURVES);
        let together = |steps: &[(&u64, &Vec<Position>)]| {
            let length = steps.iter().map(|(_, positions)| positions.len()).max().unwrap_or(0);
            let at = |place: usize| steps.iter().filter_map(move |(_, positions)| positions.get(place).copied());
            let positions = (0..length).map(|place| at(place).fold(Position::default(), Position::plus)).collect();
            let name = match steps {
                [(only, _)] => format!("step {only}"),
                _ => format!("steps {} to {}", steps[0].0, steps[steps.len() - 1].0),
            };
            Part { name, positions }
        };
        steps.chunks(size.max(1)).map(together).collect()
    }

    fn table(&self) -> Table {
        let header = ["step", "position", "groups", "divergence", "groups_reached", "divergence_reached"];
        let mut table = Table::new("each step and position", &header);
        for (step, positions) in &self.steps {
            for (place, position) in positions.iter().enumerate() {
                table.push(vec![
                    step.to_string(),
                    place.to_string(),
                    position.groups.to_string(),
                    fixed(position.sum / position.groups as f64, 6),
                    position.reached.to_string(),
                    fixed(position.reached_sum / position.reached as f64, 6),
                ]);
            }
        }
        table
    }
}

fn chart(parts: &[Part], title: &str, value: fn(&Position, &Part) -> f64) -> Picture {
    let curve = |(index, part): (usize, &Part)| Curve {
        name: part.name.clone(),
        points: part
            .positions
            .iter()
            .enumerate()
            .map(|(place, position)| [place as f64, value(position, part)])
            .collect(),
        band: Vec::new(),
        colour: sequential(0.35 + 0.65 * (index + 1) as f64 / parts.len() as f64),
        stroke: Stroke::Solid,
    };
    let curves = parts.iter().enumerate().map(curve).collect();
    CurveChart { title: title.into(), x: "position".into(), y: "divergence".into(), curves }.picture()
}

/// Does the divergence flatten? Its mean and spread over the positions that all completions reach.
fn flatness(parts: &[Part]) -> Table {
    let header = ["steps", "positions", "mean", "highest", "deviation"];
    let mut table = Table::new("divergence over the positions that all completions reach", &header);
    for part in parts {
        let means = part.positions.iter().map(|position| Position::mean(position.reached_sum, position.reached, part));
        let values: Vec<f64> = means.filter(|mean| mean.is_finite()).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let deviation = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
        let highest = values.iter().copied().fold(f64::NAN, f64::max);
        let numbers = [mean, highest, deviation].map(|value| fixed(value, 4));
        table.push([part.name.clone(), values.len().to_string()].into_iter().chain(numbers).collect());
    }
    table
}
