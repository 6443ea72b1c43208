//! Two evaluations of the same questions.

use std::collections::HashMap;
use std::fmt::Write;

use anyhow::{Result, ensure};

use crate::eval::{Change, Item, SCORES, Share, comparison};

/// The table of both, with what their difference is worth: McNemar's test and the knowledge gain.
///
/// # Errors
/// They share no example that both judged, or one answers an example twice.
pub(super) fn table(before: &[Item], after: &[Item]) -> Result<String> {
    let known = by_id(before)?;
    by_id(after)?;
    let pairs: Vec<(&Item, &Item)> =
        after.iter().filter_map(|item| Some((*known.get(item.id.as_str())?, item))).collect();
    ensure!(!pairs.is_empty(), "the two files have no example in common");
    let alone = (before.len() - pairs.len(), after.len() - pairs.len());
    let all = pairs.len();
    let scores = others(&pairs);
    let is_judged = |item: &Item| !item.accuracy.is_nan();
    let pairs: Vec<_> = pairs.into_iter().filter(|(a, b)| is_judged(a) && is_judged(b)).collect();
    if pairs.is_empty() && !scores.is_empty() {
        return Ok(scores);
    }
    ensure!(!pairs.is_empty(), "no example was judged in both files");
    let (first, second): (Vec<Item>, Vec<Item>) = pairs.iter().map(|(a, b)| ((*a).clone(), (*b).clone())).unzip();
    let mut text = comparison(&first, &second);
    if alone != (0, 0) {
        let _ = writeln!(text, "left out, since the other file lacks them: {} before, {} after", alone.0, alone.1);
    }
    if pairs.len() < all {
        let _ = writeln!(text, "left out, since they were not judged in both: {}", all - pairs.len());
    }
    let right = |item: &Item| item.accuracy >= 1.0;
    let won = pairs.iter().filter(|(a, b)| !right(a) && right(b)).count();
    let lost = pairs.iter().filter(|(a, b)| right(a) && !right(b)).count();
    let _ = writeln!(text, "wrong before and right after: {won}; right before and wrong after: {lost}");
    let _ = writeln!(text, "McNemar's exact test: p = {:.2e}", mcnemar(won, lost));
    text += &scores;
    // Video-MMMU's track of questions whose answers a video teaches.
    let taught =
        |items: &[Item]| -> Vec<Item> { items.iter().filter(|item| item.kind == "Adaptation").cloned().collect() };
    let (first, second) = (taught(&first), taught(&second));
    let start = Share::of(&first).mean;
    if !first.is_empty() && start < 1.0 {
        let gain = 100.0 * Change::between(&first, &second).mean / (1.0 - start);
        let _ = writeln!(
            text,
            "knowledge gain (of Adaptation, in percent of what was missing before; Video-MMMU): {gain:+.1}"
        );
    }
    Ok(text)
}

/// Differences of the other scores, each on the pairs that have it, judged or not.
fn others(pairs: &[(&Item, &Item)]) -> String {
    let mut text = String::new();
    for (key, name) in SCORES {
        let differences: Vec<f64> = pairs
            .iter()
            .filter_map(|(a, b)| Some(f64::from(*b.scores.get(key)?) - f64::from(*a.scores.get(key)?)))
            .filter(|difference| !difference.is_nan())
            .collect();
        if !differences.is_empty() {
            let (change, items) = (Change::of(&differences).text(), differences.len());
            let _ = writeln!(text, "{name}: {change} over {items} items");
        }
    }
    text
}

/// Items by their examples.
///
/// # Errors
/// One of them stands there twice.
pub(super) fn by_id(items: &[Item]) -> Result<HashMap<&str, &Item>> {
    let mut known = HashMap::new();
    for item in items {
        ensure!(known.insert(item.id.as_str(), item).is_none(), "example {} is answered twice in one file", item.id);
    }
    Ok(known)
}

/// The two-sided exact p of as unequal a split of the questions that changed, if either way were as likely: twice the
/// binomial tail, at most 1.
///
/// Source: Q. McNemar, Psychometrika 12 (1947); exact form as in A. Agresti, Categorical Data Analysis, 10.1.
fn mcnemar(won: usize, lost: usize) -> f64 {
    let (n, fewer) = (won + lost, won.min(lost));
    // Terms as logarithms: 2^-n leaves the range of f64 from 1075 changes on.
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=fewer {
        tail += term.exp();
        term += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemars_p_is_the_binomials() {
        let close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
        close(mcnemar(0, 0), 1.0);
        close(mcnemar(3, 3), 1.0);
        close(mcnemar(0, 5), 0.0625);
        close(mcnemar(8, 2), 0.109375); // 2 (1 + 10 + 45) / 2^10
        assert!(mcnemar(2000, 1800) > 0.001 && mcnemar(2000, 1800) < 0.0013);
    }

    #[test]
    fn only_questions_in_both_files_are_compared() {
        let item = |id: &str, accuracy: f64| -> Item {
            serde_json::from_value(serde_json::json!({
                "id": id, "kind": "k", "answer": "A", "completion": "", "accuracy": accuracy, "reward": 0.0, "length": 1,
                "truncated": false
            }))
            .unwrap()
        };
        let before = [item("a", 0.0), item("b", 1.0), item("c", 0.0)];
        let after = [item("b", 1.0), item("a", 1.0), item("d", 1.0)];
        let text = table(&before, &after).unwrap();
        assert!(text.contains("left out, since the other file lacks them: 1 before, 1 after"), "{text}");
        assert!(text.contains("right after: 1; right before and wrong after: 0"), "{text}");
        assert!(!text.contains("knowledge gain"), "{text}");
        let taught = |item: &Item| Item {
            kind: "Adaptation".into(),
            scores: [("iou".into(), item.accuracy)].into(),
            ..item.clone()
        };
        let text = table(&[taught(&before[0]), before[1].clone()], &[after[0].clone(), taught(&after[1])]).unwrap();
        assert!(
            text.contains("mean temporal IoU: +100.0 over 1 items") && text.contains("Video-MMMU): +100.0"),
            "{text}"
        );
        assert!(table(&before, &[item("x", 1.0)]).is_err());
        let twice = table(&[item("a", 0.0)], &[item("a", 1.0), item("a", 1.0)]).unwrap_err().to_string();
        assert_eq!(twice, "example a is answered twice in one file");

        let unjudged = Item { accuracy: f32::NAN, ..item("b", 0.0) };
        let text = table(&[item("a", 0.0), item("b", 1.0)], &[item("a", 0.0), unjudged]).unwrap();
        assert!(text.contains("not judged in both: 1") && text.contains("before and wrong after: 0"), "{text}");
    }
}
