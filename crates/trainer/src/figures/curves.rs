//! Line charts.

use maud::{Markup, PreEscaped, html};

use super::colour::Rgb;
use super::picture::Picture;
use super::plot::{Area, Scale, legend, title};

/// How a curve is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    /// A line.
    Solid,
    /// Behind another curve that says it better.
    Faint,
    /// A line for comparison.
    Dashed,
}

/// One curve.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Name in the legend; a curve without a name is not in it.
    pub name: String,
    /// Points from left to right; the curve is broken where y is not a number.
    pub points: Vec<[f64; 2]>,
    /// Lowest and highest value around each point; empty: none are known.
    pub band: Vec<[f64; 2]>,
    /// Its colour.
    pub colour: Rgb,
    /// How it is drawn.
    pub stroke: Stroke,
}

/// Curves over a common axis.
#[derive(Debug, Clone)]
pub struct CurveChart {
    /// What is to be seen.
    pub title: String,
    /// Name and unit of the horizontal axis.
    pub x: String,
    /// Name and unit of the vertical axis.
    pub y: String,
    /// The curves, the first one at the back.
    pub curves: Vec<Curve>,
}

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 250.0;

impl CurveChart {
    /// The chart as a drawing.
    pub fn picture(&self) -> Picture {
        let names: Vec<_> =
            self.curves.iter().filter(|c| !c.name.is_empty()).map(|c| (c.name.clone(), c.colour)).collect();
        let (names, legend_height) = legend(&names, [62.0, 38.0, WIDTH]);
        let top = 36.0 + legend_height;
        let area = Area { left: 62.0, top, right: WIDTH - 14.0, bottom: top + HEIGHT };
        let (x, y) = self.scales(area);
        let body = html! {
            (title(&self.title, 14.0))
            (names)
            (area.y_axis(&y, &self.y))
            (area.x_axis(&x, &self.x))
            @for curve in &self.curves { (curve.area(&x, &y)) }
            @for curve in &self.curves { (curve.line(&x, &y)) }
        };
        Picture::new(WIDTH, area.bottom + 46.0, body)
    }

    fn scales(&self, area: Area) -> (Scale, Scale) {
        let ends = |values: &mut dyn Iterator<Item = f64>| {
            let finite = values.filter(|value| value.is_finite());
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
        };
        let points = || self.curves.iter().flat_map(|curve| &curve.points).filter(|point| point[1].is_finite());
        let bands = self.curves.iter().flat_map(|curve| &curve.band).flatten().copied();
        let (left, right) = ends(&mut points().map(|point| point[0]));
        let (low, high) = ends(&mut points().map(|point| point[1]).chain(bands));
        // Zero is shown where it is near: half a scale of nothing would hide what changes.
        let low = if low > -1e-6 * high && low < 0.5 * high { 0.0 } else { low };
        (Scale::exact(left, right, area.left, area.right), Scale::round(low, high, area.bottom, area.top))
    }
}

impl Curve {
    fn line(&self, x: &Scale, y: &Scale) -> Markup {
        let dashes = if self.stroke == Stroke::Dashed { "5 4" } else { "none" };
        let (width, opacity) = if self.stroke == Stroke::Faint { (1.0, 0.35) } else { (2.0, 1.0) };
        html! {
            path d=(path(self.points.iter().copied(), x, y)) fill="none" stroke=(self.colour) stroke-width=(width)
                stroke-opacity=(opacity) stroke-dasharray=(dashes) stroke-linejoin="round" {}
            @if self.points.len() <= 24 && self.stroke == Stroke::Solid {
                @for [at, value] in self.points.iter().filter(|point| point[1].is_finite()) {
                    circle cx=(x.at(*at)) cy=(y.at(*value)) r="2.6" fill=(self.colour) {}
                }
            }
        }
    }

    fn area(&self, x: &Scale, y: &Scale) -> Markup {
        let around: Vec<_> =
            self.points.iter().zip(&self.band).filter(|(_, band)| band.iter().all(|v| v.is_finite())).collect();
        if around.is_empty() {
            return PreEscaped(String::new());
        }
        let highs = around.iter().map(|(point, band)| [point[0], band[1]]);
        let lows = around.iter().rev().map(|(point, band)| [point[0], band[0]]);
        let outline = path(highs.chain(lows), x, y) + "Z";
        html! { path d=(outline) fill=(self.colour) fill-opacity="0.15" stroke="none" {} }
    }
}

/// SVG's words for a line through these points, begun anew after each that is not a number.
fn path(points: impl Iterator<Item = [f64; 2]>, x: &Scale, y: &Scale) -> String {
    let (mut words, mut drawing) = (String::new(), false);
    for [at, value] in points {
        if value.is_finite() {
            words += &format!("{}{} {} ", if drawing { 'L' } else { 'M' }, x.at(at), y.at(value));
        }
        drawing = value.is_finite();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_broken_where_nothing_is_known() {
        let scale = Scale::exact(0.0, 4.0, 0.0, 4.0);
        let points = [[0.0, 1.0], [1.0, 2.0], [2.0, f64::NAN], [3.0, 1.0]];
        assert_eq!(path(points.into_iter(), &scale, &scale), "M0 1 L1 2 M3 1 ");
    }

    #[test]
    fn a_chart_of_nothing_is_a_chart() {
        let chart = CurveChart { title: "t".into(), x: "x".into(), y: "y".into(), curves: Vec::new() };
        chart.picture().png().unwrap();
    }
}
