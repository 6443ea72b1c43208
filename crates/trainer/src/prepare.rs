//! `trainer data prepare`: decodes the videos of a file of records into a frame cache.

use anyhow::Result;

use crate::cli::PrepareArgs;
use crate::config::resolve_plain;
use crate::data::{Loader, LoaderOptions, LoaderState, MediaPath, MediaReader, Order, Records, Source, View};
use crate::error::existing;
use crate::run::Progress;

/// Records prepared together, between which progress is shown.
const BATCH: usize = 32;

/// Fills the cache and says what was done.
///
/// # Errors
/// A user error in the settings, the model or the records; or a bad example if those are to stop it.
pub fn run(args: &PrepareArgs) -> Result<()> {
    let mut config = resolve_plain(&args.settings.layers(args.algo.as_deref()))?;
    existing("--model", &args.model)?;
    existing("--input", &args.input)?;
    config.data.cache = Some(args.cache.clone());
    let records = Records::open(&args.input, config.data.media_root.as_deref())?;
    let view = View::training(&config, &args.model);
    let media = MediaReader::new(&view, &config.data, records.media_root())?;
    let count = records.len();
    let options = LoaderOptions { depth: BATCH, threads: config.data.threads, on_bad: config.data.on_bad_example };
    let videos = Videos { records, media };
    let mut loader = Loader::new(videos, Order::Once(count), options, LoaderState::default())?;
    let mut progress = Progress::start(0, count as u64);
    let mut decoded = 0;
    loop {
        let batch = loader.batch(BATCH)?;
        if batch.examples.is_empty() {
            break;
        }
        decoded += batch.examples.iter().sum::<usize>();
        progress.at(loader.state().position, &format!("{decoded} videos decoded"));
    }
    progress.finish();
    let bad = loader.state().bad.len();
    println!("{count} records, {decoded} videos decoded into {}, {bad} bad examples", args.cache.display());
    Ok(())
}

struct Videos {
    records: Records,
    media: MediaReader,
}

impl Source for Videos {
    /// Videos that had to be decoded.
    type Item = usize;

    fn name(&self, record: usize) -> String {
        self.records.place(record)
    }

    fn prepare(&self, record: usize) -> Result<usize> {
        let mut decoded = 0;
        for media in self.records.get(record)?.media {
            if let MediaPath::Video(path) = media {
                decoded += usize::from(self.media.prepare(&path)?);
            }
        }
        Ok(decoded)
    }
}
