//! Prompts whose video was altered, for what the same completions would have been worth behind another video, and for
//! completions that answer one.
//!
//! Whatever can be altered in the features is: then the vision tower is not asked again.

use tch::{Device, Kind, Tensor, no_grad};

use crate::{
    PolicyError,
    input::{Encoded, Media, Prompt},
    model::Vlm,
};

/// What is done to a prompt's media. Frames (temporal grids) are counted over all its videos.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alteration {
    /// These features are 0.
    Zeroed(Shown),
    /// Nothing attends to the tokens of these. All others keep their positions.
    Hidden(Shown),
    /// Where frame f stood there stands frame `order[f]`.
    Reordered(Vec<usize>),
}

/// A part of what a prompt shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Every video and image.
    All,
    /// These frames of its videos.
    Frames(Vec<usize>),
}

impl Vlm {
    /// The prompt with an altered video. No gradient flows into the vision tower through it.
    ///
    /// # Errors
    /// [`PolicyError::Prompt`] if a frame does not exist, or an order is none or mixes frames of different sizes.
    pub fn altered(&self, prompt: &Encoded, alteration: &Alteration) -> Result<Encoded, PolicyError> {
        let whole = no_grad(|| Encoded {
            ids: prompt.ids.shallow_clone(),
            positions: prompt.positions.shallow_clone(),
            next_position: prompt.next_position,
            pads: prompt.pads.shallow_clone(),
            media: Vec::new(),
            features: prompt.features.as_ref().map(Tensor::shallow_clone).or_else(|| {
                let shown = !prompt.media.is_empty();
                shown.then(|| self.features(&prompt.media))
            }),
            video_rows: prompt.video_rows.clone(),
            video_frames: prompt.video_frames.clone(),
            frames: prompt.frames,
            videos: prompt.videos.clone(),
        });
        match alteration {
            Alteration::Zeroed(shown) => zeroed(whole, shown),
            Alteration::Hidden(shown) => hidden(whole, shown),
            Alteration::Reordered(order) => reordered(whole, order),
        }
    }

    /// The prompt with its videos replaced by those of another, in turn; text and images stay.
    ///
    /// # Errors
    /// [`PolicyError::Prompt`] if the other has no video, or as for [`Vlm::encode`].
    pub fn with_videos_of(&self, prompt: &Prompt, other: &Prompt) -> Result<Encoded, PolicyError> {
        let others: Vec<_> = other.media.iter().filter(|medium| matches!(medium, Media::Video(_))).collect();
        if others.is_empty() {
            return Err(wrong("the other prompt has no video".into()));
        }
        let config = self.config();
        let merge = (config.vision.spatial_merge_size * config.vision.spatial_merge_size) as usize;
        let tokens = |medium: &Media| {
            let grid = &medium.patches().grid;
            grid.t * grid.h * grid.w / merge
        };
        let (mut ids, mut media, mut rest) = (Vec::new(), Vec::new(), prompt.ids.as_slice());
        let mut others = others.into_iter().cycle();
        for medium in &prompt.media {
            let pad = medium.pad_token(config);
            let start = rest.iter().position(|id| *id == pad).unwrap_or(rest.len());
            let end = (start + tokens(medium)).min(rest.len());
            let shown = match medium {
                Media::Video(_) => others.next().unwrap_or(medium),
                Media::Image(_) => medium,
            };
            ids.extend_from_slice(&rest[..start]);
            ids.extend(std::iter::repeat_n(pad, tokens(shown)));
            media.push(shown.clone());
            rest = &rest[end..];
        }
        ids.extend_from_slice(rest);
        self.encode(&Prompt { ids, media })
    }
}

fn wrong(what: String) -> PolicyError {
    PolicyError::Prompt(what)
}

/// These features are 0.
fn zeroed(prompt: Encoded, shown: &Shown) -> Result<Encoded, PolicyError> {
    let rows = shown_rows(&prompt, shown)?;
    let features = prompt.features.as_ref().map(|x| x.index_fill(0, &prompt.feature_places(&rows), 0.0));
    Ok(Encoded { features, ..prompt })
}

