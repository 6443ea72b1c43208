//! To what size a picture is brought before it is cut into patches.

use serde::{Deserialize, Serialize};

use crate::VideoError;

/// Longest side over shortest side that is accepted (qwen-vl-utils' `MAX_RATIO`).
const MAX_RATIO: f64 = 200.0;

/// Pixels that a frame may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PixelBudget {
    /// At least this many pixels per frame.
    pub min_pixels: usize,
    /// At most this many pixels per frame.
    pub max_pixels: usize,
    /// At most this many pixels over the whole video, if set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_pixels: Option<usize>,
}

impl PixelBudget {
    /// Most pixels of one frame when the video is sampled to `frames` frames: `max_pixels`, or less where the total
    /// asks for it (`total / frames * 2`, a grid being two frames), but never under 1.05 times the minimum.
    pub fn per_frame(&self, frames: usize) -> f64 {
        let cap = self.max_pixels as f64;
        let Some(total) = self.total_pixels else { return cap };
        let share = total as f64 / frames.max(1) as f64 * 2.0;
        let floor = (self.min_pixels as f64 * 1.05).floor();
        cap.min(share).max(floor)
    }
}

/// qwen-vl-utils' `smart_resize`: height and width as multiples of `factor`, near the picture's shape, with an area
/// within `[min_pixels, max_pixels]`. Rounds as Python does, half to even.
///
/// Where one side cannot shrink under `factor`, the other gives way so that the area stays under `max_pixels` (the
/// reference overshoots there).
///
/// # Errors
/// [`VideoError::Picture`] for an empty picture, sides that differ more than 200-fold, or bounds that no size meets.
pub fn smart_resize(
    (height, width): (usize, usize),
    factor: usize,
    min_pixels: f64,
    max_pixels: f64,
) -> Result<(usize, usize), VideoError> {
    let bad = |reason: String| Err(VideoError::Picture { reason });
    if height == 0 || width == 0 || factor == 0 {
        return bad(format!("expected a picture and a factor above 0, found {height} x {width}, factor {factor}"));
    }
    let (h, w, f) = (height as f64, width as f64, factor as f64);
    if h.max(w) / h.min(w) > MAX_RATIO {
        return bad(format!("expected sides within {MAX_RATIO} to 1, found {height} x {width}"));
    }
    if !(max_pixels >= f * f && min_pixels <= max_pixels) {
        return bad(format!("no multiple of {factor} x {factor} lies within {min_pixels} to {max_pixels} pixels"));
    }
    let rounded = |side: f64| (side / f).round_ties_even().max(1.0) * f;
    let (mut out_h, mut out_w) = (rounded(h), rounded(w));
    if out_h * out_w > max_pixels {
        let beta = (h * w / max_pixels).sqrt();
        let floored = |side: f64| (side / beta / f).floor().max(1.0) * f;
        (out_h, out_w) = (floored(h), floored(w));
        out_h = out_h.min((max_pixels / out_w / f).floor().max(1.0) * f);
        out_w = out_w.min((max_pixels / out_h / f).floor().max(1.0) * f);
    } else if out_h * out_w < min_pixels {
        let beta = (min_pixels / (h * w)).sqrt();
        let ceiled = |side: f64| (side * beta / f).ceil() * f;
        (out_h, out_w) = (ceiled(h), ceiled(w));
    }
    Ok((out_h as usize, out_w as usize))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn halves_round_to_even() {
        // 1.5 and 2.5 times the factor both round to 2.
        assert_eq!(smart_resize((42, 70), 28, 784.0, 78_400.0).unwrap(), (56, 56));
    }

    #[test]
    fn budgets_follow_the_total() {
        let budget = |total| PixelBudget { min_pixels: 100_352, max_pixels: 602_112, total_pixels: total };
        assert_eq!(budget(None).per_frame(1000), 602_112.0);
        assert_eq!(budget(Some(90_316_800)).per_frame(16), 602_112.0);
        assert_eq!(budget(Some(90_316_800)).per_frame(768), 235_200.0);
        assert_eq!(budget(Some(1_000_000)).per_frame(768), 105_369.0);
    }

    #[test]
    fn impossible_pictures_are_refused() {
        assert!(smart_resize((0, 10), 28, 0.0, 1e6).is_err());
        assert!(smart_resize((10, 2001), 28, 0.0, 1e6).is_err());
        assert!(smart_resize((10, 10), 28, 0.0, 783.0).is_err());
    }

    proptest! {
        #[test]
        fn smart_resize_stays_in_its_bounds(
            height in 1usize..3000, width in 1usize..3000, factor in 1usize..33, min in 1usize..400, room in 1usize..400,
        ) {
            prop_assume!(height.max(width) <= 200 * height.min(width));
            let cell = (factor * factor) as f64;
            let (low, high) = (min as f64 * cell, (min + room) as f64 * cell);
            let (h, w) = smart_resize((height, width), factor, low, high).unwrap();
            prop_assert!(h > 0 && w > 0 && h % factor == 0 && w % factor == 0);
            let area = (h * w) as f64;
            let rounded = |x: usize| (x as f64 / factor as f64).round_ties_even().max(1.0) * factor as f64;
            let natural = rounded(height) * rounded(width);
            // Multiples of the factor are coarse: only the bound that was hit can be promised.
            if natural > high {
                prop_assert!(area <= high);
            } else if natural < low {
                prop_assert!(area >= low);
            } else {
                prop_assert!(area == natural);
            }
        }

        #[test]
        fn wide_budgets_hold_on_both_sides(height in 16usize..3000, width in 16usize..3000, factor in 1usize..33) {
            prop_assume!(height.max(width) <= 4 * height.min(width));
            let cell = (factor * factor) as f64;
            let (h, w) = smart_resize((height, width), factor, 64.0 * cell, 768.0 * cell).unwrap();
            let area = (h * w) as f64 / cell;
            prop_assert!((64.0..=768.0).contains(&area), "{area}");
        }
    }
}
