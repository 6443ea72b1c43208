//! The credit that APPO gives to a small group written by hand. Run with `cargo run -p foveate-algo --example credit`.

use foveate_algo::{
    AlgoError, Algorithm, MediaKind, Observations, RecordedDistributions, ScoredGroup,
    appo::{Appo, Settings},
};
use ndarray::{Array3, array, s};

/// Words of the four completions; the question was when the ball stops.
const WORDS: [&[&str]; 4] = [
    &["the", "ball", "stops", "late", "B"],
    &["it", "stops", "late", "B"],
    &["the", "ball", "rolls", "C"],
    &["no", "idea", "C"],
];

fn main() -> Result<(), AlgoError> {
    let (completions, width, frames, vocabulary) = (4, 5, 3, 4);
    let length = |i: usize| WORDS[i].len();
    let group = ScoredGroup {
        rewards: array![1.0, 1.0, 0.1, 0.1],
        accuracy: array![1.0, 1.0, 0.0, 0.0],
        mask: ndarray::Array2::from_shape_fn((completions, width), |(i, t)| t < length(i)),
        truncated: array![false, false, false, false],
        media: MediaKind::Video,
    };
    // The right completions look at the last frame when they say "stops" and "late", the wrong ones at the first.
    let mut attention = Array3::from_elem((completions, width, frames), 0.05);
    attention.slice_mut(s![0, 2..4, 2]).assign(&array![0.6, 0.4]);
    attention.slice_mut(s![1, 1..3, 2]).assign(&array![0.5, 0.45]);
    attention.slice_mut(s![2..4, ..2, 0]).fill(0.3);
    // The later the word, the surer each completion is of its own.
    let logits =
        Array3::from_shape_fn((completions, width, vocabulary), |(i, t, v)| if i == v { t as f32 } else { 0.0 });

    let distributions = RecordedDistributions::new(logits, &group.mask)?;
    let seen = Observations {
        frame_attention: Some(attention),
        distributions: Some(&distributions),
        ..Observations::default()
    };
    let appo = Appo::new(Settings { k1: 2, k2: 1, k3: 2, ..Settings::default() })?;
    let credit = appo.credit(&group, &seen)?;

    println!("advantage   token weights (* = perception token)");
    for (i, words) in WORDS.iter().enumerate() {
        let weighted: Vec<_> = words
            .iter()
            .enumerate()
            .map(|(t, word)| {
                let star = if credit.selected[[i, t]] { "*" } else { "" };
                format!("{word}{star} {:.2}", credit.weights[[i, t]])
            })
            .collect();
        println!("{:+9.3}   {}", credit.advantages[i], weighted.join("  "));
    }
    for (name, value) in credit.details.iter().filter(|(_, value)| value.ndim() < 2) {
        println!("{name}: {value}");
    }
    Ok(())
}
