//! Pictures of attention.

use anyhow::Result;
use ndarray::Array1;

use super::{Completion, Looked};
use crate::figures::{BarChart, Bars, Column, HeatMap, MAX_ROWS, Picture, Rgb, Span, Table, data_uri, palette};

/// Completions that have bars of their own where nothing says which are right.
const MAX_BARS: usize = 6;

impl Looked {
    /// Every completion's tokens over frames, all on one colour scale.
    pub(super) fn heat_maps(&self) -> Result<Vec<Picture>> {
        let (columns, span) = (self.columns()?, self.span());
        Ok(self.completions.iter().map(|completion| self.heat_map(completion, &columns, span)).collect())
    }

    fn heat_map(&self, completion: &Completion, columns: &[Column], span: Span) -> Picture {
        let mut notes: Vec<String> = self.question.first().into_iter().cloned().collect();
        if completion.tokens.len() > MAX_ROWS {
            notes.push(format!("the first {MAX_ROWS} tokens"));
        }
        let map = HeatMap {
            title: completion.heading(),
            notes,
            rows: &completion.tokens,
            columns,
            values: completion.attention.view(),
            span,
            what: "attention on the frame".into(),
        };
        map.picture()
    }

    fn columns(&self) -> Result<Vec<Column>> {
        let column = |(index, frame): (usize, &super::Frame)| {
            let picture = frame.picture.as_ref().map(data_uri).transpose()?;
            Ok(Column { label: frame.label(index), picture, marked: frame.event })
        };
        self.frames.iter().enumerate().map(column).collect()
    }

    /// The colour scale of all completions.
    pub(super) fn span(&self) -> Span {
        Span::of(self.completions.iter().flat_map(|completion| completion.attention.iter().copied()))
    }

    /// Mean attention on each frame: of the right and the wrong completions, or of each where that is not known.
    pub(super) fn frame_chart(&self) -> Picture {
        let series = match (self.mean_of(Some(true)), self.mean_of(Some(false))) {
            (None, None) => self.separate(),
            (right, wrong) => {
                let sides = [("right completions", Rgb::RIGHT, right), ("wrong completions", Rgb::WRONG, wrong)];
                let named = |(name, colour, mean): (&str, Rgb, Option<Array1<f32>>)| Some(bars(name, colour, &mean?));
                sides.into_iter().filter_map(named).collect()
            }
        };
        let chart = BarChart {
            title: "Attention on frames, mean over tokens".into(),
            x: if self.frames[0].seconds.is_some() { "time of the frame" } else { "frame" }.into(),
            y: "attention mass".into(),
            categories: self.frames.iter().enumerate().map(|(index, frame)| frame.label(index)).collect(),
            marked: self.frames.iter().map(|frame| frame.event).collect(),
            series,
        };
        chart.picture()
    }

    fn separate(&self) -> Vec<Bars> {
        let some = self.completions.iter().take(MAX_BARS).enumerate();
        some.map(|(place, one)| bars(&format!("completion {}", one.index), palette(place), &one.mean())).collect()
    }

    /// Mean over the completions that are right, or wrong; none if there are none.
    fn mean_of(&self, side: Option<bool>) -> Option<Array1<f32>> {
        let of_side: Vec<_> = self.completions.iter().filter(|completion| completion.right() == side).collect();
        let first = of_side.first()?.mean();
        let sum = of_side[1..].iter().fold(first, |sum, completion| sum + completion.mean());
        Some(sum / of_side.len() as f32)
    }

    /// Every number of the pictures.
    pub(super) fn table(&self) -> Table {
        let header = ["completion", "accuracy", "position", "token", "frame", "seconds", "event", "attention"];
        let mut table = Table::new("attention of each token on each frame", &header);
        for completion in &self.completions {
            let accuracy = completion.scores.map(|scores| scores.accuracy.to_string()).unwrap_or_default();
            for ((position, frame), value) in completion.attention.indexed_iter() {
                table.push(vec![
                    completion.index.to_string(),
                    accuracy.clone(),
                    position.to_string(),
                    completion.tokens[position].clone(),
                    frame.to_string(),
                    self.frames[frame].seconds.map(|seconds| seconds.to_string()).unwrap_or_default(),
                    u8::from(self.frames[frame].event).to_string(),
                    value.to_string(),
                ]);
            }
        }
        table
    }
}

fn bars(name: &str, colour: Rgb, mean: &Array1<f32>) -> Bars {
    Bars { name: name.into(), values: mean.iter().copied().map(f64::from).collect(), colour }
}
