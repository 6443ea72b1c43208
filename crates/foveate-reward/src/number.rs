//! Answers that are numbers, as Python reads them once commas are dropped (Video-R1).

use crate::python::{float, round_to_hundredths};

fn number(text: &str) -> Option<f64> {
    float(&text.replace(',', ""))
}

/// Whether two texts are the same number to 2 decimals and are written alike: both or neither with '.' or ','. Text
/// that is no number, on either side, is never right.
pub(crate) fn is_same_number(gold: &str, given: &str) -> bool {
    let has_mark = |text: &str| text.contains(['.', ',']);
    let rounded = |text| number(text).map(round_to_hundredths);
    has_mark(gold) == has_mark(given) && rounded(gold).zip(rounded(given)).is_some_and(|(gold, given)| gold == given)
}

/// 1 less the relative error `(|p - g| + 1e-9) / (|g| + 1e-9)`, not below 0; 0 if either is no number or not finite.
///
/// To the letter of the rule, a gold 0 is never met: its relative error is at least 1.
pub(crate) fn closeness(gold: &str, given: &str) -> f64 {
    let Some((gold, given)) = number(gold).zip(number(given)) else { return 0.0 };
    let error = ((given - gold).abs() + 1e-9) / (gold.abs() + 1e-9);
    1.0 - error.min(1.0) // `f64::min` takes the number of a NaN and a number
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_equal_to_two_decimals() {
        for (gold, given) in [
            ("3", "3"),
            ("3", " 03\n"),
            ("3", "+3"),
            ("-3", "-3"),
            ("100000", "1e5"),
            ("1,000", "1000.0"),
            ("1,000", "1,000"),
            ("0.125", "0.124"),
            ("2.5", "2.504"),
            ("12", "\u{661}\u{662}"),
            ("1000", "1_000"),
            ("0.00", "-0.001"),
            ("inf", "Infinity"),
        ] {
            assert!(is_same_number(gold, given), "{gold} {given}");
        }
    }

    #[test]
    fn another_number_or_writing_or_no_number_is_wrong() {
        for (gold, given) in [
            ("3", "4"),
            ("3", "-3"),
            ("3", "3.0"),
            ("3.0", "3"),
            ("1,000", "1000"),
            ("50", "50%"),
            ("3", ""),
            ("3", "three"),
            ("3", "3 apples"),
            ("0.12", "0.126"),
            ("nan", "nan"),
            ("3", "\u{2162}"),
            (",", ","),
            ("x", "x"),
        ] {
            assert!(!is_same_number(gold, given), "{gold} {given}");
        }
    }

    #[test]
    fn closeness_falls_with_the_relative_error() {
        for (gold, given, expected) in [
            ("10", "10", 1.0),
            ("10", "9", 0.9),
            ("10", "11", 0.9),
            ("-10", "-12.5", 0.75),
            ("1,000", "900", 0.9),
            ("10", "25", 0.0),
            ("10", "-10", 0.0),
            ("0", "0", 0.0),
            ("10", "1e999", 0.0),
            ("10", "nan", 0.0),
            ("nan", "10", 0.0),
            ("inf", "inf", 0.0),
            ("10", "", 0.0),
            ("10", "10%", 0.0),
        ] {
            let score = closeness(gold, given);
            assert!((score - expected).abs() < 1e-9, "{gold} {given}: {score}");
        }
    }

    proptest! {
        #[test]
        fn any_number_is_the_same_as_itself(number in -1e12..1e12f64) {
            let text = format!("{number:.3}");
            prop_assert!(is_same_number(&text, &text));
        }

        #[test]
        fn closeness_lies_from_0_to_1(gold in "(?s).{0,8}", given in "[-0-9.,eE_]{0,8}") {
            prop_assert!((0.0..=1.0).contains(&closeness(&gold, &given)));
        }
    }
}
