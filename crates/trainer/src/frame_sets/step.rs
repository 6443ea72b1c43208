//! One training step of a frame selector: sets are picked, rewarded, credited, and the selector is updated.

use std::path::Path;

use anyhow::{Context, Result};
use foveate_algo::{Algorithm, Credit, GroupShape, MediaKind, Objective, Observations, ScoredGroup, factors};
use foveate_data::letter;
use foveate_policy::{
    AdamW, Candidates, GroupSeed, PickParams, PickPass, PickScores, Picks, ScoreGradients, SurrogateInputs,
    surrogate_loss, write_safetensors,
};
use ndarray::{Array1, Array2};
use tch::{Kind, Tensor};

use super::{FrameScorer, Framed, Judged, Picker, passed_over, sets, temporal_entropy};
use crate::config::Config;
use crate::measure::{mean, optimization, rewards};
use crate::run::{LineOf, PickLine, StepMetrics};
use crate::schedule::learning_rate;
use crate::step::Clock;
use crate::update::{Sums, Updated, minibatches};

/// Everything that stays the same from step to step.
#[derive(Debug)]
pub struct PickStepper<'a> {
    /// The policy that is trained.
    pub picker: &'a Picker,
    /// What rewards its sets.
    pub scorer: &'a FrameScorer,
    /// How sets get their credit.
    pub algorithm: &'a dyn Algorithm,
    /// The run's configuration.
    pub config: &'a Config,
}

/// A question with the sets that were picked for it.
#[derive(Debug)]
struct PickGroup {
    /// Without its frames, which would fill the memory.
    framed: Framed,
    candidates: Candidates,
    picks: Picks,
    /// What they were picked by.
    sampled: PickScores,
    sets: Vec<Vec<usize>>,
    judged: Judged,
    scored: ScoredGroup,
    credit: Credit,
    /// Log-probs of the selector that picked, by the teacher-forced pass, `[N, T]`; of the first minibatch filled in by its
    /// first pass.
    old: Option<Tensor>,
}

/// A finished step.
#[derive(Debug)]
pub struct PickStepped {
    groups: Vec<PickGroup>,
    /// Questions that could not be put.
    left_out: usize,
    updated: Updated,
    seconds: Vec<(&'static str, f64)>,
}

impl PickStepper<'_> {
    /// Runs step number `step` on the questions that `supply` gives, one at a time; the groups are recorded in the folder
    /// `record`, if one is given. A question that cannot be put is left out, if bad examples are to be.
    ///
    /// # Errors
    /// Loss or gradient are not finite, or a question cannot be put or judged; the rest of the step is not done then.
    pub fn run(
        &self,
        step: u64,
        supply: &mut dyn FnMut(usize) -> Result<Vec<Framed>>,
        optimizer: &mut AdamW,
        record: Option<&Path>,
    ) -> Result<PickStepped> {
        let mut clock = Clock::default();
        let (mut groups, mut left_out) = (Vec::new(), 0);
        for number in 0..self.config.rollout.prompts_per_step as u64 {
            let Some(framed) = supply(1)?.pop() else { break };
            let id = format!("example {}", framed.example.id);
            let seed = GroupSeed { seed: self.config.run.seed, step, group: number };
            match self.group(framed, seed, &mut clock).context(id) {
                Ok(group) => groups.push(group),
                Err(error) => left_out += usize::from(passed_over(error, self.config.data.on_bad_example)?),
            }
        }
        let updated = clock.time("timing/update", || self.update(step, &mut groups, optimizer))?;
        if let Some(folder) = record {
            fs_err::create_dir_all(folder)?;
            for (index, group) in groups.iter().enumerate() {
                group.record(&folder.join(format!("group-{index}.safetensors")))?;
            }
        }
        Ok(PickStepped { groups, left_out, updated, seconds: clock.laps() })
    }

