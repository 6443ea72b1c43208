//! A frame selector as a sampler of frames: what other policies are trained and evaluated on (`frames.from`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use super::{Framed, Picker, Sees};
use crate::config::{Config, FramesTable};
use crate::data::{Clip, Example, MediaReader, View};
use crate::error::existing;
use crate::train::load_options;

/// The frames that a selector picks for each question. Picks are the likeliest ones, so they are made once and kept.
#[derive(Debug)]
pub struct Picked {
    // One question at a time: libtorch spreads each over the cores.
    picker: Mutex<Picker>,
    /// The candidates as the selector sees them.
    media: MediaReader,
    frames: FramesTable,
    count: usize,
    known: Mutex<HashMap<Asked, Vec<usize>>>,
}

/// A video, or a part of it, and what is asked about it.
type Asked = (PathBuf, Option<[u64; 2]>, String, Vec<String>);

impl Picked {
    /// The selector that a view names, if it does.
    ///
    /// # Errors
    /// A user error: the selector cannot be read.
    pub fn of(view: &View<'_>, config: &Config, root: &Path) -> Result<Option<Self>> {
        let Some(dir) = &view.frames.from else { return Ok(None) };
        existing("frames.from", dir)?;
        let picker = Picker::trained(dir, &load_options(config)?)?;
        let Sees { frames, pixels, .. } = picker.sees().clone();
        let media = MediaReader::new(&View { model: dir, frames: &frames, pixels: &pixels }, &config.data, root)?;
        let known = Mutex::new(HashMap::new());
        Ok(Some(Self { picker: Mutex::new(picker), media, frames, count: view.frames.picks, known }))
    }

    /// Which frames of a video are candidates.
    pub fn candidates(&self) -> &FramesTable {
        &self.frames
    }

    /// Places of the picked frames among those that are sampled, in their order in time.
    ///
    /// # Errors
    /// The video cannot be read, or the question is too long for the selector.
    pub fn places(&self, example: &Example, path: &Path, clip: Clip) -> Result<Vec<usize>> {
        let part = clip.map(|ends| ends.map(f64::to_bits));
        let asked = (path.to_owned(), part, example.question.clone(), example.options.clone());
        if let Some(places) = locked(&self.known).get(&asked) {
            return Ok(places.clone());
        }
        let framed = Framed::new(example.clone(), 0, self.media.frames_apart(path, clip)?);
        let mut places = locked(&self.picker).likeliest(&framed, self.count)?;
        places.sort_unstable();
        locked(&self.known).insert(asked, places.clone());
        Ok(places)
    }
}

/// A selector and a map stay whole if another thread panics.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
