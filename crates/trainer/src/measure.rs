//! A step's metrics, under TRL's names where it has one.

use foveate_algo::{Credit, ScoredGroup};
use foveate_policy::Rollout;

use crate::{
    draw::{Drawn, Group, Scores},
    run::{CompletionLine, LineOf, StepMetrics},
    stats::{EventAttention, event_attention, sample_deviation},
    step::Stepped,
    update::Updated,
};

/// Tokens of a step's prompts and completions; each completion counts its prompt once.
pub fn tokens(groups: &[Group]) -> u64 {
    let group_tokens = |group: &Group| {
        let completions: usize = group.rollout.ids.iter().map(Vec::len).sum();
        group.encoded.tokens() * group.rollout.ids.len() + completions
    };
    groups.iter().map(|group| group_tokens(group) as u64).sum()
}

/// The metrics of a step, counted from 1; the algorithm's own are named after it.
pub fn metrics(stepped: &Stepped, step: u64, algorithm: &str) -> StepMetrics {
    let mut metrics = StepMetrics::new(step);
    let scores: Vec<&Scores> = stepped.drawn.all_scores().collect();
    rewards(&mut metrics, scores.iter().map(|scores| &scores.group));
    breakdown(&mut metrics, &scores);
    lengths(&mut metrics, &scores);
    prompts(&mut metrics, &stepped.drawn.groups);
    refills(&mut metrics, &stepped.drawn);
    let updated = &stepped.updated;
    optimization(&mut metrics, updated);
    metrics.push("entropy", entropy(stepped));
    if let Some(kl) = updated.kl {
        metrics.push("kl", kl);
    }
    event(&mut metrics, stepped);
    details(&mut metrics, algorithm, &stepped.credit);
    for (name, seconds) in &stepped.seconds {
        metrics.push(name, *seconds);
    }
    metrics
}

/// What every policy's optimizer did.
pub(crate) fn optimization(metrics: &mut StepMetrics, updated: &Updated) {
    metrics.push("loss", updated.loss);
    metrics.push("grad_norm", updated.grad_norm);
    metrics.push("learning_rate", updated.learning_rate);
    metrics.push("clip_ratio/low_mean", updated.clipped[0]);
    metrics.push("clip_ratio/high_mean", updated.clipped[1]);
    metrics.push("clip_ratio/region_mean", updated.clipped[0] + updated.clipped[1]);
    metrics.push("sampling/logp_difference_mean", updated.sampling_gap);
}

/// What groups were rewarded with.
pub(crate) fn rewards<'a>(metrics: &mut StepMetrics, groups: impl Iterator<Item = &'a ScoredGroup> + Clone) {
    let all = || groups.clone().flat_map(|group| group.rewards.iter().copied());
    let deviations: Vec<f64> = groups.clone().map(deviation).collect();
    metrics.push("reward", mean(all()));
    metrics.push("reward_std", mean(deviations.iter().map(|deviation| *deviation as f32)));
    let flat = deviations.iter().filter(|deviation| **deviation == 0.0).count();
    metrics.push("frac_reward_zero_std", flat as f64 / deviations.len().max(1) as f64);
    metrics.push("accuracy", mean(groups.clone().flat_map(|group| group.accuracy.iter().copied())));
    metrics.push_count("data/unscored", all().filter(|reward| reward.is_nan()).count() as u64);
}

/// Standard deviation of a group's rewards, of those that could be scored.
fn deviation(group: &ScoredGroup) -> f64 {
    let scored = group.rewards.iter().filter(|reward| !reward.is_nan());
    sample_deviation(&scored.map(|reward| f64::from(*reward)).collect::<Vec<_>>())
}

/// Each scorer's part of the rewards.
fn breakdown(metrics: &mut StepMetrics, scores: &[&Scores]) {
    let all = || scores.iter().flat_map(|scores| &scores.rewards);
    if let Some(first) = all().next() {
        for (part, (name, _)) in first.breakdown.iter().enumerate() {
            metrics.push(&format!("rewards/{name}/mean"), mean(all().map(|reward| reward.breakdown[part].1)));
        }
    }
}

fn lengths(metrics: &mut StepMetrics, scores: &[&Scores]) {
    let all = || scores.iter().flat_map(|scores| lengths_of(scores));
    let truncated = || scores.iter().flat_map(|scores| scores.group.truncated.iter());
    metrics.push("completions/mean_length", mean(all().map(|length| length as f32)));
    metrics.push("completions/min_length", all().min().unwrap_or(0) as f64);
    metrics.push("completions/max_length", all().max().unwrap_or(0) as f64);
    metrics.push("completions/clipped_ratio", mean(truncated().map(|cut| f32::from(u8::from(*cut)))));
}