    /// SAMPLE, SCORE and CREDIT of one question. A video of fewer candidates than a set has picks gives all of them.
    fn group(&self, mut framed: Framed, seed: GroupSeed, clock: &mut Clock) -> Result<PickGroup> {
        let (rollout, run) = (&self.config.rollout, &self.config.run);
        let wanted = self.config.selector.picks_at(seed.step, run.steps);
        let params = PickParams {
            sets: rollout.completions,
            picks: wanted.min(framed.frames.len()),
            temperature: rollout.temperature,
        };
        let (candidates, picks) = clock.time("timing/sample", || {
            let candidates = self.picker.candidates(&framed)?;
            let picks = self.picker.selector().pick(&candidates, &params, seed)?;
            anyhow::Ok((candidates, picks))
        })?;
        let sets = sets(&picks.frames)?;
        let judged = clock.time("timing/reward", || self.scorer.judge(&framed, &sets))?;
        framed.frames = Vec::new();
        let scored = ScoredGroup {
            rewards: judged.rewards(),
            accuracy: judged.accuracy(),
            mask: Array2::from_elem((params.sets, params.picks), true),
            truncated: Array1::from_elem(params.sets, false),
            media: MediaKind::Video,
        };
        let credit = self.algorithm.credit(&scored, &Observations::default())?;
        let sampled = picks.scores();
        Ok(PickGroup { framed, candidates, picks, sampled, sets, judged, scored, credit, old: None })
    }

    /// UPDATE: `updates_per_rollout` times through the groups, each time in `minibatches` optimizer steps.
    fn update(&self, step: u64, groups: &mut [PickGroup], optimizer: &mut AdamW) -> Result<Updated> {
        let optim = &self.config.optim;
        let objective = self.algorithm.objective();
        let lr = learning_rate(optim, step, self.config.run.steps);
        let parts = minibatches(groups.len(), optim.minibatches);
        let shapes: Vec<_> = groups.iter().map(|group| GroupShape::of(&group.scored, &group.credit)).collect();
        let factors: Vec<_> = parts.iter().flat_map(|part| factors(&objective, &shapes[part.clone()])).collect();
        let (mut grad_norm, mut sums) = (0.0, Sums::default());
        for part in parts.iter().skip(1) {
            // By their turn the selector will have moved.
            for group in &mut groups[part.clone()] {
                let old = self.pass(group).scores().logprobs;
                sums.add_gap(&group.sampled.logprobs, &old, &group.mask());
                group.old = Some(old);
            }
        }
        let steps = (optim.updates_per_rollout * parts.len()) as f64;
        optimizer.zero_grad();
        for update in 0..optim.updates_per_rollout {
            for (number, part) in parts.iter().enumerate() {
                for (group, factors) in groups[part.clone()].iter_mut().zip(&factors[part.clone()]) {
                    let pass = self.pass(group);
                    let scores = pass.scores();
                    if update == 0 && number == 0 {
                        sums.add_gap(&group.sampled.logprobs, &scores.logprobs, &group.mask());
                    }
                    let gradients = group.loss(&objective, &scores, factors, &mut sums);
                    let gradients = gradients.with_context(|| format!("example {}", group.framed.example.id))?;
                    pass.backward(&gradients);
                    optimizer.accumulate();
                }
                grad_norm += optimizer.step(lr, optim.grad_clip)? / steps;
            }
        }
        Ok(Updated { learning_rate: lr, grad_norm, kl: None, ..sums.means(steps) })
    }

    fn pass(&self, group: &PickGroup) -> PickPass<'_> {
        self.picker.selector().training_pass(&group.candidates, &group.picks)
    }
}

impl PickGroup {
    /// Which picks there are: all.
    fn mask(&self) -> Tensor {
        self.picks.frames.ones_like().to_kind(Kind::Bool)
    }

    /// The loss of the group's picks and its gradient at their log-probs and entropies.
    fn loss(
        &mut self,
        objective: &Objective,
        scores: &PickScores,
        factors: &Array2<f32>,
        sums: &mut Sums,
    ) -> Result<ScoreGradients> {
        let mask = self.mask();
        let old = self.old.get_or_insert_with(|| scores.logprobs.copy()); // so the ratio is exactly 1
        let leaf = |x: &Tensor| x.copy().set_requires_grad(true);
        let (logprobs, entropy) = (leaf(&scores.logprobs), leaf(&scores.entropy));
        let device = logprobs.device();
        let surrogate = surrogate_loss(&SurrogateInputs {
            objective,
            logprobs: &logprobs,
            old_logprobs: old,
            ref_logprobs: None,
            entropy: (objective.entropy_coef != 0.0).then_some(&entropy),
            advantages: &Tensor::try_from(&self.credit.advantages)?.to_device(device),
            weights: &Tensor::try_from(&self.credit.weights)?.to_device(device),
            factors: &Tensor::try_from(factors)?.to_device(device),
            mask: &mask,
        });
        sums.add(&surrogate)?;
        surrogate.loss.backward();
        let gradient = |leaf: &Tensor| Some(leaf.grad()).filter(Tensor::defined);
        let at_logprobs = gradient(&logprobs).unwrap_or_else(|| logprobs.zeros_like());
        Ok(ScoreGradients { logprobs: at_logprobs, entropy: gradient(&entropy) })
    }

