//! What ReFoCUS makes of the recorded sets of frame picks of one question.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use foveate_algo::{Algorithm, MediaKind, Observations, ScoredGroup};
use foveate_policy::PickScores;
use foveate_reward::margin;
use ndarray::{Array1, Array2, Ix2, Ix3};
use tch::{Kind, Tensor};

use super::{Recorded, differentiated};
use crate::figures::Table;
use crate::recorded::RecordedGroup;

/// Rewards, advantages, each pick's probability and entropy, loss and its gradient at the log-probs, by name.
///
/// # Errors
/// If a tensor is missing, has another shape, or holds a pick that could not be made.
pub(super) fn explain(group: &RecordedGroup, algorithm: &dyn Algorithm) -> Result<BTreeMap<String, Tensor>> {
    let logits = group.array::<Ix3>("pick_logits")?;
    let (sets, picks, frames) = logits.dim();
    let picked = group.array::<Ix2>("picks")?;
    let [old, new] = ["old_logprobs", "logprobs"].map(|name| group.array::<Ix2>(name));
    let [old, new] = [old?, new?];
    for (name, array) in [("picks", &picked), ("old_logprobs", &old), ("logprobs", &new)] {
        group.agree(name, &[sets, picks], array.shape())?;
    }
    let possible = |((set, pick), frame): ((usize, usize), &f32)| {
        (0.0..frames as f32).contains(frame)
            && logits[[set, pick, *frame as usize]].is_finite()
            && (0..pick).all(|earlier| picked[[set, earlier]] != *frame)
    };
    if let Some(((set, pick), frame)) = picked.indexed_iter().find(|found| !possible(*found)) {
        anyhow::bail!(
            "{}: picks: pick {pick} of set {set} is frame {frame}, which was not there to be picked",
            group.path().display()
        );
    }
    let rewards = rewards(group, sets)?;

    let scored = ScoredGroup {
        accuracy: rewards.clone(),
        rewards: rewards.clone(),
        mask: Array2::from_elem((sets, picks), true),
        truncated: Array1::from_elem(sets, false),
        media: MediaKind::Video,
    };
    let credit = algorithm.credit(&scored, &Observations::default())?;
    let [logits, picked] = [Tensor::try_from(&logits)?, Tensor::try_from(&picked)?.to_kind(Kind::Int64)];
    let seen = PickScores::of(&logits, &picked);
    let recorded = Recorded {
        logprobs: Tensor::try_from(&new)?,
        old: Tensor::try_from(&old)?,
        reference: None,
        entropy: Some(seen.entropy.shallow_clone()),
    };
    let mut output = differentiated(&algorithm.objective(), &scored, &credit, recorded)?;
    output.insert("rewards".into(), Tensor::try_from(&rewards)?);
    output.insert("advantages".into(), Tensor::try_from(&credit.advantages)?);
    output.insert("probability".into(), seen.logprobs.exp());
    output.insert("entropy".into(), seen.entropy);
    Ok(output)
}

/// The margin of each set's option logits, `[N]`.
fn rewards(group: &RecordedGroup, sets: usize) -> Result<Array1<f32>> {
    let logits = group.array::<Ix2>("option_logits")?;
    group.agree("option_logits", &[sets, logits.ncols()], logits.shape())?;
    let gold = group.array::<ndarray::Ix1>("gold")?;
    let gold = *gold.first().context("gold: expected the number of the right option, found nothing")?;
    let options = logits.ncols();
    ensure!(
        options >= 2 && (0.0..options as f32).contains(&gold),
        "{}: gold: expected the number of one of {options} options, of which there are at least 2; found {gold}",
        group.path().display()
    );
    let of_set = |row: ndarray::ArrayView1<f32>| margin(&row.to_vec(), gold as usize).unwrap_or(f32::NAN);
    Ok(logits.rows().into_iter().map(of_set).collect())
}

/// Each pick with its probability and entropy, and its set's advantage.
///
/// # Errors
/// `picks` is missing.
pub(super) fn table(group: &RecordedGroup, explained: &BTreeMap<String, Tensor>) -> Result<Table> {
    let picks = group.array::<Ix2>("picks")?;
    let value = |name: &str, at: &[i64]| explained.get(name).map_or(f64::NAN, |tensor| tensor.double_value(at));
    let mut table =
        Table::new("Frame picks", &["set", "pick", "frame", "probability", "entropy", "reward", "advantage"]);
    for ((set, pick), frame) in picks.indexed_iter() {
        let (set, pick) = (set as i64, pick as i64);
        table.push(vec![
            set.to_string(),
            pick.to_string(),
            frame.to_string(),
            format!("{:.4}", value("probability", &[set, pick])),
            format!("{:.4}", value("entropy", &[set, pick])),
            format!("{:+.4}", value("rewards", &[set])),
            format!("{:+.4}", value("advantages", &[set])),
        ]);
    }
    Ok(table)
}
