//! A step's metrics, under TRL's names where it has one.

use foveate_algo::Credit;

use crate::{
    data::BadExample,
    run::{CompletionLine, StepMetrics},
    stats::event_attention,
    step::{Group, Scores, Stepped},
};

/// What a step's metrics need beyond the step itself.
#[derive(Debug, Clone, Copy)]
pub struct StepFacts<'a> {
    /// The step, counted from 1.
    pub step: u64,
    /// The algorithm, after which its own metrics are named.
    pub algorithm: &'static str,
    /// Tokens of prompts and completions over the whole run, this step's included.
    pub num_tokens: u64,
    /// Bad examples named in this step.
    pub bad: &'a [BadExample],
    /// Bad examples of the run so far.
    pub bad_total: usize,
    /// Seconds spent waiting for examples.
    pub data_wait: f64,
    /// Seconds of the whole step.
    pub step_time: f64,
}

/// Tokens of a step's prompts and completions; each completion counts its prompt once.
pub fn tokens(groups: &[Group]) -> u64 {
    let group_tokens = |group: &Group| {
        let completions: usize = group.rollout.ids.iter().map(Vec::len).sum();
        group.encoded.tokens() * group.rollout.ids.len() + completions
    };
    groups.iter().map(|group| group_tokens(group) as u64).sum()
}

/// The metrics of a step.
pub fn metrics(stepped: &Stepped, facts: &StepFacts<'_>) -> StepMetrics {
    let mut metrics = StepMetrics::new(facts.step);
    rewards(&mut metrics, &stepped.scores);
    lengths(&mut metrics, stepped);
    let updated = &stepped.updated;
    metrics.push("loss", updated.loss);
    metrics.push("grad_norm", updated.grad_norm);
    metrics.push("learning_rate", updated.learning_rate);
    metrics.push("entropy", entropy(stepped));
    if let Some(kl) = updated.kl {
        metrics.push("kl", kl);
    }
    metrics.push("clip_ratio/low_mean", updated.clipped[0]);
    metrics.push("clip_ratio/high_mean", updated.clipped[1]);
    metrics.push("clip_ratio/region_mean", updated.clipped[0] + updated.clipped[1]);
    metrics.push("sampling/logp_difference_mean", updated.sampling_gap);
    event(&mut metrics, stepped);
    details(&mut metrics, facts.algorithm, &stepped.credit);
    metrics.push("num_tokens", facts.num_tokens as f64);
    metrics.push_count("data/skipped", facts.bad.len() as u64);
    metrics.push_count("data/skipped_total", facts.bad_total as u64);
    if !facts.bad.is_empty() {
        let names = facts.bad.iter().map(|bad| bad.name.clone()).collect();
        metrics.push_value("data/skipped_names", names);
    }
    metrics.push("timing/data_wait", facts.data_wait);
    for (name, seconds) in &stepped.seconds {
        metrics.push(name, *seconds);
    }
    metrics.push("step_time", facts.step_time);
    metrics
}

fn rewards(metrics: &mut StepMetrics, scores: &[Scores]) {
    let all = || scores.iter().flat_map(|scores| &scores.rewards);
    let unscored = all().filter(|reward| reward.total.is_nan()).count();
    metrics.push("reward", mean(all().map(|reward| reward.total)));
    metrics.push("reward_std", mean(scores.iter().map(|scores| deviation(scores) as f32)));
    let flat = scores.iter().filter(|scores| deviation(scores) == 0.0).count();
    metrics.push("frac_reward_zero_std", flat as f64 / scores.len().max(1) as f64);
    metrics.push("accuracy", mean(all().map(|reward| reward.accuracy)));
    if let Some(first) = all().next() {
        for (part, (name, _)) in first.breakdown.iter().enumerate() {
            metrics.push(&format!("rewards/{name}/mean"), mean(all().map(|reward| reward.breakdown[part].1)));
        }
    }
    metrics.push_count("data/unscored", unscored as u64);
}

/// Standard deviation (divisor G - 1) of a group's rewards; 0 if they are all equal.
fn deviation(scores: &Scores) -> f64 {
    let scored: Vec<f64> = scores.rewards.iter().map(|r| f64::from(r.total)).filter(|total| !total.is_nan()).collect();
    let Some(first) = scored.first() else { return 0.0 };
    if scored.iter().all(|total| total == first) {
        return 0.0;
    }
    let mean = scored.iter().sum::<f64>() / scored.len() as f64;
    let squares: f64 = scored.iter().map(|total| (total - mean).powi(2)).sum();
    (squares / (scored.len() - 1) as f64).sqrt()
}

