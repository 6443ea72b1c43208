//! What sets of frames are worth to the frozen model.

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::{Found, Subject, share};
use crate::eval::{Change, wilson};
use crate::figures::Table;
use crate::frame_sets::Framed;

/// Accuracy of the frozen model from frames at equal distances and from the likeliest picks, for each number of frames
/// (table 4).
pub(super) fn accuracy(subject: &Subject<'_>) -> Result<Found> {
    let counts = &subject.args.picks;
    let mut right = vec![[Vec::new(), Vec::new()]; counts.len()];
    subject.held_out(|framed| {
        let pairs = counts.iter().map(|count| subject.picker.beside_uniform(&framed, *count));
        let sets = pairs.collect::<Result<Vec<_>>>()?.concat();
        let accuracy = subject.scorer.judge(&framed, &sets)?.accuracy().mapv(f64::from);
        for (both, pair) in right.iter_mut().zip(accuracy.exact_chunks(2)) {
            both[0].push(pair[1]);
            both[1].push(pair[0]);
        }
        Ok(())
    })?;
    let mut table = Table::new("", &["frames", "at equal distances", "picked", "gain"]);
    for (count, [uniform, picked]) in counts.iter().zip(&right) {
        let gains: Vec<f64> = uniform.iter().zip(picked).map(|(uniform, picked)| picked - uniform).collect();
        let shown = |right: &[f64]| share(right.iter().sum(), right.len());
        table.push(vec![count.to_string(), shown(uniform), shown(picked), Change::of(&gains).text()]);
    }
    let questions = right.first().map_or(0, |both| both[0].len());
    let text = format!(
        "Accuracy of the frozen model in percent on {questions} held-out questions, with Wilson's 95% interval; the gain is \
         the mean of the questions' differences with its own."
    );
    Ok(Found { title: "Uniform and picked frames", text: vec![text], tables: vec![table], pictures: Vec::new() })
}

/// Frames of a set of the gate.
const GATE_FRAMES: usize = 4;

/// Accuracy of the frozen model with and without a frame of the event, the other frames at random.
pub(super) fn gate(subject: &Subject<'_>) -> Result<Found> {
    let mut random = ChaCha8Rng::seed_from_u64(subject.config.run.seed);
    let (mut right, mut questions, mut chance) = ([0.0; 2], 0, 0.0);
    subject.held_out(|framed| {
        let sets = gate_sets(&framed, &mut random)?;
        let accuracy = subject.scorer.judge(&framed, &sets)?.accuracy();
        right.iter_mut().zip(&accuracy).for_each(|(sum, right)| *sum += f64::from(*right));
        questions += 1;
        chance += 1.0 / framed.example.options.len() as f64;
        Ok(())
    })?;
    let mut table = Table::new("", &["frames shown", "accuracy"]);
    table.push(vec!["one of the event, three others".into(), share(right[0], questions)]);
    table.push(vec!["four others".into(), share(right[1], questions)]);
    table.push(vec!["a guess".into(), format!("{:.1}", 100.0 * chance / questions.max(1) as f64)]);
    let [with, without] = right.map(|right| wilson(right, questions));
    let apart = if with.0 > without.1 { "apart" } else { "not apart" };
    let text = format!(
        "Accuracy of the frozen model in percent on {questions} held-out questions, with Wilson's 95% interval, from four \
         frames at random, one of them of the event or none. The intervals are {apart}."
    );
    Ok(Found { title: "The frozen model", text: vec![text], tables: vec![table], pictures: Vec::new() })
}

/// Sets with a frame of the event and without.
fn gate_sets(framed: &Framed, random: &mut ChaCha8Rng) -> Result<Vec<Vec<usize>>> {
    let event = framed.event().context("the data does not say when the event happens")?;
    let (inside, outside): (Vec<usize>, Vec<usize>) = (0..event.len()).partition(|frame| event[*frame]);
    ensure!(
        !inside.is_empty() && outside.len() >= GATE_FRAMES,
        "expected candidates of the event and {GATE_FRAMES} others, found {} and {}",
        inside.len(),
        outside.len()
    );
    let mut some = |frames: &[usize], count| frames.choose_multiple(random, count).copied().collect::<Vec<_>>();
    Ok(vec![[some(&inside, 1), some(&outside, GATE_FRAMES - 1)].concat(), some(&outside, GATE_FRAMES)])
}
