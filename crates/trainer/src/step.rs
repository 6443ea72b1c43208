//! One training step: SAMPLE, SCORE, OBSERVE, CREDIT, UPDATE.

use std::{path::Path, time::Instant};

use anyhow::Result;
use foveate_algo::{Algorithm, Credit, Layers};
use foveate_policy::{Head, TextProcessor, Vlm};
use foveate_reward::Rubric;
use ndarray::{Array2, ArrayD, Ix2};
use tch::Tensor;

use crate::{
    config::Config,
    draw::{Drawn, Supply},
    observe::Seen,
    update::{Updated, Updater, Work},
};

/// Layers whose frame attention is logged and recorded where the algorithm names none.
pub(crate) const FRAME_LAYERS: Layers = Layers::Last(3);

/// Everything that stays the same from step to step.
#[derive(Debug)]
pub struct Stepper<'a> {
    /// The policy that is trained.
    pub policy: &'a Vlm,
    /// The policy that the KL term holds it to.
    pub reference: Option<&'a Vlm>,
    /// Tokens to text.
    pub text: &'a TextProcessor,
    /// What completions are rewarded for.
    pub rubric: &'a Rubric,
    /// How tokens get their credit.
    pub algorithm: &'a dyn Algorithm,
    /// The run's configuration.
    pub config: &'a Config,
}

/// A finished step.
#[derive(Debug)]
pub struct Stepped {
    /// Prompts, completions and their scores.
    pub drawn: Drawn,
    /// What was observed of each group.
    pub seen: Vec<Seen>,
    /// The credit it got.
    pub credit: Vec<Credit>,
    /// What the optimizer did.
    pub updated: Updated,
    /// Seconds each verb took.
    pub seconds: Vec<(&'static str, f64)>,
}

impl Stepper<'_> {
    /// Runs step number `step` on the examples that `supply` gives; the groups are recorded in the folder `record`, if one
    /// is given.
    ///
    /// # Errors
    /// If a completion or an observation cannot be used, or loss or gradient are not finite; the policy is unchanged then.
    pub fn run(
        &self,
        step: u64,
        supply: &mut Supply<'_>,
        updater: &mut Updater<'_>,
        record: Option<&Path>,
    ) -> Result<Stepped> {
        let mut clock = Clock::default();
        let drawn = self.draw(step, supply, &mut clock)?; // SAMPLE and SCORE
        let opened = clock.time("timing/update", || self.open(&drawn.groups, &drawn.scores))?;
        let views =
            clock.time("timing/counterfactual", || self.views(step, &drawn, opened.as_ref(), record.is_some()))?;
        let seen = self.observe(&drawn.groups, views, &mut clock)?;
        let credit = clock.time("timing/credit", || self.credit(&drawn.scores, &seen))?;
        if let Some(folder) = record {
            self.record(folder, &drawn, &seen)?;
        }
        let work = Work { groups: &drawn.groups, scores: &drawn.scores, seen: &seen, credit: &credit };
        let updated = clock.time("timing/update", || updater.update(self, step, work, opened))?;
        Ok(Stepped { drawn, seen, credit, updated, seconds: clock.laps() })
    }

    /// The head over the distribution that is sampled from.
    pub(crate) fn head(&self, policy: &Vlm) -> Head {
        policy.head(self.config.rollout.temperature)
    }
}

/// `[G, T]` on the host.
pub(crate) fn array2(tensor: &Tensor) -> Result<Array2<f32>> {
    let array: ArrayD<f32> = (&tensor.to_device(tch::Device::Cpu)).try_into()?;
    Ok(array.into_dimensionality::<Ix2>()?)
}

/// Seconds by name, in the order of their first mention.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    laps: Vec<(&'static str, f64)>,
}

impl Clock {
    /// The sums.
    pub(crate) fn laps(self) -> Vec<(&'static str, f64)> {
        self.laps
    }

    pub(crate) fn time<T>(&mut self, lap: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let seconds = start.elapsed().as_secs_f64();
        match self.laps.iter_mut().find(|(name, _)| *name == lap) {
            Some((_, sum)) => *sum += seconds,
            None => self.laps.push((lap, seconds)),
        }
        result
    }
}
