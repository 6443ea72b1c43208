//! Bar charts; a histogram is one whose categories are its bins.

use maud::{Markup, html};

use super::colour::Rgb;
use super::picture::{Picture, fitted, n, text_width};
use super::plot::{Area, LABEL, Scale, legend, title};

/// The bars of one colour, one for each category.
#[derive(Debug, Clone)]
pub struct Bars {
    /// Name in the legend.
    pub name: String,
    /// A value for each category; one that is not a number has no bar.
    pub values: Vec<f64>,
    /// Their colour.
    pub colour: Rgb,
}

/// Groups of bars that stand on zero.
#[derive(Debug, Clone)]
pub struct BarChart {
    /// What is to be seen.
    pub title: String,
    /// What the categories are.
    pub x: String,
    /// Name and unit of the values.
    pub y: String,
    /// Names of the categories.
    pub categories: Vec<String>,
    /// Categories that are marked as the true event; empty: none.
    pub marked: Vec<bool>,
    /// The bars.
    pub series: Vec<Bars>,
}

impl BarChart {
    /// The chart with upright bars.
    pub fn picture(&self) -> Picture {
        let count = self.categories.len().max(1) as f64;
        let width = (90.0 + count * (10.0 + 16.0 * self.series.len() as f64)).clamp(420.0, 760.0);
        let (names, legend_height) = legend(&self.names(), [62.0, 38.0, width]);
        let top = 36.0 + legend_height;
        let area = Area { left: 62.0, top, right: width - 14.0, bottom: top + 210.0 };
        let y = Scale::round(0.0, self.highest(), area.bottom, area.top);
        let each = (area.right - area.left) / count;
        let widest = self.categories.iter().map(|name| text_width(name, LABEL)).fold(0.0, f64::max);
        let every = ((widest + 6.0) / each).ceil().max(1.0) as usize;
        let body = html! {
            (title(&self.title, 14.0))
            (names)
            @for index in (0..self.marked.len()).filter(|index| self.marked[*index]) {
                rect x=(n(area.left + each * index as f64)) y=(area.top) width=(n(each)) height="210" fill=(Rgb::SHADE) {}
            }
            (area.y_axis(&y, &self.y))
            @for (index, name) in self.categories.iter().enumerate() {
                @let left = area.left + each * index as f64;
                (self.group(index, [left + 0.12 * each, 0.76 * each], &y, area.bottom))
                @if index % every == 0 {
                    text x=(n(left + each / 2.0)) y=(area.bottom + 17.0) font-size=(LABEL) fill=(Rgb::GREY)
                        text-anchor="middle" { (name) }
                }
            }
            (area.base(&self.x))
        };
        Picture::new(width, area.bottom + 46.0, body)
    }

    /// The chart with bars from left to right, for categories with long names.
    pub fn lying(&self) -> Picture {
        const WIDTH: f64 = 560.0;
        const NAME: f64 = 150.0;
        let (names, legend_height) = legend(&self.names(), [NAME, 38.0, WIDTH]);
        let each = 8.0 + 8.0 * self.series.len() as f64;
        let top = 36.0 + legend_height;
        let bottom = top + each * self.categories.len() as f64 + 4.0;
        let area = Area { left: NAME, top, right: WIDTH - 24.0, bottom };
        let x = Scale::round(0.0, self.highest(), area.left, area.right);
        let body = html! {
            (title(&self.title, 14.0))
            (names)
            @for tick in x.ticks() {
                line x1=(x.at(tick)) x2=(x.at(tick)) y1=(area.top) y2=(area.bottom) stroke=(Rgb::FAINT) {}
            }
            @for (index, name) in self.categories.iter().enumerate() {
                @let top = area.top + each * index as f64 + 4.0;
                text x=(NAME - 7.0) y=(n(top + (each - 8.0) / 2.0 + 6.0)) font-size=(LABEL) fill=(Rgb::INK) text-anchor="end" {
                    (fitted(name, LABEL, NAME - 14.0))
                }
                @for (place, bars) in self.series.iter().enumerate().filter(|(_, bars)| value(bars, index) > 0.0) {
                    @let value = value(bars, index);
                    rect x=(area.left) y=(n(top + 8.0 * place as f64)) width=(n(x.at(value) - area.left)) height="7.5"
                        fill=(bars.colour) {}
                }
            }
            (area.x_axis(&x, &self.y))
        };
        Picture::new(WIDTH, area.bottom + 46.0, body)
    }

    fn names(&self) -> Vec<(String, Rgb)> {
        let named = self.series.iter().filter(|bars| !bars.name.is_empty());
        let mut names: Vec<_> = named.map(|bars| (bars.name.clone(), bars.colour)).collect();
        if self.marked.contains(&true) {
            names.push(("true event".into(), Rgb::SHADE));
        }
        names
    }

    fn highest(&self) -> f64 {
        let values = self.series.iter().flat_map(|bars| &bars.values).copied();
        values.filter(|value| value.is_finite()).fold(0.0, f64::max)
    }

    fn group(&self, index: usize, [left, width]: [f64; 2], y: &Scale, bottom: f64) -> Markup {
        let each = width / self.series.len().max(1) as f64;
        html! {
            @for (place, bars) in self.series.iter().enumerate().filter(|(_, bars)| value(bars, index) > 0.0) {
                @let top = y.at(value(bars, index));
                rect x=(n(left + each * place as f64)) y=(top) width=(n(0.92 * each)) height=(n(bottom - top))
                    fill=(bars.colour) {}
            }
        }
    }
}

fn value(bars: &Bars, index: usize) -> f64 {
    bars.values.get(index).copied().filter(|value| value.is_finite()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_on_zero_and_missing_values_have_none() {
        let chart = BarChart {
            title: "t".into(),
            x: "x".into(),
            y: "y".into(),
            categories: vec!["a <".into(), "b".into()],
            marked: vec![false, true],
            series: vec![Bars { name: "s".into(), values: vec![f64::NAN, 2.0], colour: Rgb::RIGHT }],
        };
        let svg = chart.picture().svg().into_string();
        assert!(!svg.contains("height=\"0\""), "{svg}");
        assert!(svg.contains("height=\"210\"") && svg.contains("a &lt;"), "{svg}");
        chart.lying().png().unwrap();
    }
}
