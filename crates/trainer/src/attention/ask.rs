//! Attention of completions that a policy gives to one question about one video.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use foveate_policy::{Draw, GroupSeed, LoadOptions, Observe, Rollout, SamplingParams, TextProcessor, Trainable, Vlm};
use foveate_reward::{Answer, Rubric};
use ndarray::s;

use super::{Completion, Frame, Looked, Scores, tokens};
use crate::cli::AttentionArgs;
use crate::config::{Config, resolve_plain};
use crate::data::{Example, MediaReader, Medium, Prepared, Preparer, View};
use crate::error::{UserContext, existing};
use crate::observe::mean_over_layers;
use crate::run::existing_model;
use crate::train::load_options;

/// Asks the policy.
///
/// # Errors
/// A user error: the model or the video cannot be read, or a setting is wrong.
pub(super) fn ask(args: &AttentionArgs) -> Result<Looked> {
    let config = resolve_plain(&args.settings.layers(None))?;
    let model = args.model.as_deref().context("which model? --model DIR").user()?;
    let video = args.video.as_deref().context("which video? --video FILE").user()?;
    let question = args.question.clone().context("which question? --question TEXT").user()?;
    existing_model("--model", model)?;
    existing("--video", video)?;
    let text = Arc::new(TextProcessor::load(model).user()?);
    let view = View::evaluation(&config, model);
    let example = Example {
        id: video.display().to_string(),
        media: vec![Medium::video(video)],
        question,
        options: foveate_data::option_texts(args.options.clone()),
        answer: args.answer.clone().unwrap_or_default(),
        spans: args.event.clone(),
        ..Example::default()
    };
    let root = config.data.media_root.clone().unwrap_or_default();
    let prepared = Preparer::new(&view, &config, Arc::clone(&text), &root)?.ready(example).user()?;
    let media = MediaReader::new(&view, &config.data, &root)?;
    let policy = load(model, &config)?;
    let rollout = draw(args, &config, &policy, (&text, &prepared))?;
    let attention = mean_over_layers(rollout.frame_attention.as_ref().context("no frame attention")?)?;
    let rubric = Rubric::new(config.reward.clone()).user()?;
    let completion = |index: usize| {
        let ids = &rollout.ids[index];
        let scores = args.answer.as_ref().map(|answer| {
            let reward = rubric.score(&Answer::new(answer), &text.decode(ids)?);
            anyhow::Ok(Scores { reward: reward.total, accuracy: reward.accuracy })
        });
        Ok(Completion {
            index,
            tokens: tokens(&text, ids)?,
            attention: attention.slice(s![index, ..ids.len(), ..]).to_owned(),
            scores: scores.transpose()?,
            truncated: rollout.truncated[index],
        })
    };
    let completions = (0..rollout.ids.len()).map(completion).collect::<Result<Vec<_>>>()?;
    Ok(Looked {
        source: format!("{}, model {}, layers {}", video.display(), model.display(), args.layers),
        question: std::iter::once(prepared.example.question.clone()).chain(prepared.example.options.clone()).collect(),
        answer: args.answer.clone(),
        frames: Frame::of(media.shown(video, None).user()?, &args.event),
        completions,
    })
}

fn load(model: &Path, config: &Config) -> Result<Vlm> {
    let options = LoadOptions { trainable: Trainable::Nothing, ..load_options(config)? };
    Vlm::load(model, &options).user()
}

/// The completions, with the attention that was seen while drawing them.
fn draw(
    args: &AttentionArgs,
    config: &Config,
    policy: &Vlm,
    (text, prepared): (&TextProcessor, &Prepared),
) -> Result<Rollout> {
    let count = args.completions.get();
    let several = count > 1;
    let params = SamplingParams {
        max_new_tokens: config.eval_tokens(),
        temperature: args.temperature.unwrap_or(if several { config.rollout.temperature } else { 0.0 }),
        top_p: 1.0,
        top_k: 0,
        repetition_penalty: 1.0,
        max_rows: config.rollout.max_rows,
        observe: Observe { frame_layers: Some(args.layers), ..Observe::default() },
    };
    let seed = GroupSeed { seed: args.seed, step: 0, group: 0 };
    let encoded = policy.encode(&prepared.prompt).user()?;
    let draw = Draw { prompt: &encoded, completions: count, seed };
    let mut groups = policy.rollout(&[draw], &params, text.eos_ids()).user()?;
    groups.pop().context("no completion")
}