/// Tokens of each completion of a group.
fn lengths_of(scores: &Scores) -> impl Iterator<Item = usize> {
    scores.group.mask.rows().into_iter().map(|row| row.iter().filter(|token| **token).count())
}

fn prompts(metrics: &mut StepMetrics, groups: &[Group]) {
    let of = |count: fn(&Group) -> usize| mean(groups.iter().map(|group| count(group) as f32));
    metrics.push("prompts/mean_length", of(|group| group.encoded.tokens()));
    metrics.push("prompts/mean_frames", of(|group| group.encoded.frames()));
    metrics.push("prompts/mean_video_tokens", of(|group| group.encoded.video_tokens()));
}

/// What was drawn beside the groups that are trained on: contrast completions, and what dynamic sampling did.
fn refills(metrics: &mut StepMetrics, drawn: &Drawn) {
    let contrasts: Vec<&Rollout> = drawn.groups.iter().filter_map(|group| group.contrast.as_ref()).collect();
    if !contrasts.is_empty() {
        let tokens: usize = contrasts.iter().flat_map(|rollout| rollout.ids.iter().map(Vec::len)).sum();
        metrics.push_count("sampling/contrast_tokens", tokens as u64);
    }
    let Some(refills) = drawn.refills else { return };
    metrics.push_count("sampling/refills", refills as u64);
    metrics.push_count("sampling/groups_kept", drawn.groups.len() as u64);
    metrics.push_count("sampling/groups_dropped", drawn.dropped.len() as u64);
    metrics.push_count("sampling/groups_missing", drawn.missing as u64);
}

/// Mean entropy of the distributions that the step's tokens were drawn from, in nats.
fn entropy(stepped: &Stepped) -> f64 {
    let groups = stepped.seen.iter().zip(&stepped.drawn.scores);
    let tokens = groups.flat_map(|(seen, scores)| {
        let entropy = seen.entropy.iter().flatten().zip(&scores.group.mask);
        entropy.filter(|(_, token)| **token).map(|(entropy, _)| *entropy)
    });
    mean(tokens)
}

/// Where the data knows the event: do completions attend to its frames?
fn event(metrics: &mut StepMetrics, stepped: &Stepped) {
    let mut seen = Vec::new();
    for (index, group) in stepped.drawn.groups.iter().enumerate() {
        let Some(attention) = &stepped.seen[index].frame_attention else { continue };
        for (completion, ids) in group.rollout.ids.iter().enumerate() {
            let tokens = attention.slice(ndarray::s![completion, ..ids.len(), ..]);
            seen.extend(event_attention(tokens, &group.example.event));
        }
    }
    if let Some(event) = EventAttention::mean(&seen) {
        metrics.push("attention/event_auc", event.auc);
        metrics.push("attention/event_mass", event.mass);
        metrics.push("attention/event_share", event.uniform);
    }
}

/// The algorithm's own metrics: the means of its credit's details without an axis.
fn details(metrics: &mut StepMetrics, algorithm: &str, credit: &[Credit]) {
    // Groups that were not looked at have none.
    let Some(first) = credit.iter().find(|credit| !credit.details.is_empty()) else { return };
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

/// The lines of `completions/step-N.jsonl`: first the groups that were trained on, then those that were not kept.
pub fn completion_lines(step: u64, stepped: &Stepped) -> Vec<CompletionLine<'_>> {
    let drawn = &stepped.drawn;
    let kept = drawn.groups.iter().zip(&drawn.scores).zip(&stepped.credit);
    let kept = kept.map(|((group, scores), credit)| (&group.example.example, scores, Some(credit)));
    let dropped = drawn.dropped.iter().map(|(example, scores)| (example, scores, None));
    let lines = kept.chain(dropped).enumerate().flat_map(|(index, (example, scores, credit))| {
        lengths_of(scores).enumerate().map(move |(completion, length)| CompletionLine {
            of: LineOf::new(step, [index, completion], example),
            text: &scores.texts[completion],
            length,
            truncated: scores.group.truncated[completion],
            reward: scores.rewards[completion].total,
            accuracy: scores.rewards[completion].accuracy,
            rewards: scores.rewards[completion]
                .breakdown
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect(),
            advantage: credit.map(|credit| credit.advantages[completion]),
        })
    });
    lines.collect()
}
