//! Which frames of a video to look at.

use serde::{Deserialize, Serialize};

use crate::VideoError;

/// Frames are taken in pairs, since two of them make one temporal grid (qwen-vl-utils' `FRAME_FACTOR`).
const FRAME_FACTOR: usize = 2;

/// How frames are picked from a video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Sampling {
    /// `frames` frames from the first to the last, evenly; a shorter video repeats frames.
    Uniform {
        /// How many.
        frames: usize,
    },
    /// By rate, with bounds, as qwen-vl-utils does ([`smart_nframes`]), then evenly.
    Fps {
        /// Frames per second of video.
        fps: f64,
        /// At least this many, rounded up to even.
        min_frames: usize,
        /// At most this many, rounded down to even.
        max_frames: usize,
    },
    /// These frames, counted from 0 in presentation order.
    Indices(Vec<usize>),
    /// What is on the screen at these times, seconds from the first frame.
    Times(Vec<f64>),
    /// Some of the frames that appear within a part of the video.
    Within {
        /// Where the part begins and ends, seconds from the first frame; it may end after the video.
        span: [f64; 2],
        /// How they are picked, as if the part were a video.
        sampling: Box<Sampling>,
    },
}

impl Sampling {
    /// The wanted frames of a video whose frames appear at `times` (seconds, ascending, first is 0) and that lasts
    /// `duration` seconds.
    ///
    /// # Errors
    /// [`VideoError::Sampling`] for a frame or time outside the video, no frames at all, or a rate that is not positive.
    pub fn indices(&self, times: &[f64], duration: f64) -> Result<Vec<usize>, VideoError> {
        let total = times.len();
        let picked = match self {
            Self::Uniform { frames } => uniform_indices(total, *frames),
            Self::Fps { fps, min_frames, max_frames } => {
                let rate = total as f64 / duration;
                let frames = smart_nframes(total, rate, &FpsBounds { fps: *fps, min: *min_frames, max: *max_frames })?;
                uniform_indices(total, frames)
            }
            Self::Indices(indices) => {
                if let Some(outside) = indices.iter().find(|&&i| i >= total) {
                    return Err(bad(format!("frame {outside} is outside the video of {total} frames")));
                }
                indices.clone()
            }
            Self::Within { span: [start, end], sampling } => {
                let first = index_at(times, duration, *start)?;
                // At least a pair, which sampling by rate needs, where the video has one.
                let after = times.partition_point(|&time| time < *end).max(first + FRAME_FACTOR).min(total);
                let first = first.min(after.saturating_sub(FRAME_FACTOR));
                let part: Vec<f64> = times[first..after].iter().map(|time| time - times[first]).collect();
                let length = (end.min(duration) - times[first]).max(part.len() as f64 * duration / total as f64);
                sampling.indices(&part, length)?.into_iter().map(|index| first + index).collect()
            }
            Self::Times(wanted) => wanted.iter().map(|&t| index_at(times, duration, t)).collect::<Result<_, _>>()?,
        };
        if picked.is_empty() { Err(bad("no frames are asked for".to_owned())) } else { Ok(picked) }
    }
}

/// `linspace(0, total - 1, frames)` rounded half to even, in 64-bit floats and in numpy's order of operations.
///
/// Empty when `total` or `frames` is 0; `[0]` when `frames` is 1.
pub fn uniform_indices(total: usize, frames: usize) -> Vec<usize> {
    let Some(last) = total.checked_sub(1) else { return Vec::new() };
    let step = last as f64 / frames.saturating_sub(1).max(1) as f64;
    let at = |i: usize| if i > 0 && i + 1 == frames { last } else { (i as f64 * step).round_ties_even() as usize };
    (0..frames).map(at).collect()
}

/// Bounds of sampling by rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FpsBounds {
    /// Frames per second of video.
    pub fps: f64,
    /// At least this many frames.
    pub min: usize,
    /// At most this many frames.
    pub max: usize,
}

/// qwen-vl-utils' `smart_nframes` (from version 0.0.10 on, which rounds down): an even number of frames near
/// `total / video_fps * fps`, within the bounds and not above `total`.
///
/// # Errors
/// [`VideoError::Sampling`] for rates that are not positive, or a video of fewer than two frames.
pub fn smart_nframes(total: usize, video_fps: f64, bounds: &FpsBounds) -> Result<usize, VideoError> {
    let positive = |x: f64| x.is_finite() && x > 0.0;
    if !positive(bounds.fps) || !positive(video_fps) {
        return Err(bad(format!("expected positive rates, found fps {} of a video at {video_fps} fps", bounds.fps)));
    }
    let min = bounds.min.div_ceil(FRAME_FACTOR) * FRAME_FACTOR;
    let max = bounds.max / FRAME_FACTOR * FRAME_FACTOR;
    let wanted = (total as f64 / video_fps * bounds.fps).max(min as f64).min(max as f64).min(total as f64);
    let frames = wanted as usize / FRAME_FACTOR * FRAME_FACTOR;
    if frames < FRAME_FACTOR {
        return Err(bad(format!(
            "sampling by fps needs at least {FRAME_FACTOR} frames, found {total} in the video and at most {max} allowed"
        )));
    }
    Ok(frames)
}

