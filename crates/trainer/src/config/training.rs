//! What is done with it: sampling, optimisation, runs and evaluations.
//!
//! "APPO" is arXiv 2602.23823 and its supplement.

use std::path::PathBuf;

use foveate_policy::{AdamWOptions, Observe, Precision, Recompute, SamplingParams};
use serde::{Deserialize, Serialize};

use super::{FramesTable, PixelsTable};

/// `[rollout]`: how completions are sampled for training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutTable {
    /// Completions per prompt, G (all papers: 8).
    pub completions: usize,
    /// Prompts per step (APPO: 16).
    pub prompts_per_step: usize,
    /// Longest completion, in tokens (APPO: 512).
    pub max_new_tokens: usize,
    /// Softmax temperature; 0 is greedy (APPO: 1).
    pub temperature: f64,
    /// Nucleus: the smallest set of tokens with this share of the probability, of those that `top_k` leaves; 1 is all
    /// (APPO: 1).
    pub top_p: f64,
    /// The likeliest tokens sampling is restricted to; 0 is all.
    pub top_k: usize,
    /// Most completions drawn at a time, a single prompt's aside; 0: the whole step's. When all of a prompt have ended those
    /// of the next take their places. It bounds the memory of keys and values and, but for rounding, changes no token.
    pub max_rows: usize,
}

impl RolloutTable {
    /// How training draws completions, and what of them is kept meanwhile.
    pub fn sampling(&self, observe: Observe) -> SamplingParams {
        SamplingParams {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            repetition_penalty: 1.0,
            max_rows: self.max_rows,
            observe,
        }
    }
}

impl Default for RolloutTable {
    fn default() -> Self {
        Self {
            completions: 8,
            prompts_per_step: 16,
            max_new_tokens: 512,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            max_rows: 0,
        }
    }
}

/// `[optim]`: AdamW and its schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimTable {
    /// Peak learning rate (APPO: 1e-6).
    pub lr: f64,
    /// Decay rates of the first and second moment (PyTorch's).
    pub betas: [f64; 2],
    /// Added to the denominator (PyTorch's).
    pub eps: f64,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f64,
    /// What is kept in f32 behind bfloat16 weights: "float32" (master weights, moments, sums of gradients; 20 bytes per
    /// trained weight, itself and its gradient included), "master" (master weights and moments; 16) or "weights"
    /// (nothing; 8).
    pub precision: Precision,
    /// Steps over which the learning rate rises from 0 to its peak (APPO: none).
    pub warmup_steps: u64,
    /// Course of the learning rate after the warm-up.
    pub schedule: Schedule,
    /// Largest gradient norm, over all parameters; 0: not clipped.
    pub grad_clip: f64,
    /// Times that each rollout is gone through (all papers: 1). From the second optimizer step on, the importance ratio
    /// moves and clipping can bind.
    pub updates_per_rollout: usize,
    /// Optimizer steps of each time, on as many parts of the step's groups (all papers: 1).
    pub minibatches: usize,
    /// Most tokens of a pass through the policy, prompts included; 0: the whole step in one. Groups are packed up to it,
    /// and one that is larger is split between completions. Gradients add up, so this changes memory and time only.
    pub pass_tokens: usize,
    /// What a backward pass computes again instead of keeping it: "nothing" or "layers", which takes a third more time
    /// and a small part of the memory.
    pub recompute: Recompute,
}

impl Default for OptimTable {
    fn default() -> Self {
        Self {
            lr: 1e-6,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            precision: Precision::Float32,
            warmup_steps: 0,
            schedule: Schedule::Constant,
            grad_clip: 1.0,
            updates_per_rollout: 1,
            minibatches: 1,
            pass_tokens: 16384,
            recompute: Recompute::Nothing,
        }
    }
}

impl OptimTable {
    /// The optimizer's fixed settings.
    pub fn adamw(&self) -> AdamWOptions {
        AdamWOptions { betas: self.betas, eps: self.eps, weight_decay: self.weight_decay, precision: self.precision }
    }
}

/// Course of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// The peak to the end.
    Constant,
    /// In a straight line to 0 at the last step.
    Linear,
    /// Half a cosine to 0 at the last step.
    Cosine,
}

/// `[run]`: how long, from which seed, and what is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunTable {
    /// What the run is called in messages and its folder's name; by default the algorithm's name.
    pub name: Option<String>,
    /// What `--algo` called the algorithm, which is written here.
    pub algorithm: Option<String>,
    /// Training steps (TW-GRPO: 500).
    pub steps: u64,
    /// The seed that all randomness flows from.
    pub seed: u64,
    /// Steps between checkpoints; 0: only the last step's.
    pub save_every: u64,
    /// Checkpoints kept, the newest ones; 0: all.
    pub keep: usize,
    /// Steps between kept rollouts (`rollouts/step-N`, read by `explain`); 0: none.
    pub save_rollouts: u64,
    /// What of a kept rollout is written.
    pub rollout_contents: RolloutContents,
    /// Folder that new runs are made in, unless `--output` names the run's own.
    pub output: PathBuf,
}

impl Default for RunTable {
    fn default() -> Self {
        Self {
            name: None,
            algorithm: None,
            steps: 500,
            seed: 0,
            save_every: 50,
            keep: 2,
            save_rollouts: 0,
            rollout_contents: RolloutContents::Scores,
            output: "runs".into(),
        }
    }
}

/// What of a kept rollout is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutContents {
    /// Values per token and per frame.
    Scores,
    /// Those and the logits `[G, T, V]`, which are large.
    Logits,
}

