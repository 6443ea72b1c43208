//! Whether sets that the selector thinks likelier are better ones.

use anyhow::Result;
use foveate_policy::{GroupSeed, PickParams};
use tch::Kind;

use super::{Found, Subject, share};
use crate::figures::{Curve, CurveChart, Stroke, Table, palette};
use crate::frame_sets::sets;

/// Shares of the sets, likeliest first, that are told from the rest.
const SHARES: [usize; 7] = [5, 10, 20, 30, 50, 70, 90];

/// Accuracy from the likeliest k percent of the sets drawn for a question, and from the others (figure 4).
pub(super) fn likelihood(subject: &Subject<'_>) -> Result<Found> {
    let count = subject.args.sets;
    let params = PickParams {
        sets: count,
        picks: subject.config.selector.last_picks(),
        temperature: subject.config.rollout.temperature,
    };
    let mut over = [[0.0; 2]; SHARES.len()]; // right, of
    let mut under = over;
    let mut number = 0;
    subject.held_out(|framed| {
        let seed = GroupSeed { seed: subject.config.run.seed, step: 0, group: number };
        number += 1;
        let picks = params.picks.min(framed.frames.len());
        let picked = subject.picker.pick(&framed, &PickParams { picks, ..params }, seed)?;
        let logprobs = Vec::<f64>::try_from(picked.scores().logprobs.sum_dim_intlist(-1, false, Kind::Double))?;
        let right = subject.scorer.judge(&framed, &sets(&picked.frames)?)?.accuracy();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|a, b| logprobs[*b].total_cmp(&logprobs[*a]));
        for (place, share) in SHARES.iter().enumerate() {
            let cut = (count * share).div_ceil(100);
            for (rank, set) in order.iter().enumerate() {
                let side = if rank < cut { &mut over[place] } else { &mut under[place] };
                side[0] += f64::from(right[*set]);
                side[1] += 1.0;
            }
        }
        Ok(())
    })?;
    let mut table = Table::new("", &["k, %", "likeliest k", "the others"]);
    for ((k, over), under) in SHARES.iter().zip(&over).zip(&under) {
        let shown = |[right, of]: [f64; 2]| if of > 0.0 { share(right, of as usize) } else { "-".to_owned() };
        table.push(vec![k.to_string(), shown(*over), shown(*under)]);
    }
    let curve = |name: &str, sides: &[[f64; 2]], index| Curve {
        name: name.into(),
        points: SHARES.iter().zip(sides).map(|(k, [right, of])| [*k as f64, 100.0 * right / of]).collect(),
        band: Vec::new(),
        colour: palette(index),
        stroke: Stroke::Solid,
    };
    let chart = CurveChart {
        title: "Accuracy by the likelihood of sets".into(),
        x: "k, % of the sets".into(),
        y: "accuracy, %".into(),
        curves: vec![curve("likeliest k", &over, 0), curve("the others", &under, 1)],
    };
    let text = format!(
        "{count} sets of {} frames are drawn for each held-out question and ordered by their probability. Accuracy of the \
         frozen model in percent, with Wilson's 95% interval over all sets, as if they were independent.",
        params.picks
    );
    Ok(Found {
        title: "Likelihood and accuracy",
        text: vec![text],
        tables: vec![table],
        pictures: vec![("", chart.picture())],
    })
}
