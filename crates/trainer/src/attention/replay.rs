//! Attention as a run recorded it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use foveate_policy::TextProcessor;
use ndarray::s;

use super::{Completion, Frame, Looked, Scores, tokens};
use crate::cli::AttentionArgs;
use crate::data::{Example, MediaReader, Medium, View};
use crate::error::{UserContext, existing, one_line, user_error};
use crate::recorded::{RecordedGroup, RecordedRun, Rollout};
use crate::run::existing_model;

/// Reads a recorded group and, as far as they are still there, its example and video.
///
/// # Errors
/// A user error: the group cannot be read, or there is no tokenizer for its tokens.
pub(super) fn read(args: &AttentionArgs, file: &Path) -> Result<Looked> {
    existing("--rollout", file)?;
    let group = RecordedGroup::read(file).user()?;
    let scored = group.scored().user()?;
    let attention = group.frame_attention(&scored).context("a group without a video has none").user()?;
    let found = RecordedRun::of(file, &args.settings.set)?;
    let text = match (&args.model, &found) {
        (Some(model), _) => {
            existing_model("--model", model)?;
            Arc::new(TextProcessor::load(model).user()?)
        }
        (None, Some((run, _))) => run.text()?,
        (None, None) => return Err(user_error("the group lies in no run: whose tokens are these? --model DIR")),
    };
    let (mut completions, ids) = (Vec::new(), group.completions(&scored).user()?);
    for index in chosen(&args.completion, ids.len())? {
        completions.push(Completion {
            index,
            tokens: tokens(&text, &ids[index]).user()?,
            attention: attention.slice(s![index, ..ids[index].len(), ..]).to_owned(),
            scores: Some(Scores { reward: scored.rewards[index], accuracy: scored.accuracy[index] }),
            truncated: scored.truncated[index],
        });
    }
    let example = example(found.as_ref());
    let count = attention.dim().2;
    let frames = match (&found, &example) {
        (Some((run, _)), Some(example)) => frames(run, example, count).unwrap_or_else(|error| {
            tracing::warn!("frames are shown without their pictures: {}", one_line(&error));
            Frame::unknown(count)
        }),
        _ => Frame::unknown(count),
    };
    let question = example.iter().flat_map(|example| std::iter::once(&example.question).chain(&example.options));
    Ok(Looked {
        source: file.display().to_string(),
        question: question.cloned().collect(),
        answer: example.as_ref().map(|example| example.answer.clone()),
        frames,
        completions,
    })
}

/// The completions that are asked for; all if none is named.
fn chosen(named: &[usize], count: usize) -> Result<Vec<usize>> {
    if let Some(index) = named.iter().find(|index| **index >= count) {
        return Err(user_error(format!("--completion {index}: the group has {count}, counted from 0")));
    }
    Ok(if named.is_empty() { (0..count).collect() } else { named.to_vec() })
}

/// The example that the group is about, if its run still knows it.
fn example(found: Option<&(RecordedRun, Rollout)>) -> Option<Example> {
    let Some((run, rollout)) = found else {
        tracing::warn!("the group lies in no run, so that its question and its video are not known");
        return None;
    };
    let example = run.example(rollout);
    example.inspect_err(|error| tracing::warn!("question and video are not known: {}", one_line(error))).ok()
}

/// The frames that the example's videos gave, `count` of them.
fn frames(run: &RecordedRun, example: &Example, count: usize) -> Result<Vec<Frame>> {
    let config = run.config();
    let model = config.model.path.as_deref().context("model.path is not given")?;
    let root = run.records()?.media_root().to_owned();
    let media = MediaReader::new(&View::training(config, model), &config.data, &root)?;
    let videos = example.media.iter().filter_map(|media| match media {
        Medium::Video { path, clip } => Some((path, *clip)),
        Medium::Image(_) => None,
    });
    let shown = videos.map(|(path, clip)| media.shown(path, clip)).collect::<Result<Vec<_>>>()?;
    // With several videos, nothing says which of them the spans are of.
    let spans = if shown.len() == 1 { example.spans.as_slice() } else { &[] };
    let frames: Vec<_> = shown.into_iter().flat_map(|video| Frame::of(video, spans)).collect();
    if frames.len() != count {
        bail!("the video now has {} frames, and {count} were recorded", frames.len());
    }
    Ok(frames)
}
