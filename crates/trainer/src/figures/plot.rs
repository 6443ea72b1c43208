//! What charts share: a frame with axes, ticks, grid, title and legend.

use maud::{Markup, PreEscaped, html};

use super::colour::Rgb;
use super::picture::{n, text_width};

/// Sizes of text.
pub(super) const TITLE: f64 = 13.0;
pub(super) const LABEL: f64 = 11.0;

/// Values along an axis and where they stand.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    step: f64,
}

impl Scale {
    /// A scale that holds these values, ending at round numbers; `from` and `to` are where its ends stand.
    pub(super) fn round(low: f64, high: f64, from: f64, to: f64) -> Self {
        let (low, high) = if low.is_finite() && high.is_finite() { (low, high) } else { (0.0, 1.0) };
        let (low, high) = if high > low { (low, high) } else { (low - 0.5, low + 0.5) };
        let step = step(low, high);
        Self { low: (low / step).floor() * step, high: (high / step).ceil() * step, from, to, step }
    }

    /// A scale with exactly these ends.
    pub(super) fn exact(low: f64, high: f64, from: f64, to: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, from, to, step: step(low, high) }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        n(self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from))
    }

    /// Round values within the scale.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let step = self.step;
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last).map(|tick| tick as f64 * step).collect()
    }

    /// A tick's text, with the decimals that tell it from the next.
    pub(super) fn text(&self, value: f64) -> String {
        let step = self.step;
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let value = if value.abs() < step / 2.0 { 0.0 } else { value };
        format!("{value:.decimals$}")
    }
}

/// 1, 2 or 5 times a power of ten, so that some five steps make the range.
fn step(low: f64, high: f64) -> f64 {
    let rough = (high - low) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough * 0.999);
    factor.unwrap_or(10.0) * power
}

/// The rectangle that data is drawn in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Area {
    /// Grid and numbers of the vertical axis, with its name.
    pub(super) fn y_axis(&self, y: &Scale, name: &str) -> Markup {
        let middle = (self.top + self.bottom) / 2.0;
        let longest = y.ticks().iter().map(|tick| text_width(&y.text(*tick), LABEL)).fold(0.0, f64::max);
        let x = n(self.left - longest - 16.0);
        html! {
            @for tick in y.ticks() {
                line x1=(self.left) x2=(self.right) y1=(y.at(tick)) y2=(y.at(tick)) stroke=(Rgb::FAINT) {}
                text x=(self.left - 6.0) y=(y.at(tick) + 4.0) font-size=(LABEL) fill=(Rgb::GREY) text-anchor="end" {
                    (y.text(tick))
                }
            }
            text x=(x) y=(middle) font-size=(LABEL) fill=(Rgb::INK) text-anchor="middle"
                transform={ "rotate(-90 " (x) " " (middle) ")" } { (name) }
        }
    }

    /// The line and numbers of the horizontal axis.
    pub(super) fn x_axis(&self, x: &Scale, name: &str) -> Markup {
        html! {
            @for tick in x.ticks() {
                line x1=(x.at(tick)) x2=(x.at(tick)) y1=(self.bottom) y2=(self.bottom + 4.0) stroke=(Rgb::GREY) {}
                text x=(x.at(tick)) y=(self.bottom + 17.0) font-size=(LABEL) fill=(Rgb::GREY) text-anchor="middle" {
                    (x.text(tick))
                }
            }
            (self.base(name))
        }
    }

    /// The horizontal axis without numbers.
    pub(super) fn base(&self, name: &str) -> Markup {
        let middle = (self.left + self.right) / 2.0;
        html! {
            line x1=(self.left) x2=(self.right) y1=(self.bottom) y2=(self.bottom) stroke=(Rgb::GREY) {}
            text x=(middle) y=(self.bottom + 35.0) font-size=(LABEL) fill=(Rgb::INK) text-anchor="middle" { (name) }
        }
    }
}

/// A title at the upper left.
pub(super) fn title(text: &str, x: f64) -> Markup {
    html! { text x=(x) y="18" font-size=(TITLE) font-weight="bold" fill=(Rgb::INK) { (text) } }
}

/// Names of colours in rows, from `x` and `y` on and not beyond `right`; and the height they take.
pub(super) fn legend(entries: &[(String, Rgb)], [x, y, right]: [f64; 3]) -> (Markup, f64) {
    let (mut at, mut row, mut drawn) = (x, 0.0, String::new());
    for (name, colour) in entries {
        let width = text_width(name, LABEL) + 34.0;
        if at + width > right && at > x {
            (at, row) = (x, row + 1.0);
        }
        let top = y + 17.0 * row;
        let entry = html! {
            rect x=(n(at)) y=(n(top - 6.5)) width="14" height="5" rx="2" fill=(colour) {}
            text x=(n(at + 19.0)) y=(top) font-size=(LABEL) fill=(Rgb::INK) { (name) }
        };
        drawn.push_str(&entry.into_string());
        at += width;
    }
    let height = if entries.is_empty() { 0.0 } else { 17.0 * (row + 1.0) };
    (PreEscaped(drawn), height)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        let scale = Scale::round(0.013, 0.972, 0.0, 100.0);
        let texts: Vec<String> = scale.ticks().iter().map(|tick| scale.text(*tick)).collect();
        assert_eq!(texts, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!((scale.at(0.0), scale.at(1.0)), (0.0, 100.0));
        assert_eq!(Scale::round(-3.0, 41.0, 0.0, 1.0).ticks(), [-10.0, 0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
    }

    #[test]
    fn a_constant_or_nothing_has_a_scale_too() {
        for (low, high) in [(2.0, 2.0), (f64::INFINITY, f64::NEG_INFINITY)] {
            let scale = Scale::round(low, high, 0.0, 10.0);
            assert!(scale.ticks().len() > 2 && scale.at(low.min(2.0)).is_finite());
        }
    }

    #[test]
    fn a_legend_wraps_before_its_right_end() {
        let entries: Vec<_> = (0..6).map(|index| (format!("series number {index}"), Rgb::INK)).collect();
        let (_, one_row) = legend(&entries[..1], [0.0, 0.0, 400.0]);
        let (_, wrapped) = legend(&entries, [0.0, 0.0, 400.0]);
        assert!(wrapped > one_row);
    }
}
