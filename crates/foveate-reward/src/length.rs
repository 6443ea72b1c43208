//! A bonus for a right completion of the length wanted (Video-R1, arXiv 2503.21776, section 3.2).

use serde::{Deserialize, Serialize};

/// The `length` bonus: 1 where the accuracy is right and the completion has `min` to `max` tokens, else 0.
///
/// It needs the rubric's accuracy, so it is not a [`Scorer`](crate::Scorer) but comes after them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Length {
    /// What is added to the total. Video-R1: 0.2.
    pub weight: f32,
    /// Fewest tokens, inclusive. Video-R1: 320.
    pub min: usize,
    /// Most tokens, inclusive. Video-R1: 512.
    pub max: usize,
}

impl Default for Length {
    fn default() -> Self {
        Self { weight: 0.2, min: 320, max: 512 }
    }
}

/// An accuracy above this is right, also where it is a matter of degree (released Video-R1).
const RIGHT: f32 = 0.1;

impl Length {
    /// 1 or 0; `None` if the number of tokens or the accuracy is not known (NaN).
    ///
    /// The released Video-R1 gives the bonus only if two completions of the group are right; the paper, and this, to
    /// each.
    pub fn score(&self, tokens: Option<usize>, accuracy: f32) -> Option<f32> {
        let tokens = tokens.filter(|_| !accuracy.is_nan())?;
        let earned = accuracy > RIGHT && (self.min..=self.max).contains(&tokens);
        Some(if earned { 1.0 } else { 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_completion_of_the_length_wanted_earns_the_bonus() {
        let length = Length::default();
        for (tokens, accuracy, expected) in [
            (Some(320), 1.0, Some(1.0)),
            (Some(512), 1.0, Some(1.0)),
            (Some(319), 1.0, Some(0.0)),
            (Some(513), 1.0, Some(0.0)),
            (Some(400), 0.0, Some(0.0)),
            (Some(400), 0.1, Some(0.0)),
            (Some(400), 0.5, Some(1.0)),
            (None, 1.0, None),
            (Some(400), f32::NAN, None),
        ] {
            assert_eq!(length.score(tokens, accuracy), expected, "{tokens:?} {accuracy}");
        }
    }
}
