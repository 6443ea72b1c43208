//! How near a number comes, by steps: mean relative accuracy (VSI-Bench, arXiv 2412.14171, section 3.2).

use crate::number::closeness;
use crate::{Answer, ProblemType, answer_text};

/// The share of the thresholds 0.5, 0.55 .. 0.95 that 1 - abs(p - g) / abs(g) reaches; `None` unless the answer is a number.
pub fn mean_relative_accuracy(answer: &Answer, completion: &str) -> Option<f32> {
    let numeric = matches!(answer.problem_type(), ProblemType::Numerical | ProblemType::Regression);
    if !numeric || answer.text().is_empty() {
        return None;
    }
    // Thresholds are decimal and the closeness has an epsilon: allow for their rounding.
    let closeness = closeness(answer.text(), answer_text(completion)) + 1e-6;
    let reached = (0..10).filter(|step| closeness >= 0.5 + 0.05 * f64::from(*step)).count();
    Some(reached as f32 / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearer_numbers_reach_more_thresholds() {
        let gold = Answer::new("100").of(ProblemType::Regression);
        for (given, expected) in
            [("100", 1.0), ("95", 1.0), ("94", 0.9), ("125", 0.6), ("150", 0.1), ("151", 0.0), ("x", 0.0)]
        {
            let score = mean_relative_accuracy(&gold, &format!("<answer>{given}</answer>"));
            assert_eq!(score, Some(expected), "{given}");
        }
        assert_eq!(mean_relative_accuracy(&Answer::new("B"), "<answer>B</answer>"), None);
    }
}
