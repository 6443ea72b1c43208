//! Contact sheets: some frames of a video, and where in it frames were picked.

use maud::{Markup, html};

use super::colour::palette;
use super::picture::{Picture, n};
use super::plot::{Area, LABEL, Scale, title};

/// A frame on a sheet.
#[derive(Debug, Clone)]
pub struct Thumbnail {
    /// The frame, as [`super::data_uri`] gives it.
    pub picture: String,
    /// Width over height.
    pub aspect: f64,
    /// What stands below it.
    pub label: String,
    /// Its time in the video, seconds.
    pub seconds: f64,
}

/// Frames of a video above a strip of time.
#[derive(Debug, Clone)]
pub struct ContactSheet {
    /// What is to be seen.
    pub title: String,
    /// The frames, in their order in time.
    pub frames: Vec<Thumbnail>,
    /// How often each candidate frame was picked, with its time in seconds, in order.
    pub density: Vec<[f64; 2]>,
    /// Length of the video, seconds.
    pub duration: f64,
}

const WIDTH: f64 = 920.0;
const COLUMNS: usize = 8;
const GAP: f64 = 8.0;
const STRIP: f64 = 70.0;

impl ContactSheet {
    /// The sheet as a drawing.
    pub fn picture(&self) -> Picture {
        let side = (WIDTH - GAP * (COLUMNS + 1) as f64) / COLUMNS as f64;
        let aspect = self.frames.first().map_or(1.0, |frame| frame.aspect);
        let height = side / aspect;
        let (top, step) = (34.0, height + LABEL + 12.0);
        let rows = self.frames.len().div_ceil(COLUMNS) as f64;
        let place =
            |index: usize| [GAP + (index % COLUMNS) as f64 * (side + GAP), top + (index / COLUMNS) as f64 * step];
        let strip = Area {
            left: 62.0,
            top: top + rows * step + 14.0,
            right: WIDTH - 14.0,
            bottom: top + rows * step + 14.0 + STRIP,
        };
        let body = html! {
            (title(&self.title, 14.0))
            @for (index, frame) in self.frames.iter().enumerate() { (thumbnail(frame, place(index), [side, height])) }
            (self.strip(strip))
        };
        Picture::new(WIDTH, strip.bottom + 46.0, body)
    }

    /// Bars of how often each candidate was picked, over time, and a mark for each frame that is shown.
    fn strip(&self, area: Area) -> Markup {
        let x = Scale::exact(0.0, self.duration, area.left, area.right);
        let highest = self.density.iter().map(|bar| bar[1]).fold(0.0, f64::max);
        let y = Scale::round(0.0, highest, area.bottom, area.top);
        let width = ((area.right - area.left) / self.density.len().max(1) as f64 * 0.8).clamp(1.0, 12.0);
        let [bars, marks] = [palette(0), palette(1)];
        html! {
            (area.y_axis(&y, "picks per set"))
            (area.x_axis(&x, "time in the video, s; marked: the frames above"))
            @for [seconds, share] in self.density.iter().filter(|[_, share]| *share > 0.0) {
                rect x=(n(x.at(*seconds) - width / 2.0)) y=(y.at(*share)) width=(n(width))
                    height=(n(area.bottom - y.at(*share))) fill=(bars) {}
            }
            @for frame in &self.frames {
                circle cx=(x.at(frame.seconds)) cy=(n(area.top - 5.0)) r="2.5" fill=(marks) {}
            }
        }
    }
}

fn thumbnail(frame: &Thumbnail, [x, y]: [f64; 2], [width, height]: [f64; 2]) -> Markup {
    html! {
        image href=(frame.picture) x=(n(x)) y=(n(y)) width=(n(width)) height=(n(height)) {}
        text x=(n(x + width / 2.0)) y=(n(y + height + LABEL + 2.0)) font-size=(LABEL) text-anchor="middle" { (frame.label) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_has_every_frame_and_a_bar_for_each_that_was_picked() {
        let frame = |index: usize| Thumbnail {
            picture: super::super::data_uri(&image::RgbImage::new(4, 4)).unwrap(),
            aspect: 1.0,
            label: format!("frame {index}"),
            seconds: index as f64,
        };
        let sheet = ContactSheet {
            title: "Picked".into(),
            frames: (0..10).map(frame).collect(),
            density: vec![[0.5, 0.25], [1.5, 1.0]],
            duration: 10.0,
        };
        let svg = sheet.picture().svg().into_string();
        assert_eq!(svg.matches("<image").count(), 10);
        assert_eq!(svg.matches("<circle").count(), 10);
        assert!(svg.contains("frame 9"));
        assert!(sheet.picture().png().unwrap().starts_with(&[0x89, b'P', b'N', b'G']));
        let nothing = ContactSheet { frames: Vec::new(), density: Vec::new(), ..sheet };
        assert!(nothing.picture().png().is_ok());
    }
}
