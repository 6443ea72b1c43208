//! Heat maps of rows of text over frames of a video.

use maud::{Markup, html};
use ndarray::{ArrayView2, Axis};

use super::colour::{Rgb, sequential};
use super::picture::{Picture, fitted, n, text_width};
use super::plot::{LABEL, TITLE, title};

/// Rows of a heat map at most: a taller picture would fit no screen and no page.
pub const MAX_ROWS: usize = 1024;

/// Height of the colour scale: as high as the map, within these bounds.
const SCALE: f64 = 150.0;
const LOWEST: f64 = 120.0;

/// A column of a heat map: a frame.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name.
    pub label: String,
    /// The frame itself, as [`super::data_uri`] gives it.
    pub picture: Option<String>,
    /// Whether the true event is in it.
    pub marked: bool,
}

/// Ends of the colour scale.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// White, at and below.
    pub low: f64,
    /// Darkest, at and above.
    pub high: f64,
}

impl Span {
    /// The scale on which all but the most extreme hundredth at either end can be told apart.
    pub fn of(values: impl Iterator<Item = f32>) -> Self {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).map(f64::from).collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values.get(((values.len().max(1) - 1) as f64 * share).round() as usize).copied();
        let (low, high) = (at(0.01).unwrap_or(0.0), at(0.99).unwrap_or(1.0));
        Self { low, high: if high > low { high } else { low + 1.0 } }
    }

    /// The colour of a value.
    pub fn colour(&self, value: f64) -> Rgb {
        sequential((value - self.low) / (self.high - self.low))
    }
}

/// Values of rows of text over columns of frames.
#[derive(Debug, Clone)]
pub struct HeatMap<'a> {
    /// What is to be seen.
    pub title: String,
    /// More of it, in a line or two.
    pub notes: Vec<String>,
    /// Names of the rows.
    pub rows: &'a [String],
    /// The columns.
    pub columns: &'a [Column],
    /// `[rows, columns]`.
    pub values: ArrayView2<'a, f32>,
    /// Ends of the colour scale.
    pub span: Span,
    /// What the values are.
    pub what: String,
}

/// Where the parts of a heat map stand.
struct Layout {
    left: f64,
    cell: [f64; 2], // width, height
    pictures: f64,
    labels: f64,
    means: f64, // bottom of the bars
    top: f64,
    right: f64,
    bottom: f64,
}

