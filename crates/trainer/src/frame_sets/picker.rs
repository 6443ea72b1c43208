//! A frame selector with what it is asked: which frames of a video a question is best answered from.

use std::path::Path;

use anyhow::Result;
use foveate_data::{Prompts, Seen};
use foveate_policy::{Candidates, GroupSeed, LoadOptions, Media, Origin, PickParams, Picks, Selector, model_type};
use tch::Tensor;

use super::Framed;
use crate::config::{SelectorTable, prompts};
use crate::error::{UserContext, user_error};

/// `model_type` of a selector's directory.
const SELECTOR: &str = "foveate-selector";

/// A selector that is asked about examples.
#[derive(Debug)]
pub struct Picker {
    selector: Selector,
    prompts: Prompts,
}

impl Picker {
    /// The selector in a directory; a new one, as `selector` says, for the vision tower of a Qwen2.5-VL directory.
    ///
    /// # Errors
    /// A user error: a model or the prompt cannot be read, or a setting does not fit it.
    pub fn open(dir: &Path, table: &SelectorTable, options: &LoadOptions, seed: u64) -> Result<Self> {
        let selector = if model_type(dir).user()? == SELECTOR {
            Selector::load(dir, options).user()?
        } else {
            let backbone = table.backbone.as_deref().unwrap_or(dir);
            let seed = seed as i64;
            let origin = Origin { tower: dir, backbone, pretrained: table.pretrained, pool: table.pool, seed };
            Selector::begin(&origin, options).user()?
        };
        Ok(Self { selector, prompts: prompts("selector.prompt", &table.prompt)? })
    }

    /// The selector in a directory, which must be one.
    ///
    /// # Errors
    /// A user error: it is another model's, or as [`Picker::open`].
    pub fn trained(dir: &Path, table: &SelectorTable, options: &LoadOptions) -> Result<Self> {
        match model_type(dir).user()? {
            found if found == SELECTOR => Self::open(dir, table, options, 0),
            found => Err(user_error(format!(
                "{}: expected a frame selector, as `trainer --algo refocus` saves it; found a model of type {found:?}",
                dir.display()
            ))),
        }
    }

    /// The selector.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// An example's question about its candidate frames, made ready.
    ///
    /// # Errors
    /// The prompt does not fit the example, or there are more positions than the backbone was made for.
    pub fn candidates(&self, framed: &Framed) -> Result<Candidates> {
        let seen = Seen { duration: framed.duration, frames: framed.frames.len() };
        let turn = self.prompts.fill(&framed.example, seen)?;
        let frames: Vec<_> = framed.frames.iter().map(Media::patches).collect();
        Ok(self.selector.candidates(&frames, turn.system.as_deref().unwrap_or_default(), &turn.user)?)
    }

    /// The likeliest set of so many frames, in the order in which they were picked; all frames if there are no more.
    ///
    /// # Errors
    /// As [`Picker::candidates`].
    pub fn likeliest(&self, framed: &Framed, picks: usize) -> Result<Vec<usize>> {
        let params = PickParams { sets: 1, picks: picks.min(framed.frames.len()), temperature: 0.0 };
        let found = self.pick(framed, &params, GroupSeed { seed: 0, step: 0, group: 0 })?;
        Ok(sets(&found.frames)?.remove(0))
    }

    /// Sets of frames.
    ///
    /// # Errors
    /// As [`Picker::candidates`], or a setting is out of range.
    pub fn pick(&self, framed: &Framed, params: &PickParams, seed: GroupSeed) -> Result<Picks> {
        Ok(self.selector.pick(&self.candidates(framed)?, params, seed)?)
    }
}

/// Sets of picks `[N, T]` on the host, each in the order in which its frames were picked.
///
/// # Errors
/// libtorch cannot give them.
pub fn sets(frames: &Tensor) -> Result<Vec<Vec<usize>>> {
    let rows = Vec::<Vec<i64>>::try_from(frames.to_device(tch::Device::Cpu))?;
    Ok(rows.into_iter().map(|row| row.into_iter().map(|frame| frame as usize).collect()).collect())
}
