//! Picking: N sets at once, a frame at a time, without gradients.

use tch::{Kind, Tensor, no_grad};

use super::{Candidates, Selector};
use crate::{
    PolicyError,
    backbone::expanded,
    sample::{GroupSeed, MIN_TEMPERATURE, Sampler, SamplingParams},
};

/// How sets are picked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PickParams {
    /// Sets, N.
    pub sets: usize,
    /// Frames of a set, T.
    pub picks: usize,
    /// What logits are divided by; 0 takes the likeliest frame.
    pub temperature: f64,
}

impl PickParams {
    /// # Errors
    /// [`PolicyError::Setting`]: no set or pick, more picks than frames, or a temperature that is too low.
    fn check(&self, frames: usize) -> Result<(), PolicyError> {
        let wrong = |what, expected: String, found: String| Err(PolicyError::Setting { what, expected, found });
        if self.sets == 0 {
            return wrong("sets", "at least 1".into(), "0".into());
        }
        if !(1..=frames).contains(&self.picks) {
            return wrong("picks", format!("1 to {frames}, the frames there are"), self.picks.to_string());
        }
        if self.temperature != 0.0 && !(MIN_TEMPERATURE..f64::MAX).contains(&self.temperature) {
            let expected = format!("0 or a number of at least {MIN_TEMPERATURE}");
            return wrong("temperature", expected, self.temperature.to_string());
        }
        Ok(())
    }

    /// What logits are divided by where a distribution is asked for: that of the plain logits for greedy picks.
    fn divisor(&self) -> f64 {
        if self.temperature > 0.0 { self.temperature } else { 1.0 }
    }
}

/// Sets of frames.
#[derive(Debug)]
pub struct Picks {
    /// Frames in the order in which they were picked, `[N, T]` i64.
    pub frames: Tensor,
    /// Logits that each was picked by, `[N, T, F]`; -inf where a frame was picked before.
    pub logits: Tensor,
    /// What logits were divided by.
    pub(super) temperature: f64,
}

impl Picks {
    /// Log-prob and entropy of every pick.
    pub fn scores(&self) -> PickScores {
        no_grad(|| PickScores::of(&self.logits, &self.frames))
    }
}

/// Log-probs of picks.
#[derive(Debug)]
pub struct PickScores {
    /// Log-prob of each pick, `[N, T]`.
    pub logprobs: Tensor,
    /// Entropy in nats of the distribution over the frames that were available, `[N, T]`.
    pub entropy: Tensor,
}

impl PickScores {
    /// From the logits `[N, T, F]`, -inf for frames that are not available, and the picks `[N, T]`.
    pub fn of(logits: &Tensor, picks: &Tensor) -> Self {
        let all = logits.log_softmax(-1, logits.kind());
        // What has no probability has no part in the entropy: 0 log 0 is 0.
        let finite = all.masked_fill(&logits.isneginf(), 0.0);
        Self {
            logprobs: all.gather(-1, &picks.unsqueeze(-1), false).squeeze_dim(-1),
            entropy: (all.exp() * -finite).sum_dim_intlist(-1, false, all.kind()),
        }
    }
}

impl Selector {
    /// Picks sets of frames, none of which holds a frame twice. The prompt is read once; its state is shared by all sets.
    ///
    /// # Errors
    /// [`PolicyError::Setting`] for more picks than frames or another setting out of range, [`PolicyError::NotFinite`]
    /// for logits that are no numbers.
    pub fn pick(&self, candidates: &Candidates, params: &PickParams, seed: GroupSeed) -> Result<Picks, PolicyError> {
        params.check(candidates.frames())?;
        let (positions, most) = ((candidates.positions() + params.picks - 1) as i64, self.backbone.most_positions());
        if positions > most {
            return Err(PolicyError::Prompt(format!("expected at most {most} positions, found {positions}")));
        }
        no_grad(|| {
            let (sets, frames) = (params.sets as i64, candidates.frames() as i64);
            let (embedded, ends) = self.embed(candidates);
            let mut states = self.backbone.empty(1);
            let read = self.backbone.forward(&embedded, &mut states).squeeze_dim(0); // [P, D]
            let mut states: Vec<_> = states.iter().map(|state| expanded(state, sets)).collect();
            let at_frames = read.index_select(0, &ends);
            let (keys, values) = (self.heads.key.forward(&at_frames), self.heads.value.forward(&at_frames));
            let uniform: Vec<f32> = (0..params.sets as u64).flat_map(|set| seed.uniforms(set, params.picks)).collect();
            let uniform = Tensor::from_slice(&uniform).view([sets, -1]).to_device(self.options.device);
            let sampling = SamplingParams { temperature: params.temperature, ..SamplingParams::greedy(1) };
            let mut sampler = Sampler::new(&sampling, self.options.device);

            let mut last = read.narrow(0, -1, 1).expand([sets, -1], false); // [N, D]
            let mut taken = Tensor::zeros([sets, frames], (Kind::Bool, self.options.device));
            let (mut logits, mut picked) = (Vec::new(), Vec::new());
            for turn in 0..params.picks as i64 {
                let these = self.heads.logits(&last, &keys, &taken, params.divisor());
                let frame = sampler.draw(&these, &uniform.select(1, turn)).ids.copy(); // [N]
                taken = taken.scatter_value(1, &frame.unsqueeze(1), 1);
                if turn + 1 < params.picks as i64 {
                    let next = values.index_select(0, &frame).unsqueeze(1);
                    last = self.backbone.forward(&next.to_kind(embedded.kind()), &mut states).squeeze_dim(1);
                }
                logits.push(these);
                picked.push(frame);
            }
            let logits = Tensor::stack(&logits, 1);
            let best = logits.amax([-1], false).sum(Kind::Double).double_value(&[]);
            if !best.is_finite() {
                return Err(PolicyError::NotFinite { what: "logit of a frame", value: best });
            }
            Ok(Picks { frames: Tensor::stack(&picked, 1), logits, temperature: params.divisor() })
        })
    }
}