impl HeatMap<'_> {
    /// The map as a drawing: frames, the mean over rows, then a line for each row.
    pub fn picture(&self) -> Picture {
        let layout = self.layout();
        let width = (layout.right + 96.0).max(text_width(&self.title, TITLE) + 40.0).max(420.0);
        let body = html! {
            (title(&self.title, 14.0))
            @for (index, note) in self.notes.iter().enumerate() {
                text x="14" y=(36.0 + 16.0 * index as f64) font-size=(LABEL) fill=(Rgb::GREY) {
                    (fitted(note, LABEL, width - 24.0))
                }
            }
            (self.header(&layout))
            (self.means(&layout))
            (self.cells(&layout))
            (self.events(&layout))
            (self.scale(&layout))
        };
        Picture::new(width, layout.bottom.max(layout.top + LOWEST) + 16.0, body)
    }

    fn layout(&self) -> Layout {
        let rows = self.shown();
        let longest = self.rows[..rows].iter().map(|row| text_width(row, LABEL)).fold(0.0, f64::max);
        let width = (640.0 / self.columns.len().max(1) as f64).clamp(3.0, 64.0);
        let height = if rows <= 100 { 16.0 } else { 13.0 };
        let left = 24.0 + longest.clamp(60.0, 180.0);
        let pictures = 44.0 + 16.0 * self.notes.len() as f64;
        let has_pictures = width >= 16.0 && self.columns.iter().any(|column| column.picture.is_some());
        let labels = pictures + if has_pictures { width + 14.0 } else { 14.0 };
        let means = labels + 44.0;
        let top = means + 6.0;
        let right = left + width * self.columns.len() as f64;
        Layout { left, cell: [width, height], pictures, labels, means, top, right, bottom: top + height * rows as f64 }
    }

    fn shown(&self) -> usize {
        self.rows.len().min(self.values.nrows()).min(MAX_ROWS)
    }

    fn header(&self, at: &Layout) -> Markup {
        let [width, _] = at.cell;
        let widest = self.columns.iter().map(|column| text_width(&column.label, LABEL)).fold(0.0, f64::max);
        let every = ((widest + 4.0) / width).ceil().max(1.0) as usize;
        html! {
            @for (index, column) in self.columns.iter().enumerate() {
                @let x = at.left + width * index as f64;
                @if let Some(picture) = column.picture.as_ref().filter(|_| at.labels - at.pictures > 16.0) {
                    image href=(picture) x=(n(x + 1.0)) y=(at.pictures) width=(n(width - 2.0)) height=(n(width - 2.0)) {}
                }
                @if index % every == 0 {
                    text x=(n(x + width / 2.0)) y=(n(at.labels)) font-size=(LABEL) fill=(Rgb::GREY) text-anchor="middle" {
                        (column.label)
                    }
                }
            }
        }
    }

    /// The mean over rows of each column, as bars.
    fn means(&self, at: &Layout) -> Markup {
        let means = self.values.mean_axis(Axis(0)).unwrap_or_default();
        let highest = means.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        let [width, _] = at.cell;
        html! {
            text x=(n(at.left - 8.0)) y=(n(at.means - 10.0)) font-size=(LABEL) fill=(Rgb::GREY) text-anchor="end" { "mean" }
            @for (index, mean) in means.iter().enumerate().filter(|(_, mean)| **mean > 0.0) {
                @let height = 34.0 * f64::from(*mean / highest).max(0.0);
                rect x=(n(at.left + width * index as f64 + 0.15 * width)) y=(n(at.means - height)) width=(n(0.7 * width))
                    height=(n(height)) fill=(Rgb::RIGHT) {}
            }
            line x1=(n(at.left)) x2=(n(at.right)) y1=(n(at.means)) y2=(n(at.means)) stroke=(Rgb::GREY) {}
        }
    }

    fn cells(&self, at: &Layout) -> Markup {
        let [width, height] = at.cell;
        let size = if height > 14.0 { LABEL } else { 9.5 };
        html! {
            @for (row, name) in self.rows.iter().enumerate().take(self.shown()) {
                @let y = at.top + height * row as f64;
                text x=(n(at.left - 8.0)) y=(n(y + 0.74 * height)) font-size=(size) fill=(Rgb::INK) text-anchor="end" {
                    (fitted(name, size, at.left - 16.0))
                }
                @for (column, value) in self.values.row(row).iter().enumerate() {
                    rect x=(n(at.left + width * column as f64)) y=(n(y)) width=(n(width + 0.2)) height=(n(height + 0.2))
                        fill=(self.span.colour(f64::from(*value))) {}
                }
            }
            rect x=(n(at.left)) y=(n(at.top)) width=(n(at.right - at.left)) height=(n(at.bottom - at.top)) fill="none"
                stroke=(Rgb::GREY) stroke-width="0.8" {}
        }
    }

    /// A frame around each run of marked columns.
    fn events(&self, at: &Layout) -> Markup {
        let width = at.cell[0];
        html! {
            @for (first, last) in runs(self.columns) {
                @let (x, size) = (at.left + width * first as f64, width * (last + 1 - first) as f64);
                rect x=(n(x)) y=(n(at.pictures - 3.0)) width=(n(size)) height=(n(at.bottom - at.pictures + 3.0)) fill="none"
                    stroke=(Rgb::EVENT) stroke-width="2" {}
                text x=(n(x + size / 2.0)) y=(n(at.pictures - 8.0)) font-size=(LABEL) fill=(Rgb::EVENT) text-anchor="middle" {
                    "event"
                }
            }
        }
    }

    /// The colours and what they stand for, at the right.
    fn scale(&self, at: &Layout) -> Markup {
        const STEPS: usize = 48;
        let (x, height) = (at.right + 16.0, SCALE.min((at.bottom - at.top).max(LOWEST)));
        let each = height / STEPS as f64;
        html! {
            @for step in 0..STEPS {
                rect x=(n(x)) y=(n(at.top + each * step as f64)) width="12" height=(n(each + 0.3))
                    fill=(sequential(1.0 - step as f64 / (STEPS - 1) as f64)) {}
            }
            rect x=(n(x)) y=(n(at.top)) width="12" height=(n(height)) fill="none" stroke=(Rgb::GREY) stroke-width="0.6" {}
            text x=(n(x + 17.0)) y=(n(at.top + 9.0)) font-size=(LABEL) fill=(Rgb::GREY) { (short(self.span.high)) }
            text x=(n(x + 17.0)) y=(n(at.top + height)) font-size=(LABEL) fill=(Rgb::GREY) { (short(self.span.low)) }
            @let (tx, ty) = (x + 66.0, at.top + height / 2.0);
            text x=(n(tx)) y=(n(ty)) font-size=(LABEL) fill=(Rgb::GREY) text-anchor="middle"
                transform={ "rotate(-90 " (n(tx)) " " (n(ty)) ")" } { (self.what) }
        }
    }
}

/// First and last index of every run of marked columns.
fn runs(columns: &[Column]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, _) in columns.iter().enumerate().filter(|(_, column)| column.marked) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => runs.push((index, index)),
        }
    }
    runs
}

/// A number in two or three digits.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        size if size >= 0.001 => format!("{value:.4}"),
        _ => format!("{value:.0e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    fn columns(marked: &[bool]) -> Vec<Column> {
        let column = |marked: &bool| Column { label: "0 s".into(), picture: None, marked: *marked };
        marked.iter().map(column).collect()
    }

    #[test]
    fn neighbouring_frames_of_an_event_are_framed_together() {
        assert_eq!(runs(&columns(&[true, true, false, true])), [(0, 1), (3, 3)]);
    }

    #[test]
    fn a_few_extreme_values_do_not_wash_out_the_others() {
        let values = (0..1000).map(|index| if index == 500 { 1e6 } else { index as f32 });
        let span = Span::of(values);
        assert!(span.low > 5.0 && span.high < 1000.0, "{span:?}");
        assert_eq!(Span::of([2.0f32, 2.0].into_iter()).high, 3.0);
    }

    #[test]
    fn a_very_long_completion_is_cut_and_no_row_is_drawn_twice() {
        let (rows, columns) = (vec!["token".to_owned(); MAX_ROWS + 7], columns(&[false, true]));
        let values = Array2::zeros((rows.len(), 2));
        let map = HeatMap {
            title: "t".into(),
            notes: Vec::new(),
            rows: &rows,
            columns: &columns,
            values: values.view(),
            span: Span { low: 0.0, high: 1.0 },
            what: "attention".into(),
        };
        assert_eq!(map.picture().svg().into_string().matches(">token<").count(), MAX_ROWS);
    }
}
