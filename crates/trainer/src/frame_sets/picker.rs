//! A frame selector with what it is asked: which frames of a video a question is best answered from.

use std::path::Path;

use anyhow::{Context, Result};
use foveate_data::{Prompts, Seen};
use foveate_policy::{
    Candidates, GroupSeed, LoadOptions, Media, Origin, PickParams, Picks, SELECTOR_TYPE, Selector, model_type,
};
use foveate_video::uniform_indices;
use ndarray::{Array1, Array2, Axis};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::Framed;
use crate::config::{Config, FramesTable, PixelsTable, prompt_text};
use crate::error::{UserContext, user_error};
use crate::run::{read_json, write_json};

/// A selector that is asked about examples.
#[derive(Debug)]
pub struct Picker {
    selector: Selector,
    prompts: Prompts,
    sees: Sees,
}

/// What a selector was trained to see, kept beside it: asked otherwise it would pick anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sees {
    /// The prompt, as its file is written.
    prompt: String,
    /// Which frames of a video are candidates.
    pub frames: FramesTable,
    /// Their size.
    pub pixels: PixelsTable,
}

/// File of what a selector sees within its directory.
const SEES: &str = "selector.json";

impl Sees {
    /// What the selector in a directory was trained to see.
    ///
    /// # Errors
    /// A user error: it cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        read_json(&dir.join(SEES)).context("what the selector was trained to see").user()
    }
}

impl Picker {
    /// The selector that a run trains: that of its checkpoint, or of `model.path`, or if that is a Qwen2.5-VL model a new one
    /// for its vision tower. It sees what the configuration says.
    ///
    /// # Errors
    /// A user error: a model or the prompt cannot be read, or a setting does not fit it.
    pub fn training(config: &Config, checkpoint: Option<&Path>, options: &LoadOptions) -> Result<Self> {
        let dir = checkpoint.map_or_else(|| config.model_path(), Ok)?;
        let table = &config.selector;
        let selector = if model_type(dir).user()? == SELECTOR_TYPE {
            Selector::load(dir, options).user()?
        } else {
            let backbone = table.backbone.as_deref().unwrap_or(dir);
            let seed = config.run.seed as i64;
            let origin = Origin { tower: dir, backbone, pretrained: table.pretrained, pool: table.pool, seed };
            Selector::begin(&origin, options).user()?
        };
        let prompt = prompt_text("selector.prompt", &table.prompt)?;
        let sees = Sees { prompt, frames: config.data.frames.clone(), pixels: config.data.pixels.clone() };
        Self::of(selector, sees, "selector.prompt")
    }

    /// The selector in a directory, which must be one, and what it was trained to see.
    ///
    /// # Errors
    /// A user error: it is another model's, or it cannot be read.
    pub fn trained(dir: &Path, options: &LoadOptions) -> Result<Self> {
        let found = model_type(dir).user()?;
        if found != SELECTOR_TYPE {
            return Err(user_error(format!(
                "{}: expected a frame selector, as `trainer --algo refocus` saves it; found a model of type {found:?}",
                dir.display()
            )));
        }
        Self::of(Selector::load(dir, options).user()?, Sees::read(dir)?, SEES)
    }

    fn of(selector: Selector, sees: Sees, prompt: &str) -> Result<Self> {
        let prompts = Prompts::parse(prompt, &sees.prompt).user()?;
        Ok(Self { selector, prompts, sees })
    }

    /// Saves a directory that [`Picker::trained`] reads.
    ///
    /// # Errors
    /// Something cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.selector.save(dir)?;
        write_json(&dir.join(SEES), &self.sees)
    }

    /// What it sees.
    pub fn sees(&self) -> &Sees {
        &self.sees
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
        let seen = Seen { duration: framed.duration, times: &framed.times };
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

    /// The likeliest set of so many frames, and as many frames at equal distances.
    ///
    /// # Errors
    /// As [`Picker::candidates`].
    pub fn beside_uniform(&self, framed: &Framed, picks: usize) -> Result<[Vec<usize>; 2]> {
        let picked = self.likeliest(framed, picks)?;
        let uniform = uniform_indices(framed.frames.len(), picked.len());
        Ok([picked, uniform])
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

/// How often each candidate is in a set, mean over the sets.
pub fn density(sets: &[Vec<usize>], candidates: usize) -> Array1<f64> {
    let mut held = Array2::zeros((sets.len(), candidates));
    for (set, picks) in sets.iter().enumerate() {
        picks.iter().for_each(|place| held[[set, *place]] = 1.0);
    }
    held.mean_axis(Axis(0)).unwrap_or_else(|| Array1::zeros(candidates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_density_is_the_share_of_the_sets_that_hold_a_frame() {
        let found = density(&[vec![0, 2], vec![2, 3], vec![2, 0], vec![2, 1]], 5);
        assert_eq!(found.to_vec(), [0.5, 0.25, 1.0, 0.25, 0.0]);
        assert_eq!(density(&[], 2).to_vec(), [0.0, 0.0]);
    }
}
