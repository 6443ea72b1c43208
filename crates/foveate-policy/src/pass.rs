//! Teacher-forced passes over groups: each prompt is computed once and its completions stand packed behind it.

use foveate_algo::Layers;
use tch::{Kind, Tensor};

use crate::{
    PolicyError,
    head::{Head, ScoreGradients, TokenScores},
    input::{Completions, Encoded},
    model::Vlm,
    qwen::{
        Recompute,
        frames::{FrameProbe, Run},
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

/// A pass with gradients that is half done: its hidden states are there, and the gradient at its scores is waited for.
/// Its R tokens stand segment by segment and completion by completion.
#[derive(Debug)]
pub struct TrainingPass<'a> {
    tape: Tape<'a>,
    tokens: Tensor,
    counts: Vec<i64>,
}

impl TrainingPass<'_> {
    /// The tokens that the pass predicts, `[R]` i64.
    pub fn tokens(&self) -> &Tensor {
        &self.tokens
    }

    /// Hidden states that predict the tokens, `[R, D]`; constants.
    pub fn hidden(&self) -> Tensor {
        self.tape.hidden()
    }

    /// Scores of the tokens, `[R]` each; constants.
    pub fn score(&self, head: &Head) -> TokenScores {
        head.score(&self.hidden(), &self.tokens)
    }

    /// Their log-probs alone, `[R]`; constants.
    pub fn logprobs(&self, head: &Head) -> Tensor {
        head.logprobs(&self.hidden(), &self.tokens)
    }

    /// Values `[R, ..]` of the tokens, segment by segment.
    pub fn split(&self, x: &Tensor) -> Vec<Tensor> {
        x.split_with_sizes(&self.counts, 0)
    }

    /// Adds the gradients of all trainable parameters, the head's included, given those at the scores.
    pub fn backward(self, head: &Head, at_scores: &ScoreGradients) {
        let at_hidden = head.backward(&self.hidden(), &self.tokens, at_scores);
        self.tape.backward(&at_hidden);
    }
}

/// Completion tokens of each segment.
fn token_counts(segments: &[Segment<'_>]) -> Vec<i64> {
    segments.iter().map(|segment| segment.completions.token_count()).collect()
}

impl Vlm {
    /// The teacher-forced pass without gradients. Frame attention of the `capture` layers is measured on the way if
    /// asked for (0 frames without a video); on a CPU it then goes another way, which rounds differently.
    ///
    /// # Errors
    /// [`PolicyError::Prompt`] if a completion token is outside the vocabulary; [`PolicyError::Torch`] if libtorch fails.
    pub fn forward(&self, segments: &[Segment<'_>], capture: Option<Layers>) -> Result<Vec<GroupForward>, PolicyError> {
        let pack = self.pack(segments)?;
        let probe =
            |(segment, group): (&Segment<'_>, &GroupRows)| self.probe(segment.prompt, &group.predicting, capture);
        let wanted = Wanted {
            frames: segments.iter().zip(&pack.groups).map(probe).collect(),
            frame_layers: capture.map_or(0, |layers| self.text.count(layers)),
            keys_values: false,
        };
        let (x, rope) = tch::no_grad(|| self.rows(segments));
        let (hidden, taps) = self.text.forward(x, &rope, &pack, &wanted)?;
        let parts = hidden.split_with_sizes(token_counts(segments), 0);
        let groups = segments.iter().zip(parts).enumerate().map(|(group, (segment, hidden))| {
            let completions = segment.completions;
            let frame_attention = capture.map(|_| {
                let shape = [wanted.frame_layers as i64, completions.token_count(), segment.prompt.frames];
                let nothing = || Tensor::zeros(shape, (Kind::Float, self.device()));
                let layers = taps.frames_of(group).unwrap_or_else(nothing);
                completions.padded(&layers.transpose(0, 1)).permute([2, 0, 1, 3]).contiguous()
            });
            GroupForward { hidden: completions.padded(&hidden), frame_attention }
        });
        Ok(groups.collect())
    }

    /// The same with gradients, which [`TrainingPass::backward`] completes.
    ///
    /// # Errors
    /// [`PolicyError::Prompt`] if a completion token is outside the vocabulary; [`PolicyError::Torch`] if libtorch fails.
    pub fn training_pass(
        &self,
        segments: &[Segment<'_>],
        recompute: Recompute,
    ) -> Result<TrainingPass<'_>, PolicyError> {
        let pack = self.pack(segments)?;
        let (x, rope) = self.rows(segments);
        let tokens = segments.iter().map(|segment| segment.completions.tokens()).collect::<Vec<_>>();
        Ok(TrainingPass {
            tape: Tape::record(&self.text, x, rope, pack, recompute)?,
            tokens: Tensor::cat(&tokens, 0),
            counts: token_counts(segments),
        })
    }

    fn pack(&self, segments: &[Segment<'_>]) -> Result<Pack, PolicyError> {
        let vocab = self.config().text.vocab_size;
        let lengths = segments.iter().map(|Segment { prompt, completions }| {
            if completions.lengths().is_empty() || completions.lengths().contains(&0) {
                return Err(PolicyError::Prompt("expected completions of at least one token each".into()));
            }
            if !completions.within(vocab) {
                return Err(PolicyError::Prompt(format!("expected completion tokens below the vocabulary of {vocab}")));
            }
            Ok((prompt.tokens() as i64, completions.lengths().to_vec()))
        });
        Ok(Pack::new(&lengths.collect::<Result<Vec<_>, _>>()?, self.device()))
    }

    /// Embeddings `[N, D]` and rotations of a pack's rows.
    fn rows(&self, segments: &[Segment<'_>]) -> (Tensor, Rope) {
        let (mut rows, mut positions) = (Vec::new(), Vec::new());
        for Segment { prompt, completions } in segments {
            let [ids, distance] = completions.followed();
            rows.push((*prompt, Some(ids)));
            let after = distance + prompt.next_position;
            positions.extend([prompt.positions.shallow_clone(), after.unsqueeze(0).expand([3, -1], false)]);
        }
        (self.embed(&rows), self.rope(&Tensor::cat(&positions, 1)))
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
        let first = rows.iter().copied().min().unwrap_or(0);
        let rows = Tensor::from_slice(rows).to_device(device);
        let length = FrameProbe::length(&prompt.video_frames, prompt.frames);
        let runs = Run::all(&prompt.video_rows, &prompt.video_frames);
        Some(FrameProbe { rows, first, columns, frames, length, runs, before: first < last })
    }
}
