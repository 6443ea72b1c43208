//! Which questions are worth learning to pick frames for: those whose answer depends on the frames that are shown
//! (ReFoCUS, arXiv 2506.01274, appendix A.1).

use std::ops::Range;

/// Windows that a video is looked at through.
const WINDOWS: usize = 8;

/// The frames of a video that are seen through each of 8 windows, and those that are not: `[frames inside, frames
/// outside]`, ascending, of `frames` candidates.
///
/// Windows are `2 s` wide and `s = ceil(T / 8)` apart, the last wrapping round: `W_i = [(i - 1) s, (i + 1) s)` and
/// `W_8 = [0, s) u [7 s, T)`, as far as there are frames. The paper prints a width of T/8 and a stride of half that, which
/// would not reach the video's end; its last window fits this reading alone. With fewer than 19 frames a window near the
/// end may be empty.
pub fn windows(frames: usize) -> Vec<[Vec<usize>; 2]> {
    let stride = frames.div_ceil(WINDOWS);
    let window = |index: usize| {
        let parts: [Range<usize>; 2] = match index + 1 {
            WINDOWS => [0..stride, index * stride..frames],
            _ => [index * stride..(index + 2) * stride, 0..0],
        };
        (0..frames).partition(|frame| parts.iter().any(|part| part.contains(frame)))
    };
    (0..WINDOWS).map(window).map(|(inside, outside): (Vec<_>, Vec<_>)| [inside, outside]).collect()
}

/// `count` of these frames at equal distances, their first and last included; all of them if there are no more.
pub fn evenly(frames: &[usize], count: usize) -> Vec<usize> {
    if frames.len() <= count {
        return frames.to_vec();
    }
    let place = |index: usize| match count {
        1 => 0,
        _ => (index * (frames.len() - 1) + (count - 1) / 2) / (count - 1),
    };
    (0..count).map(|index| frames[place(index)]).collect()
}

/// Variance of a question's rewards over the sets of frames, with their number as divisor (16 in the paper). `None`
/// without a reward, or if one is no number.
pub fn variance(rewards: &[f32]) -> Option<f64> {
    let count = rewards.len() as f64;
    let mean = rewards.iter().map(|reward| f64::from(*reward)).sum::<f64>() / count;
    let variance = rewards.iter().map(|reward| (f64::from(*reward) - mean).powi(2)).sum::<f64>() / count;
    variance.is_finite().then_some(variance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn windows_are_a_quarter_wide_and_an_eighth_apart() {
        let found = windows(64);
        assert_eq!(found[0][0], (0..16).collect::<Vec<_>>());
        assert_eq!(found[3][0], (24..40).collect::<Vec<_>>());
        assert_eq!(found[7][0], (0..8).chain(56..64).collect::<Vec<_>>());
        assert_eq!(found[7][1], (8..56).collect::<Vec<_>>());
    }

    #[test]
    fn windows_and_complements_partition_the_video() {
        for frames in 8..601_usize {
            let stride = frames.div_ceil(8);
            let mut seen = vec![0; frames];
            for (index, [inside, outside]) in windows(frames).iter().enumerate() {
                let mut all = [inside.clone(), outside.clone()].concat();
                all.sort_unstable();
                assert_eq!(all, (0..frames).collect::<Vec<_>>());
                assert!(inside.len() <= 2 * stride && !outside.is_empty());
                assert!(frames < 19 || !inside.is_empty());
                if index == 7 {
                    let expected: Vec<_> =
                        (0..frames).filter(|frame| *frame < stride || *frame >= 7 * stride).collect();
                    assert_eq!(inside, &expected);
                }
                inside.iter().for_each(|frame| seen[*frame] += 1);
            }
            // Every frame lies in two windows, as far as the last stride goes.
            assert!(seen.iter().all(|count| *count == 2), "{:?}", seen);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn evenly_spread_frames_are_in_order_and_reach_both_ends(count in 2..40_usize, frames in 1..100_usize) {
            let all: Vec<usize> = (0..frames).map(|frame| 3 * frame).collect();
            let found = evenly(&all, count);
            prop_assert_eq!(found.len(), count.min(frames));
            prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!((found[0], found[found.len() - 1]), (all[0], all[frames - 1]));
        }
    }

    #[test]
    fn the_variance_divides_by_the_number_of_sets() {
        assert_eq!(variance(&[1.0, -1.0, 1.0, -1.0]), Some(1.0));
        assert_eq!(variance(&[]), None);
        assert_eq!(variance(&[0.5, f32::NAN]), None);
        assert_eq!(evenly(&[4, 7, 9], 1), [4]);
    }
}
