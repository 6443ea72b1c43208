//! OBSERVE under another video: the same completions behind a prompt whose video is masked or out of order.

use anyhow::Result;
use foveate_algo::{Counterfactual, MaskedFrames, Masking, MediaKind, Reordering, VisualMask};
use foveate_policy::{Alteration, Encoded, GroupSeed, Shown, Vlm};
use foveate_video::order;
use ndarray::Array2;
use rand_chacha::ChaCha8Rng;

use crate::{
    draw::{Drawn, Group},
    error::user_error,
    opened::Opened,
    passes::{Viewed, viewed},
    step::{Stepper, array2},
};

/// Streams of a group that no completion uses, by what is drawn from them.
const ORDER: u64 = u64::MAX;
const HALF: u64 = u64::MAX - 1;

/// A group's completions under the policy that drew them: with its own video and with altered ones.
#[derive(Debug, Default)]
pub(crate) struct Views {
    /// Log-probs with its own video.
    pub(crate) own: Option<Array2<f32>>,
    /// With the video masked.
    pub(crate) masked: Option<Viewed>,
    /// With the frames in another order.
    pub(crate) reordered: Option<Viewed>,
}

/// What a group is seen behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Own,
    Altered(Counterfactual),
}

impl Stepper<'_> {
    /// The views that the algorithm needs of the groups, all of them packed into the same passes. The plain one is known of
    /// groups in an opened update. Of groups without a gradient none is taken, unless `all` are wanted.
    pub(crate) fn views(&self, step: u64, drawn: &Drawn, opened: Option<&Opened<'_>>, all: bool) -> Result<Vec<Views>> {
        let (groups, mut wanted) = (&drawn.groups, Vec::new());
        for (index, group) in groups.iter().enumerate() {
            if !all && !self.trains_on(&drawn.scores[index]) {
                continue;
            }
            let needs = self.algorithm.needs(group.media);
            let seed = self.seed(step, group.number);
            if needs.sampling_logprobs && !opened.is_some_and(|opened| opened.holds(index)) {
                wanted.push((index, View::Own, None));
            }
            if let Some(masking) = needs.masked {
                let masked = masked(self.policy, groups, index, masking, seed)?;
                wanted.push((index, View::Altered(Counterfactual::Masked), Some(masked)));
            }
            if let Some(reordering) = needs.reordered {
                let reordered = reordered(self.policy, &group.encoded, reordering, seed)?;
                wanted.push((index, View::Altered(Counterfactual::Reordered), Some(reordered)));
            }
        }
        let prompts: Vec<_> = wanted
            .iter()
            .map(|(index, _, altered)| {
                (altered.as_ref().unwrap_or(&groups[*index].encoded), &groups[*index].completions)
            })
            .collect();
        let keeps = |at: usize| {
            let (index, view, _) = &wanted[at];
            *view != View::Own && self.algorithm.needs(groups[*index].media).distributions
        };
        let seen = viewed(self.policy, &self.head(self.policy), &prompts, self.config.optim.pass_tokens, keeps)?;
        let mut views: Vec<Views> = groups.iter().map(|_| Views::default()).collect();
        for (index, logprobs) in opened.iter().flat_map(|opened| opened.logprobs(groups)) {
            views[index].own = Some(array2(&logprobs)?);
        }
        for ((index, view, _), seen) in wanted.into_iter().zip(seen) {
            match view {
                View::Own => views[index].own = Some(array2(&seen.logprobs)?),
                View::Altered(Counterfactual::Masked) => views[index].masked = Some(seen),
                View::Altered(Counterfactual::Reordered) => views[index].reordered = Some(seen),
            }
        }
        Ok(views)
    }

    /// The random stream of the step's group of this number.
    pub(crate) fn seed(&self, step: u64, group: u64) -> GroupSeed {
        GroupSeed { seed: self.config.run.seed, step, group }
    }
}

/// The prompt with its video masked; an image is always masked whole.
fn masked(policy: &Vlm, groups: &[Group], index: usize, masking: Masking, seed: GroupSeed) -> Result<Encoded> {
    let group = &groups[index];
    let shown = match masking.frames {
        _ if group.media != MediaKind::Video => Shown::All,
        MaskedFrames::All => Shown::All,
        MaskedFrames::Half => Shown::Frames(by_video(&group.encoded, seed, HALF, order::half)),
        MaskedFrames::AnotherVideo => return another_video(policy, groups, index),
    };
    let alteration = match masking.how {
        VisualMask::ZeroFeatures => Alteration::Zeroed(shown),
        VisualMask::HideTokens => Alteration::Hidden(shown),
    };
    Ok(policy.altered(&group.encoded, &alteration)?)
}

/// The prompt with the video of the next group that has one.
fn another_video(policy: &Vlm, groups: &[Group], index: usize) -> Result<Encoded> {
    let mut others = groups.iter().cycle().skip(index + 1).take(groups.len() - 1);
    let own = fingerprints(&groups[index]);
    let differs = |other: &&Group| other.media == MediaKind::Video && fingerprints(other) != own;
    let other = others.find(differs).ok_or_else(|| {
        let id = &groups[index].example.example.id;
        user_error(format!(
            "example {id}: no other prompt of the step has another video to stand in its place (masked_frames = \
             \"another-video\"); take more rollout.prompts_per_step"
        ))
    })?;
    Ok(policy.with_videos_of(&groups[index].example.prompt, &other.example.prompt)?)
}

/// What tells one prompt's media from another's.
fn fingerprints(group: &Group) -> Vec<[u8; 32]> {
    group.example.prompt.media.iter().map(|medium| medium.patches().fingerprint()).collect()
}

/// The prompt with the frames of each of its videos in another order.
pub(crate) fn reordered(policy: &Vlm, prompt: &Encoded, how: Reordering, seed: GroupSeed) -> Result<Encoded> {
    let order = by_video(prompt, seed, ORDER, |frames, random| match how {
        Reordering::Shuffled => order::shuffled(frames, random),
        Reordering::Reversed => order::reversed(frames),
        Reordering::Segments => order::shuffled_segments(frames, random),
    });
    Ok(policy.altered(prompt, &Alteration::Reordered(order))?)
}

/// Frames chosen within each video, counted over all videos of the prompt.
fn by_video(
    prompt: &Encoded,
    seed: GroupSeed,
    stream: u64,
    choose: impl Fn(usize, &mut ChaCha8Rng) -> Vec<usize>,
) -> Vec<usize> {
    let mut random = seed.stream(stream);
    let mut first = 0;
    let of_video = |frames: &usize| {
        let chosen: Vec<_> = choose(*frames, &mut random).into_iter().map(|frame| first + frame).collect();
        first += frames;
        chosen
    };
    prompt.videos().iter().flat_map(of_video).collect()
}
