//! Teacher-forced scores of a whole sequence: what `trainer score` reports of each row.

use foveate_algo::Layers;
use tch::{Kind, Tensor, no_grad};

use crate::{
    PolicyError,
    head::Head,
    input::Prompt,
    model::Vlm,
    qwen::{pack::Pack, text::Wanted},
};

/// Scores of the chosen tokens of one sequence.
#[derive(Debug)]
pub struct RowScores {
    /// Log-prob of each chosen token, `[R]`.
    pub logprobs: Tensor,
    /// Entropy of the distribution it comes from, `[R]`.
    pub entropy: Tensor,
    /// Attention mass on each frame, mean over heads, by layer: `[L, R, F]`; `None` without a video.
    pub frame_attention: Option<Tensor>,
    /// Position ids of the whole sequence, `[3, S]` i64; `None` of a model without positions.
    pub positions: Option<Tensor>,
}

impl RowScores {
    /// An error if nothing predicts one of the chosen tokens of a sequence.
    pub(crate) fn check(length: usize, chosen: &[usize]) -> Result<(), PolicyError> {
        match chosen.iter().find(|index| **index == 0 || **index >= length) {
            None => Ok(()),
            Some(index) => Err(PolicyError::Prompt(format!(
                "expected completion tokens at 1 to {}, found one at {index}",
                length.saturating_sub(1)
            ))),
        }
    }
}

impl Vlm {
    /// Log-prob, entropy and frame attention of the tokens at `chosen` (indices into the sequence, each at least 1)
    /// under the model's plain distribution.
    ///
    /// # Errors
    /// [`PolicyError::Prompt`] as for [`Vlm::encode`], and for a chosen index that nothing predicts;
    /// [`PolicyError::Torch`] if libtorch fails.
    pub fn score(&self, sequence: &Prompt, chosen: &[usize], layers: Layers) -> Result<RowScores, PolicyError> {
        let length = sequence.ids.len();
        RowScores::check(length, chosen)?;
        let encoded = self.encode(sequence)?;
        let device = self.device();
        let rows: Vec<i64> = chosen.iter().map(|index| *index as i64 - 1).collect();
        let ids: Vec<i64> = chosen.iter().map(|index| sequence.ids[*index]).collect();
        let ids = Tensor::from_slice(&ids).to_device(device);
        let wanted = Wanted {
            frames: vec![self.probe(&encoded, &rows, Some(layers)).filter(|_| !rows.is_empty())],
            frame_layers: self.text.count(layers),
            keys_values: false,
        };
        no_grad(|| {
            let rope = self.rope(&encoded.positions);
            let pack = Pack::of_prompt(length as i64, rows, device);
            let (hidden, taps) = self.text.forward(self.embed(&[(&encoded, None)]), &rope, &pack, &wanted)?;
            let empty = || Tensor::zeros([0], (Kind::Float, device));
            let (logprobs, entropy) = if chosen.is_empty() {
                (empty(), empty())
            } else {
                let scores = Head::new(self.text.head(), 1.0, &[]).score(&hidden, &ids);
                (scores.logprobs, scores.entropy)
            };
            Ok(RowScores {
                logprobs,
                entropy,
                frame_attention: taps.frames_of(0),
                positions: Some(encoded.positions.shallow_clone()),
            })
        })
    }
}
