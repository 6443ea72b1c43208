//! Means with their 95% intervals.

/// Two-sided 95% quantiles of Student's t with 1 to 10 degrees of freedom.
const QUANTILES: [f64; 10] = [12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281];
/// The same of the normal distribution.
const NORMAL: f64 = 1.959_964;

/// A mean and its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Interval {
    /// The mean.
    pub(super) mean: f64,
    /// Lower end.
    pub(super) low: f64,
    /// Upper end.
    pub(super) high: f64,
}

impl Interval {
    /// Student's interval of the mean of independent values; `None` of fewer than two.
    pub(super) fn student(values: &[f64]) -> Option<Self> {
        let freedom = values.len().checked_sub(1).filter(|freedom| *freedom > 0)?;
        let mean = mean(values);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let half = quantile(freedom) * (squares / freedom as f64 / values.len() as f64).sqrt();
        Some(Self { mean, low: mean - half, high: mean + half })
    }
}

/// The mean; NaN of nothing.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Two-sided 95% quantile of Student's t. Past the table by the expansion in 1/n (Abramowitz and Stegun, 26.7.5).
fn quantile(freedom: usize) -> f64 {
    if let Some(value) = QUANTILES.get(freedom - 1) {
        return *value;
    }
    let (z, n) = (NORMAL, freedom as f64);
    let first = (z.powi(3) + z) / 4.0;
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
    let third = (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / 384.0;
    z + first / n + second / n.powi(2) + third / n.powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_quantiles_are_those_of_the_tables() {
        for (freedom, expected) in [(1, 12.7062), (2, 4.3027), (10, 2.2281), (11, 2.2010), (29, 2.0452), (120, 1.9799)]
        {
            assert!((quantile(freedom) - expected).abs() < 2e-4, "{freedom}: {}", quantile(freedom));
        }
    }

    #[test]
    fn students_interval_of_three_values_has_its_known_ends() {
        // Mean 2, standard deviation 1: 2 +- 4.3027 / sqrt(3).
        let found = Interval::student(&[1.0, 2.0, 3.0]).unwrap();
        assert!((found.mean - 2.0).abs() < 1e-12 && (found.high - 4.484_16).abs() < 1e-4, "{found:?}");
        assert!((found.low + 0.484_16).abs() < 1e-4, "{found:?}");
        assert_eq!(Interval::student(&[1.0]), None);
    }
}