/// `[eval]`: how the policy is evaluated on `data.test`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalTable {
    /// Whether the policy is evaluated before the first and after the last step, which gives the final table.
    pub at_ends: bool,
    /// Steps between further evaluations; 0: none.
    pub every: u64,
    /// Examples evaluated, the first ones of the file; 0: all.
    pub limit: usize,
    /// Prompts computed together.
    pub batch: usize,
    /// Longest completion, in tokens; 0: `rollout.max_new_tokens`.
    pub max_new_tokens: usize,
    /// Softmax temperature; 0 is greedy, which is what the papers' low temperature with top-k 1 comes to.
    pub temperature: f64,
    /// Nucleus; 1 is all.
    pub top_p: f64,
    /// The likeliest tokens sampling is restricted to; 0 is all.
    pub top_k: usize,
    /// What the logits of tokens that were seen are lowered by; 1 is nothing (APPO: 1.05).
    pub repetition_penalty: f64,
    /// Frames of a video; what is not stated is as in `data.frames`.
    pub frames: FramesTable,
    /// Pixels of a frame; what is not stated is as in `data.pixels`.
    pub pixels: PixelsTable,
}

impl Default for EvalTable {
    fn default() -> Self {
        Self {
            at_ends: true,
            every: 0,
            limit: 0,
            batch: 16,
            max_new_tokens: 0,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
            frames: FramesTable::default(),
            pixels: PixelsTable::default(),
        }
    }
}

impl EvalTable {
    /// The table without what leaves the answers as they are: when they are asked for, and how many at a time.
    pub(crate) fn protocol(&self) -> Self {
        Self { at_ends: true, every: 0, batch: 0, ..self.clone() }
    }
}

/// `[sft]`: the supervised warm start (`trainer sft`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftTable {
    /// Examples per optimizer step.
    pub batch: usize,
    /// What is learnt.
    pub objective: SftObjective,
    /// Labels of the video tokens, with `objective = "cells"`: what `data scenes` writes beside the records.
    pub cells: Option<PathBuf>,
    /// Fewest and most frames of a set, with `objective = "frames"`.
    pub frames: [usize; 2],
    /// Share of the sets that are given a frame of the event, where the data says when it happens; the others hold what the
    /// draw gives.
    pub event_share: f64,
}

impl Default for SftTable {
    fn default() -> Self {
        Self { batch: 32, objective: SftObjective::Completion, cells: None, frames: [1, 32], event_share: 0.0 }
    }
}

/// What supervised training learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SftObjective {
    /// The records' targets, after their prompts.
    Completion,
    /// What each video token shows, through heads that are thrown away afterwards.
    Cells,
    /// The right option's letter, from single frames of the video, as many as the draw gives and whichever: what scores
    /// sets of frames (`[scorer]`) must be able to do.
    Frames,
}

/// `[scorer]`: how a frozen model is asked about a set of frames (ReFoCUS, arXiv 2506.01274).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScorerTable {
    /// The frozen model, a Hugging Face directory of a Qwen2.5-VL model; by default that of `model.path`.
    pub path: Option<PathBuf>,
    /// How the question is put: a prompt's name or a .toml file, as for `data.prompt`.
    pub prompt: String,
    /// What stands before each frame, `{n}` being its number, and with a line end after it if there is such a label.
    pub frame_label: String,
    /// What the answer begins with; the option's letter would come next.
    pub answer_prefix: String,
}

impl Default for ScorerTable {
    fn default() -> Self {
        Self { path: None, prompt: "refocus".into(), frame_label: "Frame{n}: ".into(), answer_prefix: "Answer:".into() }
    }
}

/// `[selector]`: the policy that picks frames (ReFoCUS, arXiv 2506.01274, B.2 and table 5). A new one gets the vision tower
/// of `model.path`; if that is a selector's directory, it is trained further.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelectorTable {
    /// Directory of a Mamba-2 or Qwen2.5-VL model that a new selector reads frames and question with; by default the text
    /// decoder of `model.path`.
    pub backbone: Option<PathBuf>,
    /// Whether the backbone begins with that model's weights; else it begins at random.
    pub pretrained: bool,
    /// Neighbouring tokens of a frame that are averaged into one, on each side.
    pub pool: i64,
    /// What stands after the frames: a prompt's name or a .toml file, as for `data.prompt`. Its system message stands
    /// before them.
    pub prompt: String,
    /// Frames of a set, T'. Several are a curriculum: one after the other, each for an equal part of the run.
    pub picks: Vec<usize>,
    /// What `optim.lr`, the backbone's learning rate, is multiplied by for the selector's own heads.
    pub head_lr_scale: f64,
}

impl SelectorTable {
    /// Frames of a set in a step, counted from 1, of a run of `steps` steps.
    pub fn picks_at(&self, step: u64, steps: u64) -> usize {
        let stages = self.picks.len() as u64;
        let stage = step.saturating_sub(1) * stages / steps.max(1);
        self.picks.get(stage.min(stages.saturating_sub(1)) as usize).copied().unwrap_or_default()
    }

    /// Frames of a set where selectors are evaluated: those of the last stage.
    pub fn last_picks(&self) -> usize {
        self.picks.last().copied().unwrap_or_default()
    }
}

impl Default for SelectorTable {
    fn default() -> Self {
        Self {
            backbone: None,
            pretrained: true,
            pool: 2,
            prompt: "question".into(),
            picks: vec![32],
            head_lr_scale: 10.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curriculum_gives_every_number_of_picks_an_equal_part_of_the_run() {
        let table = SelectorTable { picks: vec![4, 8, 16], ..SelectorTable::default() };
        let picks: Vec<_> = (1..=9).map(|step| table.picks_at(step, 9)).collect();
        assert_eq!(picks, [4, 4, 4, 8, 8, 8, 16, 16, 16]);
        assert_eq!((table.picks_at(12, 9), table.last_picks()), (16, 16));
        assert_eq!(SelectorTable::default().picks_at(1, 500), 32);
    }
}
