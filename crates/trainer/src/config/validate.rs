//! Values out of their range, found before anything is loaded.

use anyhow::{Context, Result};
use foveate_policy::MIN_TEMPERATURE;
use foveate_reward::Rubric;

use super::prompts::prompts;
use super::{Config, FramesTable, PixelsTable, SamplingMode};
use crate::error::{UserContext, user_error};

impl Config {
    /// Refuses what no run could be made of.
    pub(super) fn validate(&self) -> Result<()> {
        let (rollout, optim, eval) = (&self.rollout, &self.optim, &self.eval);
        at_least_one(&[
            ("rollout.completions", rollout.completions),
            ("rollout.prompts_per_step", rollout.prompts_per_step),
            ("rollout.max_new_tokens", rollout.max_new_tokens),
            ("optim.updates_per_rollout", optim.updates_per_rollout),
            ("optim.minibatches", optim.minibatches),
            ("data.max_prompt_tokens", self.data.max_prompt_tokens),
            ("eval.batch", eval.batch),
            ("sft.batch", self.sft.batch),
        ])?;
        temperature("rollout.temperature", rollout.temperature)?;
        share("rollout.top_p", rollout.top_p)?;
        temperature("eval.temperature", eval.temperature)?;
        share("eval.top_p", eval.top_p)?;
        above_zero("eval.repetition_penalty", eval.repetition_penalty)?;
        within("optim.lr", optim.lr, 0.0, f64::MAX)?;
        above_zero("optim.eps", optim.eps)?;
        within("optim.weight_decay", optim.weight_decay, 0.0, f64::MAX)?;
        within("optim.grad_clip", optim.grad_clip, 0.0, f64::MAX)?;
        for beta in optim.betas {
            if !(0.0..1.0).contains(&beta) {
                return Err(user_error(format!("optim.betas must be at least 0 and below 1, found {beta}")));
            }
        }
        if let Some(name) = &self.run.name
            && !is_word(name)
        {
            let expected = "must be made of letters, digits and - _ .";
            return Err(user_error(format!("run.name {expected}, found \"{name}\"")));
        }
        at_most("model.feature_cache_mib", self.model.feature_cache_mib, 1 << 24)?;
        at_most("data.memory_mib", self.data.memory_mib, 1 << 24)?;
        at_most("model.threads", self.model.threads, 1 << 16)?;
        within("data.decode.seconds", self.data.decode.seconds, 0.0, f64::MAX)?;
        frames("data.frames", &self.data.frames)?;
        frames("eval.frames", &eval.frames)?;
        pixels("data.pixels", &self.data.pixels)?;
        pixels("eval.pixels", &eval.pixels)?;
        prompts("data.prompt", &self.data.prompt)?;
        prompts("scorer.prompt", &self.scorer.prompt)?;
        prompts("selector.prompt", &self.selector.prompt)?;
        self.validate_selector()?;
        self.algo.algorithm().context("algo").user()?;
        Rubric::new(self.reward.clone()).user()?;
        Ok(())
    }

    fn validate_selector(&self) -> Result<()> {
        let selector = &self.selector;
        within("selector.head_lr_scale", selector.head_lr_scale, 0.0, f64::MAX)?;
        if !(1..=64).contains(&selector.pool) {
            return Err(user_error(format!("selector.pool must be from 1 to 64, found {}", selector.pool)));
        }
        if selector.picks.is_empty() || selector.picks.contains(&0) {
            let expected = "expected numbers of frames, at least 1 each, as in [4, 8]";
            return Err(user_error(format!("selector.picks: {expected}; found {:?}", selector.picks)));
        }
        within("sft.event_share", self.sft.event_share, 0.0, 1.0)?;
        let [fewest, most] = self.sft.frames;
        if fewest == 0 || fewest > most {
            return Err(user_error(format!("sft.frames: expected 1 <= fewest <= most, found {fewest} and {most}")));
        }
        Ok(())
    }
}

fn at_least_one(values: &[(&str, usize)]) -> Result<()> {
    match values.iter().find(|(_, value)| *value == 0) {
        Some((key, _)) => Err(user_error(format!("{key} must be at least 1, found 0"))),
        None => Ok(()),
    }
}

/// Whether a folder's name may begin with it.
fn is_word(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain)
}

fn at_most(key: &str, value: usize, high: usize) -> Result<()> {
    if value <= high { Ok(()) } else { Err(user_error(format!("{key} must be at most {high}, found {value}"))) }
}

fn temperature(key: &str, value: f64) -> Result<()> {
    if value == 0.0 || (MIN_TEMPERATURE..f64::MAX).contains(&value) {
        return Ok(());
    }
    Err(user_error(format!("{key} must be 0 (greedy) or at least {MIN_TEMPERATURE}, found {value}")))
}

fn within(key: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let range = if high == f64::MAX { format!("at least {low}") } else { format!("from {low} to {high}") };
    Err(user_error(format!("{key} must be {range}, found {value}")))
}

fn above_zero(key: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(user_error(format!("{key} must be above 0, found {value}")))
}

/// A share of something of which there must be some.
fn share(key: &str, value: f64) -> Result<()> {
    if value > 0.0 && value <= 1.0 {
        return Ok(());
    }
    Err(user_error(format!("{key} must be above 0 and at most 1, found {value}")))
}

fn frames(key: &str, table: &FramesTable) -> Result<()> {
    match table.sampling {
        SamplingMode::Uniform if table.count == 0 => {
            Err(user_error(format!("{key}.count must be at least 1, found 0")))
        }
        SamplingMode::Fps if table.fps <= 0.0 || !table.fps.is_finite() => {
            Err(user_error(format!("{key}.fps must be above 0, found {}", table.fps)))
        }
        SamplingMode::Fps if table.min == 0 || table.min > table.max => {
            Err(user_error(format!("{key}: expected 1 <= min <= max, found min {} and max {}", table.min, table.max)))
        }
        _ if table.picks == 0 => Err(user_error(format!("{key}.picks must be at least 1, found 0"))),
        _ => Ok(()),
    }
}

fn pixels(key: &str, table: &PixelsTable) -> Result<()> {
    if table.min == 0 || table.min > table.max {
        return Err(user_error(format!(
            "{key}: expected 1 <= min <= max, found min {} and max {}",
            table.min, table.max
        )));
    }
    Ok(())
}
