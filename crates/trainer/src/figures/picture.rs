//! A drawing, and what it becomes.

use std::io::Cursor;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::{ImageFormat, RgbImage};
use maud::{Markup, html};
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

/// The font that PNG files are set in; it comes with the program. Pages fall back on the reader's own.
const FONT: &str = "DejaVu Sans";

/// Pixels of a PNG for a unit of the drawing: sharp in print at a column's width.
const PIXELS_PER_UNIT: f32 = 2.0;

/// A drawing of a size, in units of a CSS pixel.
#[derive(Debug, Clone)]
pub struct Picture {
    width: f64,
    height: f64,
    body: Markup,
}

impl Picture {
    /// A drawing of SVG elements.
    pub(super) fn new(width: f64, height: f64, body: Markup) -> Self {
        Self { width: width.ceil(), height: height.ceil(), body }
    }

    /// The drawing as an SVG element.
    pub fn svg(&self) -> Markup {
        let (width, height) = (self.width, self.height);
        html! {
            svg xmlns="http://www.w3.org/2000/svg" width=(width) height=(height)
                viewBox={ "0 0 " (width) " " (height) } font-family={ "'" (FONT) "', Verdana, sans-serif" } {
                (self.body)
            }
        }
    }

    /// The drawing on white, as a PNG file's bytes.
    ///
    /// # Errors
    /// The drawing is too large to be one picture.
    pub fn png(&self) -> Result<Vec<u8>> {
        let options = Options { fontdb: fonts(), font_family: FONT.into(), ..Options::default() };
        let tree = Tree::from_str(&self.svg().into_string(), &options).context("a figure's SVG")?;
        let size = tree.size().to_int_size().scale_by(PIXELS_PER_UNIT).context("a figure without a size")?;
        let pixmap = Pixmap::new(size.width(), size.height());
        let mut pixmap = pixmap.with_context(|| format!("a figure of {} x {}", size.width(), size.height()))?;
        pixmap.fill(Color::WHITE);
        resvg::render(&tree, Transform::from_scale(PIXELS_PER_UNIT, PIXELS_PER_UNIT), &mut pixmap.as_mut());
        let opaque: Vec<u8> = pixmap.data().chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
        let image = RgbImage::from_raw(size.width(), size.height(), opaque).context("a figure's pixels")?;
        encoded(&image)
    }
}

/// The fonts of all figures, read once.
fn fonts() -> Arc<fontdb::Database> {
    static FONTS: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    let load = || {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(dejavu::sans::regular().to_vec());
        fonts.load_font_data(dejavu::sans::bold().to_vec());
        Arc::new(fonts)
    };
    Arc::clone(FONTS.get_or_init(load))
}

fn encoded(image: &RgbImage) -> Result<Vec<u8>> {
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, ImageFormat::Png)?;
    Ok(png.into_inner())
}

/// A picture as an address that holds all of it, for pages and figures.
///
/// # Errors
/// The picture has no pixels.
pub fn data_uri(image: &RgbImage) -> Result<String> {
    Ok(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(encoded(image)?)))
}

/// A token's text as a label: line breaks and blanks that would not be seen are, and nothing that XML forbids is left.
pub fn visible(token: &str) -> String {
    let shown = |c: char| match c {
        '\n' => '\u{21b5}',
        '\t' => '\u{21e5}',
        c if c.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&c) => '\u{fffd}',
        c => c,
    };
    match token.trim_matches(' ') {
        "" => token.chars().map(|_| '\u{2423}').collect(),
        inner => inner.chars().map(shown).collect(),
    }
}

/// Two decimals are enough for any place on a page.
pub(super) fn n(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// About how wide a text is at that font size; labels are placed by it, so it errs on the wide side.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let width = |c: char| match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | ' ' | '.' | ',' | ':' | ';' | '\'' | '|' | '(' | ')' | 'I' => 0.4,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.97,
        c if c.is_ascii_uppercase() || !c.is_ascii() => 0.75,
        _ => 0.64,
    };
    text.chars().map(width).sum::<f64>() * size
}

/// The text cut to what fits `width` at that font size, with an ellipsis if something is missing.
pub(super) fn fitted(text: &str, size: f64, width: f64) -> String {
    if text_width(text, size) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        if text_width(&kept, size) + 1.4 * size > width {
            break;
        }
        kept.push(c);
    }
    kept + "\u{2026}"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_becomes_a_png_of_twice_its_size_with_text_in_it() {
        let text = |word: &str| html! { text x="5" y="20" font-size="16" { (word) } };
        let drawn = |word: &str| {
            let png = Picture::new(60.0, 30.0, text(word)).png().unwrap();
            image::load_from_memory(&png).unwrap().into_rgb8()
        };
        let ink = |image: &RgbImage| image.pixels().filter(|pixel| pixel.0[0] < 128).count();
        let (empty, word) = (drawn(""), drawn("<b> & co"));
        assert_eq!(word.dimensions(), (120, 60));
        assert_eq!(ink(&empty), 0);
        assert!(ink(&word) > 100, "{}", ink(&word));
    }

    #[test]
    fn every_token_is_seen() {
        assert_eq!(visible(" red"), "red");
        assert_eq!(visible("  "), "\u{2423}\u{2423}");
        assert_eq!(visible("a\n\u{1}"), "a\u{21b5}\u{fffd}");
    }

    #[test]
    fn a_text_too_long_is_cut() {
        assert_eq!(fitted("short", 10.0, 100.0), "short");
        let cut = fitted(&"long ".repeat(20), 10.0, 100.0);
        assert!(cut.ends_with('\u{2026}') && text_width(&cut, 10.0) <= 101.0, "{cut}");
    }
}