fn index_at(times: &[f64], duration: f64, wanted: f64) -> Result<usize, VideoError> {
    // Times in records are decimal, time stamps are multiples of a time base: allow for their rounding.
    const SLACK: f64 = 1e-6;
    if !(-SLACK..=duration + SLACK).contains(&wanted) {
        return Err(bad(format!("time {wanted} s is outside the video of {duration} s")));
    }
    Ok(times.partition_point(|&t| t <= wanted + SLACK).saturating_sub(1))
}

fn bad(reason: String) -> VideoError {
    VideoError::Sampling { reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_part_is_sampled_as_if_it_were_a_video() {
        let times: Vec<f64> = (0..40).map(|frame| f64::from(frame) * 0.25).collect();
        let within = |span, sampling| Sampling::Within { span, sampling: Box::new(sampling) }.indices(&times, 10.0);
        let uniform = Sampling::Uniform { frames: 4 };
        assert_eq!(within([2.0, 3.0], uniform.clone()).unwrap(), [8, 9, 10, 11]);
        assert_eq!(within([9.5, 99.0], uniform.clone()).unwrap(), [38, 38, 39, 39]);
        assert_eq!(within([3.0, 3.0], uniform.clone()).unwrap(), [12, 12, 13, 13]);
        let by_rate = Sampling::Fps { fps: 2.0, min_frames: 2, max_frames: 8 };
        assert_eq!(within([0.0, 10.0], by_rate.clone()).unwrap(), by_rate.indices(&times, 10.0).unwrap());
        assert_eq!(within([10.0, 10.0], by_rate.clone()).unwrap(), [38, 39]);
        assert_eq!(within([3.0, 3.1], by_rate).unwrap(), [12, 13]);
        assert!(within([11.0, 12.0], uniform).is_err());
    }

    #[test]
    fn halves_round_to_even() {
        // linspace(0, 3, 3) = 0, 1.5, 3 and linspace(0, 5, 3) = 0, 2.5, 5
        assert_eq!(uniform_indices(4, 3), [0, 2, 3]);
        assert_eq!(uniform_indices(6, 3), [0, 2, 5]);
    }

    #[test]
    fn a_short_video_repeats_frames() {
        assert_eq!(uniform_indices(1, 4), [0, 0, 0, 0]);
        assert_eq!(uniform_indices(2, 4), [0, 0, 1, 1]);
    }

    #[test]
    fn impossible_rates_are_refused() {
        let bounds = FpsBounds { fps: 2.0, min: 4, max: 768 };
        assert_eq!(smart_nframes(3, 25.0, &bounds).unwrap(), 2);
        assert!(smart_nframes(1, 25.0, &bounds).is_err());
        assert!(smart_nframes(10, 0.0, &bounds).is_err());
        assert!(smart_nframes(10, 25.0, &FpsBounds { fps: f64::NAN, ..bounds }).is_err());
    }

    #[test]
    fn a_time_gives_the_frame_on_the_screen() {
        let times = [0.0, 0.1, 0.5];
        let at = |t: f64| Sampling::Times(vec![t]).indices(&times, 0.6).map(|i| i[0]);
        assert_eq!(at(0.0).unwrap(), 0);
        assert_eq!(at(0.099).unwrap(), 0);
        assert_eq!(at(0.1).unwrap(), 1);
        assert_eq!(at(0.49).unwrap(), 1);
        assert_eq!(at(0.6).unwrap(), 2);
        assert!(at(0.7).is_err());
        assert!(at(-0.1).is_err());
        assert!(at(f64::NAN).is_err());
    }

    #[test]
    fn frames_outside_the_video_are_refused() {
        assert!(Sampling::Indices(vec![0, 3]).indices(&[0.0, 0.1, 0.2], 0.3).is_err());
        assert!(Sampling::Indices(vec![]).indices(&[0.0], 0.1).is_err());
        assert!(Sampling::Uniform { frames: 0 }.indices(&[0.0], 0.1).is_err());
    }

    proptest! {
        #[test]
        fn even_sampling_ascends_from_the_first_to_the_last_frame(total in 1usize..5000, frames in 2usize..200) {
            let indices = uniform_indices(total, frames);
            prop_assert_eq!(indices.len(), frames);
            prop_assert_eq!((indices[0], indices[frames - 1]), (0, total - 1));
            prop_assert!(indices.is_sorted());
        }

        #[test]
        fn sampling_by_rate_stays_in_its_bounds(total in 2usize..5000, rate in 1.0f64..120.0, fps in 0.1f64..8.0) {
            let frames = smart_nframes(total, rate, &FpsBounds { fps, min: 4, max: 64 }).unwrap();
            prop_assert!(frames.is_multiple_of(2) && frames >= 2 && frames <= total.min(64));
            prop_assert!(frames >= 4 || total < 4);
        }
    }
}
