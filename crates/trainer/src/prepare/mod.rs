//! `trainer data prepare`: decodes the videos of a file of records into a frame cache.

mod one;

use std::path::PathBuf;

use anyhow::{Context, Result};
use foveate_video::{FrameCache, VideoError};

use crate::cli::{PrepareArgs, SeenBy};
use crate::config::resolve_plain;
use crate::data::{Loader, LoaderOptions, LoaderState, MediaReader, Medium, Order, Records, Source, View};
use crate::error::{UserContext, existing, user_error};
use crate::frame_sets::Sees;
use crate::run::Progress;

const GIB: f64 = (1u64 << 30) as f64;

/// Videos prepared ahead, and records between which progress is shown.
const BATCH: usize = 32;

/// Fills the cache and says what was done.
///
/// # Errors
/// A user error in the settings, the model or the records; or a bad example if those are to stop it.
pub fn run(args: &PrepareArgs) -> Result<()> {
    if let Some(video) = &args.video {
        return one::run(args, video);
    }
    let (Some(model), Some(input), Some(folder)) = (&args.model, &args.input, &args.cache) else {
        return Err(user_error("--model, --input and --cache are needed, or --video for a single one"));
    };
    let mut config = resolve_plain(&args.settings.layers(args.algo.as_deref()))?;
    existing("--model", model)?;
    existing("--input", input)?;
    fs_err::create_dir_all(folder).user()?;
    config.data.cache = Some(folder.clone());
    config.data.format = args.format.unwrap_or(config.data.format);
    config.data.test_format = args.format.or(config.data.test_format);
    let (records, view) = match args.seen {
        SeenBy::Training => (config.data.training_records(input)?, View::training(&config, model)),
        SeenBy::Evaluation => (config.data.test_records(input)?, View::evaluation(&config, model)),
    };
    let cache = match args.max_gib {
        Some(most) => FrameCache::bounded(folder, (most * GIB) as u64).user()?,
        None => FrameCache::open(folder),
    };
    let selector = view.frames.from.as_deref();
    let sees = selector.map(Sees::read).transpose()?;
    let views = match selector.zip(sees.as_ref()) {
        // A selector's candidates, as it sees them, and at the size that the policy sees.
        Some((model, Sees { frames, pixels, .. })) => {
            vec![View { model, frames, pixels }, View { frames, ..view }]
        }
        None => vec![view],
    };
    let reader =
        |view: &View<'_>| Ok(MediaReader::new(view, &config.data, records.media_root())?.with_cache(cache.clone()));
    let media = views.iter().map(reader).collect::<Result<Vec<_>>>()?;
    let count = records.len();
    let options = LoaderOptions { depth: BATCH, threads: config.data.threads, on_bad: config.data.on_bad_example };
    let videos = Videos { records, media, folder: folder.clone() };
    let mut loader = Loader::new(videos, Order::Once(count), options, LoaderState::default())?;
    let mut progress = Progress::start(0, count as u64);
    let mut decoded = 0;
    while loader.state().position < count as u64 {
        for videos in loader.batch(BATCH)?.examples {
            decoded += videos.with_context(|| format!("{decoded} videos prepared")).user()?;
        }
        progress.at(loader.state().position, &format!("{decoded} videos decoded"));
    }
    progress.finish();
    let bad = loader.state().bad.len();
    println!("{count} records, {decoded} videos decoded into {}, {bad} bad examples", folder.display());
    Ok(())
}

struct Videos {
    records: Records,
    /// As many as there are ways in which a video is seen.
    media: Vec<MediaReader>,
    /// Where the cache is.
    folder: PathBuf,
}

impl Videos {
    fn is_the_caches(&self, error: &VideoError) -> bool {
        match error {
            VideoError::CacheFull { .. } => true,
            VideoError::Io { path, .. } => path.starts_with(&self.folder),
            _ => false,
        }
    }
}

impl Source for Videos {
    /// Videos that had to be decoded; or that the cache is full, or its disk refuses, which is no fault of the example.
    type Item = Result<usize, VideoError>;

    fn count(&self) -> usize {
        self.records.len()
    }

    fn name(&self, record: usize) -> String {
        self.records.place(record)
    }

    fn prepare(&self, record: usize) -> Result<Self::Item> {
        let mut decoded = 0;
        for media in self.records.get(record)?.media {
            let Medium::Video { path, clip } = media else { continue };
            for reader in &self.media {
                match reader.prepare(&path, clip) {
                    Ok(new) => decoded += usize::from(new),
                    Err(error) => match error.downcast() {
                        Ok(error) if self.is_the_caches(&error) => return Ok(Err(error)),
                        Ok(other) => return Err(other.into()),
                        Err(error) => return Err(error),
                    },
                }
            }
        }
        Ok(Ok(decoded))
    }
}
