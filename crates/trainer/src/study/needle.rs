//! A short event somewhere in a long video: whether it is found, by length of the video and place of the event.

use std::path::PathBuf;

use anyhow::Result;
use ndarray::Array2;

use super::{Found, Subject, share};
use crate::figures::{Column, HeatMap, Picture, Span, Table};
use crate::scenes::haystack;

/// Accuracy from picked frames and from frames at equal distances, over length and depth (figure 5).
pub(super) fn needle(subject: &Subject<'_>) -> Result<Found> {
    let args = subject.args;
    let count = subject.config.selector.last_picks();
    let mut right = [0, 1].map(|_| Array2::<f32>::zeros((args.lengths.len(), args.depths.len())));
    let (mut rows, mut questions, folder) = (Vec::new(), 0, folder(subject));
    for (row, frames) in args.lengths.iter().enumerate() {
        let (mut of_row, mut asked) = ([0.0; 2], 0);
        for (column, depth) in args.depths.iter().enumerate() {
            let file = haystack(&folder, *frames, *depth, args.count)?;
            let (mut sums, mut of) = ([0.0; 2], 0);
            subject.questions_of(&file, 0, |framed| {
                let sets = subject.picker.beside_uniform(&framed, count)?;
                let accuracy = subject.scorer.judge(&framed, &sets)?.accuracy();
                sums.iter_mut().zip(&accuracy).for_each(|(sum, right)| *sum += *right);
                of += 1;
                Ok(())
            })?;
            of_row.iter_mut().zip(sums).for_each(|(row, sum)| *row += f64::from(sum));
            asked += of;
            right.iter_mut().zip(sums).for_each(|(map, sum)| map[[row, column]] = sum / of.max(1) as f32);
        }
        questions += asked;
        rows.push(vec![frames.to_string(), share(of_row[0], asked), share(of_row[1], asked)]);
    }
    let mut table = Table::new("", &["frames of the video", "picked", "at equal distances"]);
    rows.into_iter().for_each(|row| table.push(row));
    let depths = args.depths.iter().map(|depth| format!("{:.0}%", 100.0 * depth));
    let header: Vec<String> =
        std::iter::once("frames of the video, picked, by depth".to_owned()).chain(depths).collect();
    let mut cells = Table::new("", &header.iter().map(String::as_str).collect::<Vec<_>>());
    for (row, frames) in args.lengths.iter().enumerate() {
        let accuracies = right[0].row(row).into_iter().map(|value| format!("{:.0}", 100.0 * value));
        cells.push(std::iter::once(frames.to_string()).chain(accuracies).collect());
    }
    let text = format!(
        "{questions} questions, {} for each length and depth; {count} frames are shown. Accuracy of the frozen model in \
         percent over all depths, with Wilson's 95% interval. In the pictures: each length and depth, from picked frames and \
         from frames at equal distances, the first and last of which show an event at the ends.",
        args.count
    );
    Ok(Found {
        title: "Needle in a haystack",
        text: vec![text],
        tables: vec![table, cells],
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
