//! What prepared frames are found by.

use std::path::Path;

use serde::Serialize;

use crate::{PixelBudget, Sampling, VideoError};

/// Changes when decoding or resizing changes what the frames are, so that old entries are not found again.
const VERSION: u32 = 3;

/// A video by its name, and what its frames depend on beside its contents: the sampling, the pixel budget, the processor's
/// factor, and how many pictures of a folder are a second.
///
/// The name is the path within the data, the same on every machine; the file itself need not be there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey {
    pub(super) name: String,
    pub(super) settings: String,
}

#[derive(Serialize)]
struct Settings<'a> {
    version: u32,
    sampling: &'a Sampling,
    budget: &'a PixelBudget,
    factor: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    folder_fps: Option<f64>,
}

impl CacheKey {
    /// The key of the video called `name` under these settings.
    ///
    /// # Errors
    /// [`VideoError::BadFile`] for settings that cannot be written down.
    pub fn new(
        name: &Path,
        sampling: &Sampling,
        budget: &PixelBudget,
        factor: usize,
        folder_fps: Option<f64>,
    ) -> Result<Self, VideoError> {
        let settings = serde_json::to_vec(&Settings { version: VERSION, sampling, budget, factor, folder_fps })
            .map_err(|e| VideoError::BadFile { path: name.to_owned(), reason: e.to_string() })?;
        let settings = blake3::hash(&settings).to_hex()[..32].to_owned();
        Ok(Self { name: name.to_string_lossy().into_owned(), settings })
    }
}
