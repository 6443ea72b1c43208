//! Orders and choices of a video's frames, for what is asked of a policy under another video.
//!
//! An order of n frames holds each of `0..n` once: in the place of frame f stands frame `order[f]`.

use rand::Rng;
use rand::seq::SliceRandom;

/// Segments that [`shuffled_segments`] cuts a video into: as many of equal length as it has frames for.
const SEGMENTS: usize = 4;

/// A random order, each as likely as any other.
pub fn shuffled(frames: usize, random: &mut impl Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..frames).collect();
    order.shuffle(random);
    order
}

/// Last to first.
pub fn reversed(frames: usize) -> Vec<usize> {
    (0..frames).rev().collect()
}

/// Four segments of neighbouring frames (their lengths differ by at most one) in a random order, each as it was.
pub fn shuffled_segments(frames: usize, random: &mut impl Rng) -> Vec<usize> {
    let segments = SEGMENTS.min(frames);
    let bound = |segment: usize| segment * frames / segments.max(1);
    shuffled(segments, random).into_iter().flat_map(|segment| bound(segment)..bound(segment + 1)).collect()
}

/// Half of the frames (rounded down), ascending, each half as likely as any other.
pub fn half(frames: usize, random: &mut impl Rng) -> Vec<usize> {
    let mut chosen = shuffled(frames, random);
    chosen.truncate(frames / 2);
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn is_order(order: &[usize]) -> bool {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        sorted == (0..order.len()).collect::<Vec<_>>()
    }

    #[test]
    fn every_order_holds_every_frame_once() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for frames in 0..20 {
            for order in [shuffled(frames, &mut random), reversed(frames), shuffled_segments(frames, &mut random)] {
                assert!(order.len() == frames && is_order(&order), "{order:?}");
            }
            assert_eq!(half(frames, &mut random).len(), frames / 2);
        }
    }

    #[test]
    fn segments_stay_as_they_were() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let order = shuffled_segments(10, &mut random);
        let breaks = order.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        assert!(breaks <= 3, "{order:?}");
        let seen: std::collections::BTreeSet<_> = (0..200).map(|_| shuffled_segments(8, &mut random)).collect();
        assert_eq!(seen.len(), 24, "all orders of four segments come up");
    }

    #[test]
    fn a_shuffled_video_is_any_order() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let seen: std::collections::BTreeSet<_> = (0..200).map(|_| shuffled(3, &mut random)).collect();
        assert_eq!(seen.len(), 6);
    }
}