    /// Writes the group as `trainer explain --algo refocus` reads it.
    fn record(&self, path: &Path) -> Result<()> {
        let old = self.old.as_ref().unwrap_or(&self.sampled.logprobs);
        let tensors = [
            ("pick_logits", self.picks.logits.shallow_clone()),
            ("picks", self.picks.frames.shallow_clone()),
            ("old_logprobs", old.shallow_clone()),
            ("logprobs", old.copy()),
            ("option_logits", Tensor::try_from(&self.judged.logits)?),
            ("gold", Tensor::from_slice(&[self.judged.gold as i64])),
        ];
        Ok(write_safetensors(path, tensors.iter().map(|(name, tensor)| (*name, tensor)))?)
    }

    fn line(&self, step: u64, number: usize, set: usize) -> PickLine<'_> {
        let picks = &self.sets[set];
        PickLine {
            of: LineOf::new(step, [number, set], &self.framed.example),
            picks,
            times: picks.iter().map(|frame| self.framed.times[*frame]).collect(),
            given: letter(self.judged.given()[set]),
            reward: self.scored.rewards[set],
            accuracy: self.scored.accuracy[set],
            advantage: self.credit.advantages[set],
        }
    }

    /// Share of the sets that hold a frame of the event, where the data says which those are.
    fn found(&self) -> Option<f32> {
        let event = self.framed.event()?;
        let found = self.sets.iter().filter(|set| set.iter().any(|frame| event[*frame])).count();
        Some(found as f32 / self.sets.len() as f32)
    }
}

impl PickStepped {
    /// Positions that were read: each prompt once, each set's picks.
    pub fn tokens(&self) -> u64 {
        let of_group = |group: &PickGroup| group.candidates.positions() + group.scored.mask.len();
        self.groups.iter().map(|group| of_group(group) as u64).sum()
    }

    /// The metrics of a step, counted from 1; the algorithm's own are named after it.
    pub fn metrics(&self, step: u64, algorithm: &str) -> StepMetrics {
        let mut metrics = StepMetrics::new(step);
        let groups = &self.groups;
        rewards(&mut metrics, groups.iter().map(|group| &group.scored));
        metrics.push_count("data/left_out", self.left_out as u64);
        optimization(&mut metrics, &self.updated);
        let entropy = |group: &PickGroup| group.sampled.entropy.mean(Kind::Double).double_value(&[]) as f32;
        metrics.push("entropy", mean(groups.iter().map(entropy)));
        let own = |name: &str| format!("{algorithm}/{name}");
        let sets = || groups.iter().flat_map(|group| group.sets.iter().map(move |set| (group, set)));
        metrics.push(&own("picks"), mean(sets().map(|(_, set)| set.len() as f32)));
        metrics.push(&own("candidates"), mean(groups.iter().map(|group| group.candidates.frames() as f32)));
        let spread = |(group, set): (&PickGroup, &Vec<usize>)| temporal_entropy(set, group.candidates.frames()) as f32;
        metrics.push(&own("temporal_entropy"), mean(sets().map(spread)));
        let found: Vec<f32> = groups.iter().filter_map(PickGroup::found).collect();
        if !found.is_empty() {
            metrics.push(&own("event_found"), mean(found.into_iter()));
        }
        for (name, seconds) in &self.seconds {
            metrics.push(name, *seconds);
        }
        metrics
    }

    /// The lines of `completions/step-N.jsonl`: a completion is a set.
    pub fn lines(&self, step: u64) -> Vec<PickLine<'_>> {
        let groups = self.groups.iter().enumerate();
        groups.flat_map(|(number, group)| (0..group.sets.len()).map(move |set| group.line(step, number, set))).collect()
    }
}
