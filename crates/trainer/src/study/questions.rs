//! Whether the selector looks elsewhere in a video if something else is asked.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use foveate_policy::{GroupSeed, PickParams};
use ndarray::Array1;

use super::{Found, Subject};
use crate::error::user_error;
use crate::eval::Change;
use crate::figures::Table;
use crate::frame_sets::{density, sets};

/// Where picks fall, two independent draws of it.
type Draws = [Array1<f64>; 2];

/// Distances of pick distributions between questions about one video, and between two draws for one question (table 3,
/// appendix C).
pub(super) fn questions(subject: &Subject<'_>) -> Result<Found> {
    let runs = subject.args.sets;
    let config = &subject.config;
    let params =
        PickParams { sets: runs, picks: config.selector.last_picks(), temperature: config.rollout.temperature };
    let mut videos: BTreeMap<String, Vec<Draws>> = BTreeMap::new();
    let mut number = 0;
    subject.held_out(|framed| {
        let params = PickParams { picks: params.picks.min(framed.frames.len()), ..params };
        let mut draw = || {
            let seed = GroupSeed { seed: config.run.seed, step: 0, group: number };
            number += 1;
            let picks = subject.picker.pick(&framed, &params, seed)?;
            anyhow::Ok(density(&sets(&picks.frames)?, framed.frames.len()) / params.picks as f64)
        };
        let draws = [draw()?, draw()?];
        let video = framed.example.media.first().map_or_else(String::new, |medium| medium.path().display().to_string());
        videos.entry(video).or_default().push(draws);
        Ok(())
    })?;
    let (mut between, mut within) = ([vec![], vec![], vec![]], [vec![], vec![], vec![]]);
    for draws in videos.values() {
        for (index, one) in draws.iter().enumerate() {
            take(&mut within, &one[0], &one[1])?;
            for other in &draws[index + 1..] {
                take(&mut between, &one[0], &other[0])?;
            }
        }
    }
    if between[0].is_empty() {
        return Err(user_error("no video of the held-out examples is asked about twice"));
    }
    let mut table = Table::new("", &["distance", "two questions", "one question, two draws"]);
    let names = ["Jensen-Shannon, nats", "symmetric KL, nats", "Wasserstein, share of the video"];
    for (name, (between, within)) in names.iter().zip(between.iter().zip(&within)) {
        let shown = |values: &[f64]| {
            let Change { mean, half_width } = Change::of(values);
            let half_width = half_width.map(|half_width| format!(" +- {half_width:.4}"));
            format!("{mean:.4}{}", half_width.unwrap_or_default())
        };
        table.push(vec![(*name).to_owned(), shown(between), shown(within)]);
    }
    let text = format!(
        "{runs} sets of {} frames are drawn for each question, and the share of the picks that falls on each candidate is \
         compared: {} pairs of questions about one video, and two draws for each question. Means with 95% intervals.",
        params.picks,
        between[0].len()
    );
    Ok(Found {
        title: "Different questions about one video",
        text: vec![text],
        tables: vec![table],
        pictures: Vec::new(),
    })
}

fn take(into: &mut [Vec<f64>; 3], p: &Array1<f64>, q: &Array1<f64>) -> Result<()> {
    ensure!(p.len() == q.len(), "expected as many candidates of one video, found {} and {}", p.len(), q.len());
    into.iter_mut().zip([jensen_shannon(p, q), symmetric_kl(p, q), wasserstein(p, q)]).for_each(|(all, d)| all.push(d));
    Ok(())
}

fn kl(p: &Array1<f64>, q: &Array1<f64>) -> f64 {
    p.iter().zip(q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p / q).ln()).sum()
}

/// Mean of the divergences from the mean distribution, at most ln 2.
fn jensen_shannon(p: &Array1<f64>, q: &Array1<f64>) -> f64 {
    let middle = (p + q) / 2.0;
    (kl(p, &middle) + kl(q, &middle)) / 2.0
}

/// Mean of both directions, with a thousandth of a uniform distribution mixed in, without which it would be infinite.
fn symmetric_kl(p: &Array1<f64>, q: &Array1<f64>) -> f64 {
    let smooth = |x: &Array1<f64>| x * 0.999 + 0.001 / x.len() as f64;
    let (p, q) = (smooth(p), smooth(q));
    (kl(&p, &q) + kl(&q, &p)) / 2.0
}

/// First Wasserstein distance over time from 0 to 1.
fn wasserstein(p: &Array1<f64>, q: &Array1<f64>) -> f64 {
    let mut ahead = 0.0;
    let moved: f64 = p
        .iter()
        .zip(q)
        .map(|(p, q)| {
            ahead += p - q;
            f64::abs(ahead)
        })
        .sum();
    moved / p.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn distances_have_their_known_values() {
        let (p, q) = (array![1.0, 0.0, 0.0, 0.0], array![0.0, 0.0, 0.5, 0.5]);
        assert!((jensen_shannon(&p, &q) - 2.0_f64.ln()).abs() < 1e-12);
        assert!((wasserstein(&p, &q) - 2.5 / 4.0).abs() < 1e-12);
        assert_eq!([jensen_shannon(&p, &p), symmetric_kl(&p, &p), wasserstein(&p, &p)], [0.0; 3]);
        assert!(symmetric_kl(&p, &q).is_finite() && symmetric_kl(&p, &q) == symmetric_kl(&q, &p));
    }
}
