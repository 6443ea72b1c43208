//! How much of a gold text a free-form answer says: ROUGE-1, ROUGE-2 and ROUGE-L with stemming, as the Python package
//! `rouge_score` (0.1.2) computes them with `use_stemmer=True`.

use std::collections::HashMap;

use crate::porter::stem;

/// The mean of the F1 of ROUGE-1, ROUGE-2 and ROUGE-L, from 0 to 1.
///
/// Of one word there are no pairs: such a gold text is worth at most 2/3. Time is linear in the answer, and in the
/// gold text for each of its words (64 at a time).
pub(crate) fn rouge(gold: &str, given: &str) -> f64 {
    let (gold, given) = (tokens(gold), tokens(given));
    let by_n = |n| f1(common_runs(&gold, &given, n), runs(&gold, n), runs(&given, n));
    let by_order = f1(longest_common_subsequence(&gold, &given), gold.len(), given.len());
    (by_n(1) + by_n(2) + by_order) / 3.0
}

/// Lower-case words of ASCII letters and digits; those longer than 3 characters are stemmed.
fn tokens(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words
        .map(|word| if word.len() > 3 { stem(word) } else { word.to_owned() })
        .filter(|word| !word.is_empty())
        .collect()
}

/// How many runs of `n` tokens there are.
fn runs(tokens: &[String], n: usize) -> usize {
    (tokens.len() + 1).saturating_sub(n)
}

/// How many runs of `n` tokens the two share, each run of either counted once.
fn common_runs(gold: &[String], given: &[String], n: usize) -> usize {
    let mut left: HashMap<&[String], usize> = HashMap::new();
    for run in gold.windows(n) {
        *left.entry(run).or_default() += 1;
    }
    let mut takes_one = |run: &&[String]| match left.get_mut(*run) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    };
    given.windows(n).filter(&mut takes_one).count()
}

/// The harmonic mean of precision and recall; 0 where nothing is shared.
fn f1(common: usize, gold: usize, given: usize) -> f64 {
    if common == 0 {
        return 0.0;
    }
    let (precision, recall) = (common as f64 / given as f64, common as f64 / gold as f64);
    2.0 * precision * recall / (precision + recall)
}

/// Length of the longest common subsequence, bit-parallel over the gold tokens (Hyyro 2004).
fn longest_common_subsequence(gold: &[String], given: &[String]) -> usize {
    let words = gold.len().div_ceil(64);
    let mut places: HashMap<&str, Vec<u64>> = HashMap::new();
    for (at, token) in gold.iter().enumerate() {
        places.entry(token).or_insert_with(|| vec![0; words])[at / 64] |= 1 << (at % 64);
    }
    let mut row = vec![u64::MAX; words]; // a zero bit: the subsequence grows at this gold token
    for places in given.iter().filter_map(|token| places.get(token.as_str())) {
        let mut carry = false;
        for (bits, places) in row.iter_mut().zip(places) {
            let (sum, over) = bits.overflowing_add(*bits & places);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            carry = over || over_again;
            *bits = sum | (*bits & !places);
        }
    }
    (0..gold.len()).filter(|at| row[at / 64] & (1 << (at % 64)) == 0).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// What `rouge_score` says; made by `tests/golden/make_rouge.py`.
    fn golden() -> Value {
        serde_json::from_str(include_str!("../tests/golden/rouge.json")).unwrap()
    }

    #[test]
    fn stems_are_those_of_the_reference() {
        let golden = golden();
        let stems = golden["stems"].as_object().unwrap();
        assert!(stems.len() > 500);
        for (word, expected) in stems {
            assert_eq!(&Value::from(stem(word)), expected, "{word}");
        }
    }

    #[test]
    fn scores_are_those_of_the_reference() {
        let golden = golden();
        let pairs = golden["pairs"].as_array().unwrap();
        assert!(pairs.len() > 50);
        for pair in pairs {
            let score = rouge(pair["gold"].as_str().unwrap(), pair["given"].as_str().unwrap());
            assert!((score - pair["score"].as_f64().unwrap()).abs() < 1e-12, "{score}: {pair}");
        }
    }

    /// The textbook recurrence.
    fn by_table(gold: &[String], given: &[String]) -> usize {
        let mut table = vec![vec![0; given.len() + 1]; gold.len() + 1];
        for (i, a) in gold.iter().enumerate() {
            for (j, b) in given.iter().enumerate() {
                table[i + 1][j + 1] = if a == b { table[i][j] + 1 } else { table[i][j + 1].max(table[i + 1][j]) };
            }
        }
        table[gold.len()][given.len()]
    }

    proptest! {
        #[test]
        fn bits_find_the_subsequence_of_the_table(
            gold in prop::collection::vec("[a-d]", 0..200), given in prop::collection::vec("[a-e]", 0..200)
        ) {
            prop_assert_eq!(longest_common_subsequence(&gold, &given), by_table(&gold, &given));
        }

        #[test]
        fn a_score_lies_from_0_to_1_and_is_symmetric(a in "[a-c ]{0,30}", b in "[a-c ]{0,30}") {
            let score = rouge(&a, &b);
            prop_assert!((0.0..=1.0).contains(&score));
            prop_assert!((score - rouge(&b, &a)).abs() < 1e-12);
        }
    }
}
