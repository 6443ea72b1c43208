//! Colours that people with any kind of colour vision tell apart, and that stay apart when printed in grey.

use std::fmt;

/// A colour, red, green and blue from 0 to 255; shown as `#rrggbb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rgb(pub [u8; 3]);

impl Rgb {
    /// Text of this colour's page.
    pub const INK: Self = Self([0x22, 0x22, 0x22]);
    /// What should be seen second: axes, grid labels, notes.
    pub const GREY: Self = Self([0x6b, 0x6b, 0x6b]);
    /// Lines of a grid.
    pub const FAINT: Self = Self([0xe4, 0xe4, 0xe4]);
    /// The true event.
    pub const EVENT: Self = Self([0xd5, 0x5e, 0x00]);
    /// The true event behind bars.
    pub const SHADE: Self = Self([0xfa, 0xe3, 0xd4]);
    /// Right completions.
    pub const RIGHT: Self = Self([0x00, 0x72, 0xb2]);
    /// Wrong completions.
    pub const WRONG: Self = Self([0xe6, 0x9f, 0x00]);

    /// Whether white text is easier to read on it than black text.
    pub fn is_dark(self) -> bool {
        let [r, g, b] = self.0.map(f64::from);
        0.299 * r + 0.587 * g + 0.114 * b < 140.0
    }
}

impl fmt::Display for Rgb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [r, g, b] = self.0;
        write!(f, "#{r:02x}{g:02x}{b:02x}")
    }
}

/// Okabe and Ito's colours, without yellow and black; begins anew after the sixth.
pub fn palette(index: usize) -> Rgb {
    const COLOURS: [[u8; 3]; 6] = [
        [0x00, 0x72, 0xb2],
        [0xd5, 0x5e, 0x00],
        [0x00, 0x9e, 0x73],
        [0xcc, 0x79, 0xa7],
        [0xe6, 0x9f, 0x00],
        [0x56, 0xb4, 0xe9],
    ];
    Rgb(COLOURS[index % COLOURS.len()])
}

/// White to dark blue, for `share` from 0 to 1 (ColorBrewer's Blues); what is not a number is white.
pub fn sequential(share: f64) -> Rgb {
    const STOPS: [[f64; 3]; 6] = [
        [255.0, 255.0, 255.0],
        [222.0, 235.0, 247.0],
        [158.0, 202.0, 225.0],
        [66.0, 146.0, 198.0],
        [8.0, 81.0, 156.0],
        [8.0, 38.0, 89.0],
    ];
    let at = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let below = (at as usize).min(STOPS.len() - 2);
    let part = at - below as f64;
    let mix = |channel: usize| STOPS[below][channel] * (1.0 - part) + STOPS[below + 1][channel] * part;
    if share.is_nan() {
        return Rgb([255; 3]);
    }
    Rgb([mix(0) as u8, mix(1) as u8, mix(2) as u8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_darker() {
        let light = |colour: Rgb| colour.0.iter().map(|channel| u32::from(*channel)).sum::<u32>();
        let shades: Vec<u32> = (0..=20).map(|step| light(sequential(f64::from(step) / 20.0))).collect();
        assert!(shades.windows(2).all(|pair| pair[1] < pair[0]), "{shades:?}");
        assert!(sequential(1.0).is_dark() && !sequential(0.3).is_dark());
    }

    #[test]
    fn what_is_out_of_range_or_no_number_has_a_colour() {
        assert_eq!(sequential(-1.0), sequential(0.0));
        assert_eq!(sequential(7.0), sequential(1.0));
        assert_eq!(sequential(f64::NAN).to_string(), "#ffffff");
    }
}
