//! The group-relative advantage (DeepSeekMath, eq. 2 and after).

use ndarray::{Array1, ArrayView1};

/// Added to the standard deviation, as in the released trainers.
const EPSILON: f64 = 1e-4;

/// Whether a group's advantages are made comparable with another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// Divided by the standard deviation of the group's rewards.
    ByStd,
    /// As they are (Dr. GRPO, arXiv 2503.20783).
    Unscaled,
}

/// `A_i = (R_i - mean R) / (std R + 1e-4)`, `[G]` to `[G]`, std with divisor `n - 1`; unscaled: `A_i = R_i - mean R`.
///
/// Exactly 0 for all if the rewards are all equal (largest = smallest, never a rounded difference). A reward that is
/// not finite is left out of mean and std and gets advantage 0; so does a group with fewer than two finite rewards.
pub fn advantages(rewards: ArrayView1<f32>, scaling: Scaling) -> Array1<f32> {
    let scored: Vec<f64> =
        rewards.iter().filter(|reward| reward.is_finite()).map(|reward| f64::from(*reward)).collect();
    let all_equal = scored.iter().all(|reward| *reward == scored[0]);
    if all_equal {
        return Array1::zeros(rewards.len());
    }
    let count = scored.len() as f64;
    let mean = scored.iter().sum::<f64>() / count;
    let scale = match scaling {
        Scaling::ByStd => {
            let variance = scored.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / (count - 1.0);
            variance.sqrt() + EPSILON
        }
        Scaling::Unscaled => 1.0,
    };
    rewards.mapv(|reward| if reward.is_finite() { ((f64::from(reward) - mean) / scale) as f32 } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn equal_rewards_give_exactly_zero_whatever_their_sum_rounds_to() {
        assert_eq!(advantages(array![0.1, 0.1, 0.1].view(), Scaling::ByStd), array![0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_group_of_one_gets_zero() {
        assert_eq!(advantages(array![3.0].view(), Scaling::ByStd), array![0.0]);
        assert_eq!(advantages(array![].view(), Scaling::ByStd), array![]);
    }

    #[test]
    fn a_nan_reward_is_left_out_of_the_baseline_and_gets_zero() {
        let with = advantages(array![1.0, f32::NAN, 0.0, 0.0].view(), Scaling::ByStd);
        let without = advantages(array![1.0, 0.0, 0.0].view(), Scaling::ByStd);
        assert_eq!(with, array![without[0], 0.0, without[1], without[2]]);
    }

    #[test]
    fn one_scored_completion_among_nans_gets_zero() {
        assert_eq!(advantages(array![f32::NAN, 1.0, f32::NAN].view(), Scaling::ByStd), array![0.0, 0.0, 0.0]);
        assert_eq!(advantages(array![f32::NAN, f32::NAN].view(), Scaling::ByStd), array![0.0, 0.0]);
    }

    #[test]
    fn two_rewards_are_one_deviation_apart_over_root_two() {
        let expected = 0.5 / (0.5_f64.sqrt() + 1e-4);
        let found = advantages(array![1.0, 0.0].view(), Scaling::ByStd);
        assert!((f64::from(found[0]) - expected).abs() < 1e-7 && found[1] == -found[0], "{found}");
    }

    #[test]
    fn unscaled_advantages_are_distances_from_the_mean_and_zero_for_equal_rewards() {
        assert_eq!(advantages(array![1.0, 0.0, f32::NAN].view(), Scaling::Unscaled), array![0.5, -0.5, 0.0]);
        assert_eq!(advantages(array![0.1, 0.1, 0.1].view(), Scaling::Unscaled), array![0.0, 0.0, 0.0]);
    }
}
