//! How much of a text was read: the word error rate of OCR (Video-R1).

use crate::python::words;

/// 1 less the edit distance over words per gold word, not below 0.
///
/// An answer of twice the gold words or more is 0 without a look at it, so time is at most quadratic in the gold text
/// and linear in the answer: the distance is never less than the difference in length.
pub(crate) fn word_accuracy(gold: &str, given: &str) -> f64 {
    let (gold, given) = (words(gold), words(given));
    let most = gold.len().max(1);
    if given.len() >= gold.len() + most {
        return 0.0;
    }
    let distance = strsim::generic_levenshtein(&gold, &given);
    (1.0 - distance as f64 / most as f64).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_wrong_word_costs_its_share() {
        for (gold, given, expected) in [
            ("open from nine to five", "open from nine to five", 1.0),
            ("open from nine to five", " open\tfrom\u{a0}nine\nto five ", 1.0),
            ("open from nine to five", "open from ten to five", 0.8),
            ("open from nine to five", "open nine to five", 0.8),
            ("open from nine to five", "we open from nine to five", 0.8),
            ("open from nine to five", "Open from nine to five", 0.8),
            ("open from nine to five", "", 0.0),
            ("open", "open open", 0.0),
            ("open shut", "shut open", 0.0),
            ("\u{5927}\u{962a} exit", "\u{5927}\u{962a} exits", 0.5),
            ("", "", 1.0),
            ("", "word", 0.0),
        ] {
            let score = word_accuracy(gold, given);
            assert!((score - expected).abs() < 1e-12, "{gold:?} {given:?}: {score}");
        }
    }

    proptest! {
        #[test]
        fn the_short_way_equals_the_rule(gold in "([ab] ){0,6}", given in "([ab] ){0,20}") {
            let distance = strsim::generic_levenshtein(&words(&gold), &words(&given)) as f64;
            let rule = (1.0 - distance / words(&gold).len().max(1) as f64).clamp(0.0, 1.0);
            prop_assert_eq!(word_accuracy(&gold, &given), rule);
        }
    }
}
