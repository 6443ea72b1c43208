//! Random groups with all that an algorithm may look at.

use foveate_algo::{
    Algorithm, Counterfactual, Credit, GroupShape, MediaKind, Observations, RecordedDistributions, ScoredGroup, factors,
};
use ndarray::{Array1, Array2, Array3, Axis, s};
use proptest::prelude::*;

const FRAMES: usize = 5;
const VOCABULARY: usize = 6;

/// A group with all that an algorithm may look at.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) group: ScoredGroup,
    pub(crate) attention: Array3<f32>,
    pub(crate) logits: Array3<f32>,
    pub(crate) changed_logits: [Array3<f32>; 2], // masked, reordered
    pub(crate) logprobs: [Array2<f32>; 3],       // sampling, masked, reordered
    pub(crate) contrast: Array1<f32>,
}

impl Case {
    pub(crate) fn credit(&self, algorithm: &dyn Algorithm) -> Credit {
        self.try_credit(algorithm).unwrap()
    }

    pub(crate) fn try_credit(&self, algorithm: &dyn Algorithm) -> Result<Credit, foveate_algo::AlgoError> {
        let [masked, reordered] = self.changed_logits.clone();
        let distributions = RecordedDistributions::new(self.logits.clone(), &self.group.mask)
            .and_then(|group| group.with(Counterfactual::Masked, masked))
            .and_then(|group| group.with(Counterfactual::Reordered, reordered))?;
        let [sampling, masked, reordered] = self.logprobs.clone();
        let seen = Observations {
            frame_attention: Some(self.attention.clone()),
            distributions: Some(&distributions),
            entropy: Some(self.entropy()),
            sampling_logprobs: Some(sampling),
            masked_logprobs: Some(masked),
            reordered_logprobs: Some(reordered),
            contrast_accuracy: Some(self.contrast.clone()),
        };
        algorithm.credit(&self.group, &seen)
    }

    /// Not the entropy of the logits, which no test minds.
    fn entropy(&self) -> Array2<f32> {
        self.logits.sum_axis(Axis(2)).mapv(f32::abs)
    }

    /// How much each token's loss counts, `[G, T]`, in a step of this group alone.
    pub(crate) fn factors(&self, algorithm: &dyn Algorithm) -> Array2<f32> {
        factors(&algorithm.objective(), &[GroupShape::of(&self.group, &self.credit(algorithm))]).remove(0)
    }

    pub(crate) fn longest(&self) -> usize {
        self.group.lengths().unwrap().into_iter().max().unwrap()
    }

    /// The case with its completions in this order.
    pub(crate) fn ordered(&self, order: &[usize]) -> Self {
        Self {
            group: ScoredGroup {
                rewards: self.group.rewards.select(Axis(0), order),
                accuracy: self.group.accuracy.select(Axis(0), order),
                mask: self.group.mask.select(Axis(0), order),
                truncated: self.group.truncated.select(Axis(0), order),
                media: self.group.media,
            },
            attention: self.attention.select(Axis(0), order),
            logits: self.logits.select(Axis(0), order),
            changed_logits: self.changed_logits.each_ref().map(|logits| logits.select(Axis(0), order)),
            logprobs: self.logprobs.each_ref().map(|logprobs| logprobs.select(Axis(0), order)),
            contrast: self.contrast.clone(),
        }
    }

    /// The case with so many more columns of padding, filled with NaN.
    pub(crate) fn padded(&self, columns: usize) -> Self {
        let width = self.group.mask.ncols() + columns;
        let cube = |array: &Array3<f32>| resized(array, width);
        let matrix = |array: &Array2<f32>| resized(&array.clone().insert_axis(Axis(2)), width).remove_axis(Axis(2));
        let mask = self.group.mask.mapv(|token| f32::from(u8::from(token)));
        Self {
            group: ScoredGroup { mask: matrix(&mask).mapv(|token| token == 1.0), ..self.group.clone() },
            attention: cube(&self.attention),
            logits: cube(&self.logits),
            changed_logits: self.changed_logits.each_ref().map(cube),
            logprobs: self.logprobs.each_ref().map(matrix),
            contrast: self.contrast.clone(),
        }
    }

    /// So many copies of the first completion, without padding.
    pub(crate) fn copies(&self, count: usize) -> Self {
        let copied = self.ordered(&vec![0; count]);
        let longest = copied.longest();
        let cube = |array: &Array3<f32>| array.slice(s![.., ..longest, ..]).to_owned();
        let matrix = |array: &Array2<f32>| array.slice(s![.., ..longest]).to_owned();
        Self {
            group: ScoredGroup { mask: copied.group.mask.slice(s![.., ..longest]).to_owned(), ..copied.group },
            attention: cube(&copied.attention),
            logits: cube(&copied.logits),
            changed_logits: copied.changed_logits.each_ref().map(cube),
            logprobs: copied.logprobs.each_ref().map(matrix),
            contrast: copied.contrast,
        }
    }
}

/// The array with its second axis so long, NaN where there was nothing.
fn resized(array: &Array3<f32>, width: usize) -> Array3<f32> {
    let (g, t, last) = array.dim();
    let mut wider = Array3::from_elem((g, width, last), f32::NAN);
    wider.slice_mut(s![.., ..t, ..]).assign(array);
    wider
}

/// Groups of 1 to 5 completions of 1 to 7 tokens; the longest fills the width.
pub(crate) fn case() -> impl Strategy<Value = Case> {
    prop::collection::vec(1..8_usize, 1..6).prop_flat_map(|lengths| {
        let (count, width) = (lengths.len(), lengths.iter().copied().max().unwrap_or(1));
        let numbers = |size, low: f32, high: f32| prop::collection::vec(low..high, size);
        (
            prop::collection::vec(prop::sample::select(vec![0.0_f32, 0.4, 0.5, 1.0]), count),
            numbers(count * width * FRAMES, 0.0, 0.3),
            prop::collection::vec(numbers(count * width * VOCABULARY, -4.0, 4.0), 3),
            prop::collection::vec(numbers(count * width, -5.0, 0.0), 3),
            prop::collection::vec(prop::sample::select(vec![0.0_f32, 0.5, 1.0]), count / 2),
        )
            .prop_map(move |(accuracy, attention, logits, logprobs, contrast)| {
                let accuracy = Array1::from(accuracy);
                let cube =
                    |values: &Vec<f32>| Array3::from_shape_vec((count, width, VOCABULARY), values.clone()).unwrap();
                Case {
                    group: ScoredGroup {
                        rewards: &accuracy * 0.9 + 0.05,
                        accuracy,
                        mask: Array2::from_shape_fn((count, width), |(i, t)| t < lengths[i]),
                        truncated: Array1::from_elem(count, false),
                        media: MediaKind::Video,
                    },
                    attention: Array3::from_shape_vec((count, width, FRAMES), attention).unwrap(),
                    logits: cube(&logits[0]),
                    changed_logits: [1, 2].map(|changed| cube(&logits[changed])),
                    logprobs: [0, 1, 2]
                        .map(|which| Array2::from_shape_vec((count, width), logprobs[which].clone()).unwrap()),
                    contrast: Array1::from(contrast),
                }
            })
    })
}

pub(crate) fn close(a: f32, b: f32, tolerance: f32) -> bool {
    (a - b).abs() <= tolerance
}
