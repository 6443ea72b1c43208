//! The learning rate of each step.

use std::f64::consts::PI;

use crate::config::{OptimTable, Schedule};

/// The learning rate of a step, counted from 1, of a run of `steps` steps.
///
/// It rises in a straight line over the warm-up, whose last step has the peak, and then follows the schedule, which would
/// reach 0 one step after the last.
pub fn learning_rate(optim: &OptimTable, step: u64, steps: u64) -> f64 {
    if step <= optim.warmup_steps {
        return optim.lr * step as f64 / optim.warmup_steps as f64;
    }
    let done = (step - 1 - optim.warmup_steps) as f64;
    let whole = steps.saturating_sub(optim.warmup_steps).max(1) as f64;
    let progress = (done / whole).min(1.0);
    optim.lr
        * match optim.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - progress,
            Schedule::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule) -> Vec<f64> {
        let optim = OptimTable { lr: 1.0, warmup_steps: 2, schedule, ..OptimTable::default() };
        (1..=6).map(|step| learning_rate(&optim, step, 6)).collect()
    }

    #[test]
    fn the_warm_up_ends_at_the_peak() {
        assert_eq!(rates(Schedule::Constant), [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn a_line_and_a_cosine_start_at_the_peak_and_head_for_zero() {
        assert_eq!(rates(Schedule::Linear), [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]);
        let cosine = rates(Schedule::Cosine);
        assert_eq!(cosine[2], 1.0);
        assert!((cosine[4] - 0.5).abs() < 1e-12);
        assert!(cosine[5] > 0.0 && cosine[5] < 0.25);
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_peak() {
        let optim = OptimTable::default();
        assert_eq!(learning_rate(&optim, 1, 10), optim.lr);
    }
}
