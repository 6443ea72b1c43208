//! `trainer data prepare`: decodes the videos of a file of records into a frame cache.

mod one;

use anyhow::Result;
use foveate_video::FrameCache;

use crate::cli::PrepareArgs;
use crate::config::resolve_plain;
use crate::data::{Loader, LoaderOptions, LoaderState, MediaReader, Medium, Order, Records, Source, View};
use crate::error::{existing, user_error};
use crate::run::Progress;

const GIB: f64 = (1u64 << 30) as f64;

/// Records prepared together, between which progress is shown.
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
    config.data.cache = Some(folder.clone());
    config.data.format = args.format.unwrap_or(config.data.format);
    let records = config.data.training_records(input)?;
    let view = View::training(&config, model);
    let media = MediaReader::new(&view, &config.data, records.media_root())?;
    let count = records.len();
    let options = LoaderOptions { depth: BATCH, threads: config.data.threads, on_bad: config.data.on_bad_example };
    let videos = Videos { records, media };
    let mut loader = Loader::new(videos, Order::Once(count), options, LoaderState::default())?;
    let mut progress = Progress::start(0, count as u64);
    let mut decoded = 0;
    let cache = FrameCache::open(folder);
    loop {
        let batch = loader.batch(BATCH)?;
        if batch.examples.is_empty() {
            break;
        }
        decoded += batch.examples.iter().sum::<usize>();
        if let Some(most) = args.max_gib {
            let held = || Ok::<f64, anyhow::Error>(cache.bytes()? as f64 / GIB);
            if held()? > most {
                cache.prune()?;
            }
            let held = held()?;
            if held > most {
                let done = loader.state().position;
                return Err(user_error(format!(
                    "{}: {held:.1} GiB after {done} records, more than --max-gib {most}; what is prepared stays",
                    folder.display()
                )));
            }
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
    media: MediaReader,
}

impl Source for Videos {
    /// Videos that had to be decoded.
    type Item = usize;

    fn count(&self) -> usize {
        self.records.len()
    }

    fn name(&self, record: usize) -> String {
        self.records.place(record)
    }

    fn prepare(&self, record: usize) -> Result<usize> {
        let mut decoded = 0;
        for media in self.records.get(record)?.media {
            if let Medium::Video { path, clip } = media {
                decoded += usize::from(self.media.prepare(&path, clip)?);
            }
        }
        Ok(decoded)
    }
}
