//! Which questions' answers depend on the frames that are shown (ReFoCUS, appendix A.1).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use foveate_algo::{
    refocus,
    sensitivity::{evenly, variance, windows},
};
use foveate_data::Records;
use serde::{Deserialize, Serialize};

use super::{FrameScorer, Framed, FramedExamples, Part};
use crate::begun::{Begun, judging};
use crate::cli::FilterArgs;
use crate::config::{OnBadExample, resolve_plain};
use crate::data::View;
use crate::error::{UserContext, user_error};
use crate::run::{Stop, existing_model, write_lines};

/// Fewest candidate frames that windows are made of.
const FEWEST: usize = 8;

/// What a model made of one question from frames inside and outside of windows: a line of the file of margins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Margins {
    /// The example's name.
    id: String,
    /// Number of candidate frames.
    frames: usize,
    /// `tanh((z_gold - z_best_wrong) / 2)` for each set of frames: within each window, then outside of each; windows without
    /// a frame are left out.
    margins: Vec<f32>,
    /// Their variance, divided by their number.
    variance: f64,
}

/// The questions whose variance is large enough, by record.
#[derive(Debug)]
pub struct Sensitivity {
    variances: HashMap<usize, f64>,
    begun: Begun<(usize, Margins)>,
    least: f64,
}

impl Sensitivity {
    /// Has the model answer every question from up to 16 sets of frames, from where an earlier command was stopped, and
    /// writes the margins to `margins`; `None` if this one is stopped too.
    ///
    /// # Errors
    /// A user error: the model or the examples cannot be read, or a setting is wrong.
    pub fn measure(
        records: &Arc<Records>,
        model: &Path,
        margins: &Path,
        args: &FilterArgs,
        stop: &Stop,
    ) -> Result<Option<Self>> {
        let paper = args.settings.config.is_none().then_some(refocus::NAME);
        let config = resolve_plain(&args.settings.layers(args.algo.as_deref().or(paper)))?;
        existing_model("--model", model)?;
        if args.subset_frames == 0 {
            return Err(user_error("--subset-frames: expected at least 1"));
        }
        let scorer = FrameScorer::load(model, &config)?;
        let examples = FramedExamples::new(Arc::clone(records), &View::training(&config, model), &config)?;
        let mut begun = Begun::beside(
            &args.output,
            &judging(&args.source, model, &config, ("frame-sensitivity", args.subset_frames))?,
        )?;
        let (mut judged, from) = begun.taken();
        let bad = examples.visit(&config.data, Part { limit: 0, from, stop: Some(stop) }, |framed, state| {
            let found = match of_question(&scorer, &framed, args.subset_frames) {
                Ok(margins) => Some((framed.record, margins)),
                Err(error) if config.data.on_bad_example == OnBadExample::Stop => return Err(error).user(),
                Err(error) => {
                    tracing::warn!("{}: {error:#}; not kept", framed.example.id);
                    None
                }
            };
            begun.add(state, found.as_slice())?;
            judged.extend(found);
            Ok(())
        })?;
        if stop.requested() {
            println!("stopped after {} records were judged; the same command goes on from there", judged.len());
            return Ok(None);
        }
        if judged.is_empty() {
            return Err(user_error("none of the examples could be judged"));
        }
        let unjudged = records.len().saturating_sub(judged.len() + bad);
        if unjudged + bad > 0 {
            tracing::warn!("{unjudged} records could not be judged and {bad} not be prepared; they are not kept");
        }
        let variances = judged.iter().map(|(record, margins)| (*record, margins.variance)).collect();
        let lines: Vec<Margins> = judged.into_iter().map(|(_, margins)| margins).collect();
        write_lines(margins, &lines).user()?;
        Ok(Some(Self { variances, begun, least: args.min_variance }))
    }

    /// The records are written: what was kept to go on with is needed no more.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn done(self) -> Result<()> {
        self.begun.remove()
    }

    /// Whether the answer depends on the frames; that of a record that could not be judged is not known.
    pub fn keeps(&self, record: usize) -> bool {
        self.variances.get(&record).is_some_and(|variance| *variance > self.least)
    }
}

fn of_question(scorer: &FrameScorer, framed: &Framed, count: usize) -> Result<Margins> {
    let frames = framed.frames.len();
    ensure!(frames >= FEWEST, "expected a video of at least {FEWEST} candidate frames, found {frames}");
    let windows = windows(frames);
    let sides = [0, 1].into_iter().flat_map(|side| windows.iter().map(move |window| &window[side]));
    let sets: Vec<_> = sides.filter(|frames| !frames.is_empty()).map(|frames| evenly(frames, count)).collect();
    let margins = scorer.judge(framed, &sets)?.rewards().to_vec();
    let variance = variance(&margins).ok_or_else(|| anyhow::anyhow!("a margin is no number"))?;
    Ok(Margins { id: framed.example.id.clone(), frames, margins, variance })
}
