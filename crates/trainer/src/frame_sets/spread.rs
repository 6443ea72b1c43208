//! How widely picks are spread over a video (ReFoCUS, arXiv 2506.01274, figure 6).

/// Entropy in nats of the density that picks were drawn from, over time from 0 to 1, by the estimator of Kozachenko and
/// Leonenko with the nearest neighbour (Kraskov et al. 2004, arXiv cond-mat/0305641, eq. 20): 0 for picks that are uniform
/// over the video, the lower the closer they lie together. NaN of fewer than two picks. Picks of one set never coincide; of
/// those of several sets that do, the distance counts as half a frame's.
pub fn temporal_entropy(picks: &[usize], frames: usize) -> f64 {
    let count = picks.len();
    if count < 2 {
        return f64::NAN;
    }
    let mut sorted: Vec<f64> = picks.iter().map(|pick| *pick as f64).collect();
    sorted.sort_by(f64::total_cmp);
    let gaps: Vec<f64> = sorted.windows(2).map(|pair| (pair[1] - pair[0]).max(0.5) / frames.max(1) as f64).collect();
    let nearest = |place: usize| {
        let sides = [place.checked_sub(1), Some(place)];
        sides.into_iter().flatten().filter_map(|gap| gaps.get(gap)).copied().fold(f64::INFINITY, f64::min)
    };
    let logs = (0..count).map(|place| nearest(place).ln()).sum::<f64>() / count as f64;
    // psi(n) - psi(1) is the (n-1)-th harmonic number; 2 is the length of an interval of radius 1.
    let harmonic: f64 = (1..count).map(|n| 1.0 / n as f64).sum();
    harmonic + 2.0_f64.ln() + logs
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// The estimate over many sets of 32 picks, uniform over a part of the video.
    fn mean_entropy(part: f64) -> f64 {
        const FRAMES: usize = 1 << 20;
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut set = || (0..32).map(|_| (random.random::<f64>() * part * FRAMES as f64) as usize).collect::<Vec<_>>();
        (0..400).map(|_| temporal_entropy(&set(), FRAMES)).sum::<f64>() / 400.0
    }

    #[test]
    fn uniform_picks_have_the_entropy_of_the_part_they_are_from() {
        // Without bias but for the ends of the interval.
        assert!(mean_entropy(1.0).abs() < 0.06, "{}", mean_entropy(1.0));
        assert!((mean_entropy(0.25) - mean_entropy(1.0) - 0.25_f64.ln()).abs() < 0.01);
    }

    #[test]
    fn neighbours_lie_as_close_as_frames_can() {
        // 1 + 1/2 + ln 2 + ln(1/64)
        let expected = 1.5 + 2.0_f64.ln() - 64.0_f64.ln();
        assert!((temporal_entropy(&[9, 10, 11], 64) - expected).abs() < 1e-12);
        assert!(temporal_entropy(&[9], 64).is_nan());
        assert!(temporal_entropy(&[9, 9], 64) < temporal_entropy(&[9, 10], 64));
    }
}
