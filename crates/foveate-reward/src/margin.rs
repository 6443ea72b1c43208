//! The reward of a set of frames (ReFoCUS): how clearly a frozen model prefers the right option.

/// `tanh((z_gold - z_best_wrong) / 2)` of the logits of the option letters, from -1 to 1.
///
/// This equals `(p_gold - p_best_wrong) / (p_gold + p_best_wrong)`: the margin of probabilities between the two,
/// whatever the other options. `None` if there is no option `gold`, no other option, or no margin (a logit is NaN, or
/// both are the same infinity).
pub fn margin(logits: &[f32], gold: usize) -> Option<f32> {
    let right = f64::from(*logits.get(gold)?);
    let wrong = logits.iter().enumerate().filter(|(option, _)| *option != gold).map(|(_, logit)| f64::from(*logit));
    let best = wrong.reduce(|a, b| if a.is_nan() || a > b { a } else { b })?;
    let margin = ((right - best) / 2.0).tanh();
    (!margin.is_nan()).then_some(margin as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_margin_is_between_gold_and_the_best_of_the_others() {
        assert_eq!(margin(&[1.0, 1.0, -5.0], 0), Some(0.0));
        assert_eq!(margin(&[0.0, 2.0, 1.0], 1), Some(0.5_f32.tanh()));
        assert_eq!(margin(&[0.0, 2.0, 1.0], 2), Some((-0.5_f32).tanh()));
        assert_eq!(margin(&[500.0, 0.0], 0), Some(1.0));
        assert_eq!(margin(&[0.0, f32::NEG_INFINITY], 0), Some(1.0));
    }

    #[test]
    fn without_two_options_or_a_number_there_is_no_margin() {
        for (logits, gold) in [(&[][..], 0), (&[1.0], 0), (&[1.0, 2.0], 2)] {
            assert_eq!(margin(logits, gold), None, "{logits:?} {gold}");
        }
        let (nan, minus) = (f32::NAN, f32::NEG_INFINITY);
        for logits in [[1.0, nan, 3.0], [1.0, 3.0, nan], [nan, 1.0, 1.0], [minus, minus, minus]] {
            assert_eq!(margin(&logits, 0), None, "{logits:?}");
        }
    }

    proptest! {
        #[test]
        fn it_is_the_margin_of_probabilities(logits in prop::collection::vec(-8.0..8.0f32, 2..6), pick in 0..100usize) {
            let gold = pick % logits.len();
            let p: Vec<f64> = logits.iter().map(|&z| f64::from(z).exp()).collect();
            let wrong = (0..p.len()).filter(|&i| i != gold).map(|i| p[i]).fold(0.0, f64::max);
            let expected = (p[gold] - wrong) / (p[gold] + wrong);
            prop_assert!((f64::from(margin(&logits, gold).unwrap()) - expected).abs() < 1e-6);
        }
    }
}
