//! A short event somewhere in a long video: whether it is found, by length of the video and place of the event.

use std::path::PathBuf;

use anyhow::Result;
use foveate_video::uniform_indices;
use ndarray::Array2;

use super::{Found, Subject, share};
use crate::figures::{Column, HeatMap, Picture, Span, Table};
use crate::scenes::haystack;

/// Accuracy from picked frames and from frames at equal distances, over length and depth (figure 5).
pub(super) fn needle(subject: &Subject<'_>) -> Result<Found> {
    let args = subject.args;
    let count = subject.config.selector.last_picks();
    let mut right = [0, 1].map(|_| Array2::<f32>::zeros((args.lengths.len(), args.depths.len())));
    let (mut questions, folder) = (0, folder(subject));
    for (row, frames) in args.lengths.iter().enumerate() {
        for (column, depth) in args.depths.iter().enumerate() {
            let file = haystack(&folder, *frames, *depth, args.count)?;
            let (mut sums, mut of) = ([0.0; 2], 0);
            subject.questions_of(&file, |framed| {
                let picked = subject.picker.likeliest(&framed, count)?;
                let uniform = uniform_indices(framed.frames.len(), picked.len());
                let accuracy = subject.scorer.judge(&framed, &[picked, uniform])?.accuracy();
                sums.iter_mut().zip(&accuracy).for_each(|(sum, right)| *sum += *right);
                of += 1;
                Ok(())
            })?;
            questions += of;
            right.iter_mut().zip(sums).for_each(|(map, sum)| map[[row, column]] = sum / of.max(1) as f32);
        }
    }
    let names = ["picked", "at equal distances"];
    let mut table = Table::new("", &["frames of the video", names[0], names[1]]);
    let each = args.depths.len() * args.count;
    for (row, frames) in args.lengths.iter().enumerate() {
        let of_row = |map: &Array2<f32>| share(f64::from(map.row(row).sum()) * args.count as f64, each);
        table.push(vec![frames.to_string(), of_row(&right[0]), of_row(&right[1])]);
    }
    let text = format!(
        "{questions} questions, {} for each length and depth; {count} frames are shown. Accuracy of the frozen model in \
         percent over all depths, with Wilson's 95% interval. In the pictures: each length and depth, from picked frames and \
         from frames at equal distances.",
        args.count
    );
    Ok(Found {
        title: "Needle in a haystack",
        text: vec![text],
        tables: vec![table],
        pictures: vec![
            ("-picked", picture(subject, "picked frames", &right[0])),
            ("-uniform", picture(subject, "frames at equal distances", &right[1])),
        ],
    })
}

fn folder(subject: &Subject<'_>) -> PathBuf {
    subject.args.haystack.clone().unwrap_or_else(|| subject.folder.path().join("haystack"))
}

fn picture(subject: &Subject<'_>, name: &str, right: &Array2<f32>) -> Picture {
    let args = subject.args;
    let rows: Vec<String> = args.lengths.iter().map(|frames| format!("{frames} frames")).collect();
    let column = |depth: &f64| Column { label: format!("{:.0}%", 100.0 * depth), picture: None, marked: false };
    let columns: Vec<Column> = args.depths.iter().map(column).collect();
    HeatMap {
        title: format!("Accuracy by length of the video and depth of the event: {name}"),
        notes: Vec::new(),
        rows: &rows,
        columns: &columns,
        values: right.view(),
        span: Span { low: 0.0, high: 1.0 },
        what: "accuracy".into(),
    }
    .picture()
}
