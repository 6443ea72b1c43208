//! `trainer select`: which frames of a video a selector picks for a question.

use anyhow::Result;
use foveate_policy::{GroupSeed, PickParams};
use image::RgbImage;
use ndarray::Array1;

use crate::cli::SelectArgs;
use crate::config::{Config, resolve_plain};
use crate::data::{Example, MediaReader, Medium, View};
use crate::error::{UserContext, existing};
use crate::figures::{ContactSheet, Table, Thumbnail, data_uri};
use crate::frame_sets::{Framed, Picker, Sees, density, sets};
use crate::run::write_atomically;
use crate::train::load_options;

/// Picks, prints the frames with their times, and writes them as a table and as a contact sheet.
///
/// # Errors
/// A user error: the selector or the video cannot be read, or a setting is wrong; or the files cannot be written.
pub fn run(args: &SelectArgs) -> Result<()> {
    let config = resolve_plain(&args.settings.layers(None))?;
    existing("--model", &args.model)?;
    existing("--video", &args.video)?;
    let picker = Picker::trained(&args.model, &load_options(&config)?)?;
    let media = reader(args, &config, picker.sees())?;
    let example = Example {
        id: args.video.display().to_string(),
        media: vec![Medium::video(&args.video)],
        question: args.question.clone(),
        options: foveate_data::option_texts(args.options.clone()),
        ..Example::default()
    };
    let framed = Framed::new(example, 0, media.frames_apart(&args.video, None).user()?);
    let candidates = framed.frames.len();
    if candidates < args.frames {
        tracing::info!("{}: has {candidates} candidate frames: all of them", args.video.display());
    }
    let picks = args.frames.min(candidates);
    let picked = picker.pick(&framed, &PickParams { sets: 1, picks, temperature: 0.0 }, seed(args)).user()?;
    let probabilities = Vec::<f64>::try_from(picked.scores().logprobs.exp().flatten(0, -1))?;
    let order = sets(&picked.frames)?.remove(0);
    let table = table(&framed, &order, &probabilities);
    print!("{}", table.text());
    if let Some(output) = &args.output {
        let drawn = PickParams { sets: args.sets, picks, temperature: args.temperature };
        let density = density(&sets(&picker.pick(&framed, &drawn, seed(args)).user()?.frames)?, candidates);
        let sheet = sheet(args, &framed, &order, &density, &media.pictures(&args.video, None).user()?)?;
        fs_err::create_dir_all(output).user()?;
        write_atomically(&output.join("picks.csv"), &table.csv()?)?;
        write_atomically(&output.join("sheet.png"), &sheet.picture().png()?)?;
        println!("{}", output.join("sheet.png").display());
    }
    Ok(())
}

fn reader(args: &SelectArgs, config: &Config, sees: &Sees) -> Result<MediaReader> {
    let root = config.data.media_root.clone().unwrap_or_default();
    MediaReader::new(&View { model: &args.model, frames: &sees.frames, pixels: &sees.pixels }, &config.data, &root)
}

fn seed(args: &SelectArgs) -> GroupSeed {
    GroupSeed { seed: args.seed, step: 0, group: 0 }
}

fn table(framed: &Framed, order: &[usize], probabilities: &[f64]) -> Table {
    let mut table =
        Table::new("Frames in the order in which they are picked", &["pick", "frame", "seconds", "probability"]);
    for ((pick, place), probability) in order.iter().enumerate().zip(probabilities) {
        table.push(vec![
            pick.to_string(),
            framed.indices[*place].to_string(),
            format!("{:.3}", framed.times[*place]),
            format!("{probability:.4}"),
        ]);
    }
    table
}

fn sheet(
    args: &SelectArgs,
    framed: &Framed,
    order: &[usize],
    density: &Array1<f64>,
    pictures: &[RgbImage],
) -> Result<ContactSheet> {
    let mut places: Vec<(usize, usize)> =
        order.iter().copied().enumerate().map(|(pick, place)| (place, pick)).collect();
    places.sort_unstable();
    let thumbnail = |(place, pick): &(usize, usize)| {
        let picture = pictures.get(*place);
        Ok(Thumbnail {
            picture: picture.map(data_uri).transpose()?.unwrap_or_default(),
            aspect: picture.map_or(1.0, |image| f64::from(image.width()) / f64::from(image.height().max(1))),
            label: format!("{:.2} s, pick {pick}", framed.times[*place]),
            seconds: framed.times[*place],
        })
    };
    Ok(ContactSheet {
        title: format!("{}: {} of {} frames", args.question, order.len(), framed.frames.len()),
        frames: places.iter().map(thumbnail).collect::<Result<_>>()?,
        density: framed.times.iter().zip(density).map(|(seconds, share)| [*seconds, *share]).collect(),
        duration: framed.duration,
    })
}