fn lengths(metrics: &mut StepMetrics, stepped: &Stepped) {
    let all = || stepped.groups.iter().flat_map(|group| group.rollout.ids.iter().map(Vec::len));
    let truncated = || stepped.groups.iter().flat_map(|group| group.rollout.truncated.iter());
    metrics.push("completions/mean_length", mean(all().map(|length| length as f32)));
    metrics.push("completions/min_length", all().min().unwrap_or(0) as f64);
    metrics.push("completions/max_length", all().max().unwrap_or(0) as f64);
    metrics.push("completions/clipped_ratio", mean(truncated().map(|cut| f32::from(u8::from(*cut)))));
    metrics.push("prompts/mean_length", mean(stepped.groups.iter().map(|group| group.encoded.tokens() as f32)));
    metrics.push("prompts/mean_frames", mean(stepped.groups.iter().map(|group| group.encoded.frames() as f32)));
    metrics.push(
        "prompts/mean_video_tokens",
        mean(stepped.groups.iter().map(|group| group.encoded.video_tokens() as f32)),
    );
}

/// Mean entropy of the distributions that the step's tokens were drawn from, in nats.
fn entropy(stepped: &Stepped) -> f64 {
    let groups = stepped.seen.iter().zip(&stepped.scores);
    let tokens = groups.flat_map(|(seen, scores)| {
        let entropy = seen.entropy.iter().flatten().zip(&scores.group.mask);
        entropy.filter(|(_, token)| **token).map(|(entropy, _)| *entropy)
    });
    mean(tokens)
}

/// Where the data knows the event: do completions attend to its frames?
fn event(metrics: &mut StepMetrics, stepped: &Stepped) {
    let (mut auc, mut mass) = (Vec::new(), Vec::new());
    for (index, group) in stepped.groups.iter().enumerate() {
        let Some(attention) = &stepped.seen[index].frame_attention else { continue };
        for (completion, ids) in group.rollout.ids.iter().enumerate() {
            let tokens = attention.slice(ndarray::s![completion, ..ids.len(), ..]);
            if let Some(found) = event_attention(tokens, &group.example.event) {
                auc.push(found.auc as f32);
                mass.push(found.mass as f32);
            }
        }
    }
    if !auc.is_empty() {
        metrics.push("attention/event_auc", mean(auc.into_iter()));
        metrics.push("attention/event_mass", mean(mass.into_iter()));
    }
}

/// The algorithm's own metrics: the means of its credit's details without an axis.
fn details(metrics: &mut StepMetrics, algorithm: &str, credit: &[Credit]) {
    let Some(first) = credit.first() else { return };
    for (name, _) in first.details.iter().filter(|(_, value)| value.ndim() == 0) {
        let values = credit.iter().filter_map(|credit| credit.detail(name)?.first().copied());
        metrics.push(&format!("{algorithm}/{name}"), mean(values));
    }
}

/// Mean in f64 of what is a number; NaN of nothing.
pub fn mean(values: impl Iterator<Item = f32>) -> f64 {
    let (mut sum, mut count) = (0.0, 0_usize);
    for value in values.filter(|value| !value.is_nan()) {
        sum += f64::from(value);
        count += 1;
    }
    sum / count as f64
}

/// The lines of `completions/step-N.jsonl`.
pub fn completion_lines(step: u64, stepped: &Stepped) -> Vec<CompletionLine<'_>> {
    let groups = stepped.groups.iter().zip(&stepped.scores).zip(&stepped.credit).enumerate();
    let lines = groups.flat_map(|(index, ((group, scores), credit))| {
        let example = &group.example.example;
        (0..scores.texts.len()).map(move |completion| CompletionLine {
            step,
            group: index,
            completion,
            id: &example.id,
            kind: &example.kind,
            question: &example.question,
            answer: &example.answer,
            text: &scores.texts[completion],
            length: group.rollout.ids[completion].len(),
            truncated: group.rollout.truncated[completion],
            reward: scores.rewards[completion].total,
            accuracy: scores.rewards[completion].accuracy,
            rewards: scores.rewards[completion]
                .breakdown
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect(),
            advantage: credit.advantages[completion],
        })
    });
    lines.collect()
}
