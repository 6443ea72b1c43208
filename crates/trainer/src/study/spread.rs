//! How widely picks are spread over the video while the selector learns.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Found, Subject};
use crate::error::UserContext;
use crate::figures::{Curve, CurveChart, Stroke, Table, palette};

/// Steps that a point of the curve is the mean of.
const WINDOW: usize = 10;

/// Temporal entropy of the sets of each step (figure 6), and the share of sets that hold a frame of the event.
pub(super) fn spread(subject: &Subject<'_>) -> Result<Found> {
    let text = fs_err::read_to_string(subject.folder.metrics()).user()?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let values = |name: &str| -> Vec<[f64; 2]> {
        let point = |line: &Value| Some([line["step"].as_f64()?, line[name].as_f64()?]);
        lines.iter().filter_map(point).collect()
    };
    let entropy = values("refocus/temporal_entropy");
    let found = values("refocus/event_found");
    let means = |points: &[[f64; 2]]| -> Vec<[f64; 2]> {
        let mean = |points: &[[f64; 2]], of: usize| points.iter().map(|p| p[of]).sum::<f64>() / points.len() as f64;
        points.chunks(WINDOW).map(|chunk| [mean(chunk, 0), mean(chunk, 1)]).collect()
    };
    let (smooth, event) = (means(&entropy), means(&found));
    let first = smooth.first().context("the run has no steps").user()?;
    let last = smooth.last().context("the run has no steps").user()?;
    let mut table = Table::new("", &["", "first steps", "last steps"]);
    table.push(vec!["temporal entropy, nats".into(), format!("{:.3}", first[1]), format!("{:.3}", last[1])]);
    if let (Some(first), Some(last)) = (event.first(), event.last()) {
        let percent = |value: f64| format!("{:.1}", 100.0 * value);
        table.push(vec!["sets with a frame of the event, %".into(), percent(first[1]), percent(last[1])]);
    }
    let curve =
        |name: &str, points, colour, stroke| Curve { name: name.into(), points, band: Vec::new(), colour, stroke };
    let chart = CurveChart {
        title: "Temporal entropy of picks".into(),
        x: "step".into(),
        y: "nats".into(),
        curves: vec![
            curve("", entropy, palette(0), Stroke::Faint),
            curve(&format!("mean of {WINDOW} steps"), smooth, palette(0), Stroke::Solid),
        ],
    };
    let text = format!(
        "Kozachenko-Leonenko entropy of the times of a set's picks, mean over the sets of a step: that of the density they \
         are drawn from, 0 where that is uniform over the video (somewhat more of frames that never coincide). First and last \
         steps: at most {WINDOW} of them."
    );
    Ok(Found {
        title: "Temporal entropy over training",
        text: vec![text],
        tables: vec![table],
        pictures: vec![("", chart.picture())],
    })
}
