//! Does the policy look where the event is? Attention mass and rank statistic over a video's frames.

use ndarray::{ArrayView1, ArrayView2, Axis};

use serde::{Deserialize, Serialize};

/// How a completion's attention stands to the frames of the event.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EventAttention {
    /// Share of the attention to frames that falls on the event's frames.
    pub mass: f64,
    /// The event's share of the frames: what the mass would be if every frame had the same attention.
    pub uniform: f64,
    /// Probability that a frame of the event has more attention than another frame, ties counting half; 0.5 if blind.
    pub auc: f64,
}

impl EventAttention {
    /// The mean of several; `None` of none.
    pub fn mean(seen: &[Self]) -> Option<Self> {
        let of = |value: fn(&Self) -> f64| seen.iter().map(value).sum::<f64>() / seen.len() as f64;
        (!seen.is_empty()).then(|| Self {
            mass: of(|event| event.mass),
            uniform: of(|event| event.uniform),
            auc: of(|event| event.auc),
        })
    }
}

/// Mass and AUC of a completion's frame attention `[T, F]`, averaged over tokens first, given which of the `F` frames
/// belong to the event.
///
/// `None` when there is nothing to tell apart: no token, no attention, no event, or nothing but the event.
pub fn event_attention(attention: ArrayView2<'_, f32>, event: &[bool]) -> Option<EventAttention> {
    let per_frame = attention.mapv(f64::from).mean_axis(Axis(0))?; // [F]
    let total = per_frame.sum();
    if per_frame.len() != event.len() || total <= 0.0 {
        return None;
    }
    let auc = auc(per_frame.view(), event)?;
    let on_event: f64 = per_frame.iter().zip(event).filter(|(_, inside)| **inside).map(|(value, _)| value).sum();
    let uniform = event.iter().filter(|inside| **inside).count() as f64 / event.len() as f64;
    Some(EventAttention { mass: on_event / total, uniform, auc })
}

/// Area under the ROC curve of `scores` for `positive`: the Mann-Whitney statistic, ties counting half.
///
/// `None` if all or none are positive.
pub fn auc(scores: ArrayView1<'_, f64>, positive: &[bool]) -> Option<f64> {
    let of = |wanted: bool| scores.iter().zip(positive).filter(move |(_, is)| **is == wanted).map(|(score, _)| *score);
    let mut won = 0.0;
    let mut pairs = 0usize;
    for inside in of(true) {
        for outside in of(false) {
            pairs += 1;
            won += match inside.total_cmp(&outside) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
        }
    }
    (pairs > 0).then(|| won / pairs as f64)
}

/// Standard deviation with divisor n - 1; exactly 0 of equal values, of one and of none.
pub fn sample_deviation(values: &[f64]) -> f64 {
    if values.iter().all(|value| *value == values[0]) {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// Seconds that time stamps may be off by.
const ROUNDING: f64 = 1e-6;

/// Which temporal grids of a video hold a frame inside one of the event's spans.
///
/// `times` are those of the sampled frames, in seconds; `grids` of them are made by merging neighbours, the last frame
/// standing in for missing ones. Spans are in seconds, their ends left out.
pub fn event_frames(times: &[f64], grids: usize, spans: &[[f64; 2]]) -> Vec<bool> {
    let merged = times.len().div_ceil(grids.max(1)).max(1);
    // A frame at a span's very end shows what comes after it; a span without length is the frame at its time.
    let within = |time: f64, start: f64, end: f64| {
        time > start - ROUNDING && (time < end - ROUNDING || (end <= start && time < start + ROUNDING))
    };
    let inside = |time: &f64| spans.iter().any(|[start, end]| within(*time, *start, *end));
    let mut event: Vec<bool> = times.chunks(merged).map(|grid| grid.iter().any(inside)).collect();
    event.resize(grids, false);
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{array, aview1};

    #[test]
    fn a_policy_that_looks_only_at_the_event_has_all_mass_and_auc_one() {
        let attention = array![[0.0f32, 0.3, 0.0], [0.0, 0.5, 0.0]];
        let seen = event_attention(attention.view(), &[false, true, false]).unwrap();
        assert_eq!(seen, EventAttention { mass: 1.0, uniform: 1.0 / 3.0, auc: 1.0 });
    }

    #[test]
    fn uniform_attention_has_the_share_of_frames_and_auc_one_half() {
        let attention = array![[0.25f32, 0.25, 0.25, 0.25]];
        let seen = event_attention(attention.view(), &[true, false, false, false]).unwrap();
        assert_eq!(seen, EventAttention { mass: 0.25, uniform: 0.25, auc: 0.5 });
    }

    #[test]
    fn ties_count_half_in_the_auc() {
        // Pairs: (2 > 1), (2 = 2), (3 > 1), (3 > 2) = 3.5 of 4.
        let scores = aview1(&[1.0, 2.0, 2.0, 3.0]);
        assert_eq!(auc(scores, &[false, false, true, true]), Some(0.875));
        assert_eq!(auc(scores, &[true; 4]), None);
    }

    #[test]
    fn a_deviation_has_divisor_n_minus_1_and_is_exactly_0_of_equal_values() {
        assert_eq!(sample_deviation(&[1.0, 2.0, 3.0]), 1.0);
        assert_eq!([&[0.1; 3][..], &[5.0], &[]].map(sample_deviation), [0.0; 3]);
    }

    #[test]
    fn a_grid_belongs_to_the_event_if_one_of_its_frames_does() {
        let times = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let event = event_frames(&times, 4, &[[2.5, 3.5], [6.0, 9.0]]);
        assert_eq!(event, [false, true, false, true]);
    }

    #[test]
    fn the_frames_of_a_scene_are_those_it_names() {
        use foveate_video::scenes::{FPS, FRAMES, GRIDS, KindWeights, SceneSpec, Split};
        let times: Vec<f64> = (0..FRAMES).map(|frame| frame as f64 / FPS as f64).collect();
        let spec = SceneSpec { seed: 3, count: 100, split: Split::Test, kinds: KindWeights::default() };
        for scene in (0..spec.count).map(|index| spec.scene(index)) {
            let event = event_frames(&times, GRIDS, &scene.spans);
            let found: Vec<usize> = (0..GRIDS).filter(|grid| event[*grid]).collect();
            assert_eq!(found, scene.grids, "{}", scene.id);
        }
    }

    #[test]
    fn nothing_is_said_without_an_event_or_attention() {
        let none = array![[0.0f32, 0.0]];
        assert_eq!(event_attention(none.view(), &[true, false]), None);
        let some = array![[0.5f32, 0.5]];
        assert_eq!(event_attention(some.view(), &[false, false]), None);
    }
}
