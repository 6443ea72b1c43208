//! Teacher-forced passes over groups: each prompt is computed once and its completions stand packed behind it.

use foveate_algo::Layers;
use tch::{Kind, Tensor};

use crate::{
    PolicyError,
    input::{Completions, Encoded},
    model::Vlm,
    qwen::{
        Recompute,
        frames::FrameProbe,
        pack::{GroupRows, Pack},
        rope::Rope,
        tape::Tape,
        text::Wanted,
    },
};

/// A prompt and completions of it, one of those that a pass takes together. The same completions may stand behind
/// several prompts, such as one whose video was altered.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The prompt, made ready.
    pub prompt: &'a Encoded,
    /// What follows it.
    pub completions: &'a Completions,
}

/// What a teacher-forced pass gives for one group.
#[derive(Debug)]
pub struct GroupForward {
    /// Hidden state that predicts token t of completion g, `[G, T, D]`; 0 in the padding.
    pub hidden: Tensor,
    /// Attention mass of that position on each frame, mean over heads, by chosen layer: `[L, G, T, F]` f32; 0 in the
    /// padding.
    pub frame_attention: Option<Tensor>,
}

/// A pass with gradients that is half done: its hidden states are there, and the gradient at them is waited for.
#[derive(Debug)]
pub struct TrainingPass<'a> {
    tape: Tape<'a>,
}

impl TrainingPass<'_> {
    /// Hidden states that predict the tokens, segment by segment and completion by completion, `[R, D]`; constants.
    pub fn hidden(&self) -> Tensor {
        self.tape.hidden()
    }

    /// Adds the gradients of all trainable parameters but the head's, given that at the hidden states `[R, D]`.
    pub fn backward(self, at_hidden: &Tensor) {
        self.tape.backward(at_hidden);
    }
}

impl Vlm {
    /// The teacher-forced pass without gradients. Frame attention of the `capture` layers is measured on the way if
    /// asked for (0 frames without a video).
    ///
    /// # Errors
    /// [`PolicyError::Prompt`] if a completion token is outside the vocabulary.
    pub fn forward(&self, segments: &[Segment<'_>], capture: Option<Layers>) -> Result<Vec<GroupForward>, PolicyError> {
        let pack = self.pack(segments)?;
        let probe =
            |(segment, group): (&Segment<'_>, &GroupRows)| self.probe(segment.prompt, &group.predicting, capture);
        let probes: Vec<_> = segments.iter().zip(&pack.groups).map(probe).collect();
        let probed: Vec<_> = probes.iter().map(Option::is_some).collect();
        let wanted = Wanted {
            frames: if probed.contains(&true) { probes } else { Vec::new() },
            frame_layers: capture.map_or(0, |layers| self.text.count(layers)),
            keys_values: false,
        };
        let (x, rope) = tch::no_grad(|| self.rows(segments));
        let (hidden, taps) = self.text.forward(x, &rope, &pack, &wanted);
        let counts: Vec<i64> = segments.iter().map(|segment| segment.completions.lengths().iter().sum()).collect();
        let taps_layers = wanted.frame_layers as i64;
        let mut tapped = 0;
        let parts = hidden.split_with_sizes(&counts, 0).into_iter().zip(segments).zip(probed);
        let groups = parts.map(|((hidden, segment), probed)| {
            let completions = segment.completions;
            let frame_attention = capture.map(|_| {
                let layers =
                    taps.frame_attention.iter().filter(|_| probed).map(|groups| completions.padded(&groups[tapped]));
                let layers: Vec<_> = layers.collect();
                if layers.is_empty() {
                    let shape = [taps_layers, completions.count(), completions.length(), segment.prompt.frames];
                    return Tensor::zeros(shape, (Kind::Float, self.device()));
                }
                Tensor::stack(&layers, 0)
            });
            tapped += usize::from(probed);
            GroupForward { hidden: completions.padded(&hidden), frame_attention }
        });
        Ok(groups.collect())
    }

    /// The same with gradients, which [`TrainingPass::backward`] completes.
    ///
    /// # Errors
    /// [`PolicyError::Prompt`] if a completion token is outside the vocabulary.
    pub fn training_pass(
        &self,
        segments: &[Segment<'_>],
        recompute: Recompute,
    ) -> Result<TrainingPass<'_>, PolicyError> {
        let pack = self.pack(segments)?;
        let (x, rope) = self.rows(segments);
        Ok(TrainingPass { tape: Tape::record(&self.text, x, rope, pack, recompute) })
    }

    fn pack(&self, segments: &[Segment<'_>]) -> Result<Pack, PolicyError> {
        let vocab = self.config().text.vocab_size;
        let lengths = segments.iter().map(|Segment { prompt, completions }| {
            if completions.lengths().is_empty() || completions.lengths().contains(&0) {
                return Err(PolicyError::Prompt("expected completions of at least one token each".into()));
            }
            let ids = completions.ids();
            if ids.min().int64_value(&[]) < 0 || ids.max().int64_value(&[]) >= vocab {
                return Err(PolicyError::Prompt(format!("expected completion tokens below the vocabulary of {vocab}")));
            }
            Ok((prompt.tokens() as i64, completions.lengths().to_vec()))
        });
        Ok(Pack::new(&lengths.collect::<Result<Vec<_>, _>>()?, self.device()))
    }

    /// Embeddings `[N, D]` and rotations of a pack's rows.
    fn rows(&self, segments: &[Segment<'_>]) -> (Tensor, Rope) {
        let (mut embedded, mut positions) = (Vec::new(), Vec::new());
        for Segment { prompt, completions } in segments {
            let [ids, distance] = completions.followed();
            embedded.extend([self.embed_prompt(prompt), self.text.embed(&ids)]);
            let after = distance + prompt.next_position;
            positions.extend([prompt.positions.shallow_clone(), after.unsqueeze(0).expand([3, -1], false)]);
        }
        (Tensor::cat(&embedded, 0), self.rope(&Tensor::cat(&positions, 1)))
    }

    /// What frame attention of these rows of a group (prompt, then completions) takes; `None` if nothing is to be
    /// captured or there is no video.
    pub(crate) fn probe(&self, prompt: &Encoded, rows: &[i64], capture: Option<Layers>) -> Option<FrameProbe> {
        capture?;
        if prompt.video_rows.is_empty() {
            return None;
        }
        let device = self.device();
        let columns = Tensor::from_slice(&prompt.video_rows).to_device(device);
        let frames =
            Tensor::from_slice(&prompt.video_frames).to_device(device).one_hot(prompt.frames).to_kind(Kind::Float);
        let last = prompt.video_rows.last().copied().unwrap_or(0);
        let behind = rows.iter().all(|row| *row >= last);
        let rows = Tensor::from_slice(rows).to_device(device);
        let hidden = (!behind).then(|| columns.unsqueeze(0).gt_tensor(&rows.unsqueeze(1)));
        Some(FrameProbe { rows, columns, frames, hidden })
    }
}