/// Rows nobody attends to are as good as left out, as long as the others keep their positions.
fn hidden(prompt: Encoded, shown: &Shown) -> Result<Encoded, PolicyError> {
    let gone = shown_rows(&prompt, shown)?;
    let device = prompt.ids.device();
    let kept: Vec<i64> = (0..prompt.tokens() as i64).filter(|row| gone.binary_search(row).is_err()).collect();
    let rank = |row: &i64| kept.binary_search(row).ok().map(|rank| rank as i64);
    let left: Vec<_> =
        prompt.video_rows.iter().zip(&prompt.video_frames).filter_map(|(row, f)| Some((rank(row)?, *f))).collect();
    let index = Tensor::from_slice(&kept).to_device(device);
    // Of the places among the features, those that are not a gone row's.
    let places = prompt.feature_places(&gone);
    let all = Tensor::ones(prompt.pads.size(), (Kind::Bool, device));
    let stay = all.index_fill(0, &places, 0).nonzero().squeeze_dim(-1);
    Ok(Encoded {
        ids: prompt.ids.index_select(0, &index),
        positions: prompt.positions.index_select(1, &index),
        pads: prompt.pads.index_select(0, &stay).searchsorted(&index, false, false, "left", None::<Tensor>),
        features: prompt.features.as_ref().map(|features| features.index_select(0, &stay)),
        video_rows: left.iter().map(|(row, _)| *row).collect(),
        video_frames: left.iter().map(|(_, frame)| *frame).collect(),
        ..prompt
    })
}

/// Where frame f stood there stands frame `order[f]`.
fn reordered(prompt: Encoded, order: &[usize]) -> Result<Encoded, PolicyError> {
    let rows: Vec<_> = (0..prompt.frames()).map(|frame| rows_of(&prompt, |other| other == frame)).collect();
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if sorted != (0..prompt.frames()).collect::<Vec<_>>() {
        return Err(wrong(format!("expected an order of {} frames, found {order:?}", prompt.frames())));
    }
    if let Some((frame, shown)) =
        order.iter().enumerate().find(|(frame, shown)| rows[*frame].len() != rows[**shown].len())
    {
        return Err(wrong(format!("frame {shown} has another size than frame {frame}, whose place it would take")));
    }
    let source: Vec<i64> = order.iter().flat_map(|shown| rows[*shown].iter().copied()).collect();
    let [target, source] = [prompt.video_rows.as_slice(), &source].map(|rows| prompt.feature_places(rows));
    let features = prompt.features.as_ref().map(|x| x.index_copy(0, &target, &x.index_select(0, &source)));
    Ok(Encoded { features, ..prompt })
}

/// Rows of the media tokens of a part, ascending.
fn shown_rows(prompt: &Encoded, shown: &Shown) -> Result<Vec<i64>, PolicyError> {
    let Shown::Frames(frames) = shown else {
        return Ok(Vec::try_from(prompt.pads.to_device(Device::Cpu))?);
    };
    if let Some(frame) = frames.iter().find(|frame| **frame >= prompt.frames()) {
        return Err(wrong(format!("frame {frame} of a prompt with {}", prompt.frames())));
    }
    Ok(rows_of(prompt, |frame| frames.contains(&frame)))
}

/// Rows of the video tokens of some frames, ascending.
fn rows_of(prompt: &Encoded, frames: impl Fn(usize) -> bool) -> Vec<i64> {
    let tokens = prompt.video_rows.iter().zip(&prompt.video_frames);
    tokens.filter(|(_, frame)| frames(**frame as usize)).map(|(row, _)| *row).collect()
}

impl Encoded {
    /// Places of media rows among the features, i64.
    fn feature_places(&self, rows: &[i64]) -> Tensor {
        let rows = Tensor::from_slice(rows).to_device(self.pads.device());
        rows.searchsorted(&self.pads, false, false, "left", None::<Tensor>)
    }
}
