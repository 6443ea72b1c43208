//! Decoded frames against the `ffmpeg` program's own.
use std::path::Path;

use crate::clips::{H264, clip, ffmpeg, reference, sound_and};
use crate::largest_difference;
use foveate_video::{DecodeOptions, Frames, Sampling, decode};

fn read(path: &Path, sampling: Sampling) -> Frames {
    decode(path, &sampling, &DecodeOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// Decodes all frames at once, a few spread ones, and some single ones: each must equal the program's byte for byte.
fn assert_equals_ffmpeg(path: &Path, size: (u32, u32)) -> Frames {
    let expected = reference(path, size);
    let total = expected.len();
    let all = read(path, Sampling::Indices((0..total).collect()));
    assert_eq!(all.total_frames, total, "{}", path.display());
    let spread = read(path, Sampling::Uniform { frames: 5 });
    let backwards = read(path, Sampling::Indices(vec![total - 1, total / 2, total / 2, 0]));
    let last = read(path, Sampling::Indices(vec![total - 1]));
    for frames in [&all, &spread, &backwards, &last] {
        for (image, &index) in frames.images.iter().zip(&frames.indices) {
            let difference = largest_difference(image, &expected[index]);
            assert_eq!(difference, 0, "{}: frame {index} of {:?}", path.display(), frames.indices);
        }
    }
    assert!(all.times.is_sorted_by(|a, b| a < b) && all.times[0] == 0.0);
    all
}

#[test]
fn h264_with_b_frames_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    for container in ["mp4", "mkv", "ts", "mov", "avi", "h264"] {
        let path = clip(dir.path(), &format!("a.{container}"), "128x96", 200, H264);
        let frames = assert_equals_ffmpeg(&path, (128, 96));
        assert!((frames.duration - 8.0).abs() < 1e-6, "{container}: {}", frames.duration);
        assert!((frames.times[100] - 4.0).abs() < 2e-3, "{container}: {}", frames.times[100]);
    }
}

#[test]
fn open_groups_of_pictures_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let open = format!("{H264} -x264-params open-gop=1");
    assert_equals_ffmpeg(&clip(dir.path(), "a.mp4", "128x96", 200, &open), (128, 96));
    assert_equals_ffmpeg(&clip(dir.path(), "a.ts", "128x96", 200, &open), (128, 96));
    let mpeg2 = "-c:v mpeg2video -bf 2 -g 15 -q:v 3";
    assert_equals_ffmpeg(&clip(dir.path(), "a.mpg", "128x96", 100, mpeg2), (128, 96));
}

#[test]
fn interlaced_frames_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let h264 = format!("{H264} -flags +ildct+ilme");
    assert_equals_ffmpeg(&clip(dir.path(), "a.mp4", "128x96", 100, &h264), (128, 96));
    assert_equals_ffmpeg(&clip(dir.path(), "a.ts", "128x96", 100, &h264), (128, 96));
    let mpeg2 = "-c:v mpeg2video -bf 2 -g 15 -q:v 3 -flags +ildct+ilme";
    assert_equals_ffmpeg(&clip(dir.path(), "a.mpg", "128x96", 100, mpeg2), (128, 96));
}

#[test]
fn frames_that_none_refers_to_are_exact_where_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    for order in ["b-pyramid=none:bframes=7:b-adapt=0", "b-pyramid=strict:ref=1", "bframes=0", "slices=4:bframes=2"] {
        let h264 = format!("-c:v libx264 -preset fast -g 60 -pix_fmt yuv420p -x264-params {order}");
        assert_equals_ffmpeg(&clip(dir.path(), "a.mkv", "128x96", 150, &h264), (128, 96));
    }
}

#[test]
fn intra_refresh_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let refresh = "-c:v libx264 -preset fast -g 20 -x264-params intra-refresh=1 -pix_fmt yuv420p";
    assert_equals_ffmpeg(&clip(dir.path(), "a.mkv", "128x96", 120, refresh), (128, 96));
}

#[test]
fn hevc_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let hevc = "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=30:bframes=3:open-gop=1";
    assert_equals_ffmpeg(&clip(dir.path(), "a.mp4", "128x96", 120, hevc), (128, 96));
}

#[test]
fn vp9_and_vp8_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let vp9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 30 -auto-alt-ref 1 -lag-in-frames 16";
    assert_equals_ffmpeg(&clip(dir.path(), "a.webm", "128x96", 90, vp9), (128, 96));
    let vp8 = "-c:v libvpx -deadline good -cpu-used 5 -g 30 -auto-alt-ref 1 -lag-in-frames 16 -b:v 300k";
    assert_equals_ffmpeg(&clip(dir.path(), "b.webm", "128x96", 90, vp8), (128, 96));
}

#[test]
fn mpeg4_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let mpeg4 = "-c:v mpeg4 -bf 2 -g 25 -q:v 3";
    assert_equals_ffmpeg(&clip(dir.path(), "a.mp4", "128x96", 100, mpeg4), (128, 96));
    assert_equals_ffmpeg(&clip(dir.path(), "a.avi", "128x96", 100, mpeg4), (128, 96));
}

#[test]
fn pixel_formats_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let ten_bit = "-c:v libx264 -preset fast -pix_fmt yuv420p10le";
    assert_equals_ffmpeg(&clip(dir.path(), "ten.mp4", "128x96", 20, ten_bit), (128, 96));
    let full = "-c:v libx264 -preset fast -pix_fmt yuv444p";
    assert_equals_ffmpeg(&clip(dir.path(), "full.mp4", "128x96", 20, full), (128, 96));
    let gray = "-c:v ffv1 -pix_fmt gray";
    assert_equals_ffmpeg(&clip(dir.path(), "gray.mkv", "128x96", 20, gray), (128, 96));
    let rgb = "-c:v ffv1 -pix_fmt bgr0";
    assert_equals_ffmpeg(&clip(dir.path(), "rgb.mkv", "128x96", 20, rgb), (128, 96));
}

#[test]
fn colour_matrix_and_range_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let hd = format!("{H264} -colorspace bt709 -color_primaries bt709 -color_trc bt709");
    assert_equals_ffmpeg(&clip(dir.path(), "hd.mp4", "128x96", 10, &hd), (128, 96));
    let full = format!("{H264} -color_range pc");
    assert_equals_ffmpeg(&clip(dir.path(), "full.mp4", "128x96", 10, &full), (128, 96));
}

#[test]
fn odd_sizes_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let odd = "-c:v libx264 -preset fast -pix_fmt yuv444p";
    assert_equals_ffmpeg(&clip(dir.path(), "a.mp4", "131x97", 20, odd), (131, 97));
    let vp9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -pix_fmt yuv420p";
    assert_equals_ffmpeg(&clip(dir.path(), "a.webm", "131x97", 20, vp9), (131, 97));
    assert_equals_ffmpeg(&clip(dir.path(), "b.mkv", "33x17", 20, "-c:v ffv1 -pix_fmt yuv420p"), (33, 17));
}

#[test]
fn one_frame_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let frames = assert_equals_ffmpeg(&clip(dir.path(), "a.mp4", "128x96", 1, H264), (128, 96));
    assert_eq!(frames.total_frames, 1);
    assert!((frames.duration - 0.04).abs() < 1e-9);
}

#[test]
fn rotation_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let plain = clip(dir.path(), "plain.mp4", "128x96", 20, H264);
    for (angle, size) in [(90, (96, 128)), (180, (128, 96)), (270, (96, 128))] {
        let path = dir.path().join(format!("{angle}.mp4"));
        let tag = format!("rotate={angle}");
        let (from, to) = (plain.to_str().unwrap(), path.to_str().unwrap());
        ffmpeg(&["-i", from, "-c", "copy", "-metadata:s:v:0", &tag, to]);
        assert_equals_ffmpeg(&path, size);
    }
}

#[test]
fn variable_frame_rates_follow_the_time_stamps() {
    let dir = tempfile::tempdir().unwrap();
    let vfr = format!("-vf select=not(mod(n\\,7))+lt(n\\,40) -fps_mode vfr {H264}");
    for container in ["mp4", "mkv"] {
        let path = clip(dir.path(), &format!("a.{container}"), "128x96", 60, &vfr);
        let frames = assert_equals_ffmpeg(&path, (128, 96));
        assert_eq!(frames.total_frames, 60);
        assert!((frames.times[39] - 1.56).abs() < 2e-3, "{}", frames.times[39]);
        assert!((frames.times[41] - 1.96).abs() < 2e-3, "{}", frames.times[41]);
        let at = read(&path, Sampling::Times(vec![1.9, 1.97]));
        assert_eq!(at.indices, [40, 41]);
    }
}

#[test]
fn a_late_start_counts_from_the_first_frame() {
    let dir = tempfile::tempdir().unwrap();
    for container in ["mp4", "mkv", "ts"] {
        let late = format!("{H264} -output_ts_offset 7.4");
        let path = clip(dir.path(), &format!("a.{container}"), "128x96", 90, &late);
        let frames = assert_equals_ffmpeg(&path, (128, 96));
        assert!((frames.times[25] - 1.0).abs() < 2e-3, "{container}: {}", frames.times[25]);
    }
}

#[test]
fn edit_lists_cut_frames_away() {
    let dir = tempfile::tempdir().unwrap();
    let plain = clip(dir.path(), "plain.mp4", "128x96", 120, H264);
    let cut = dir.path().join("cut.mp4");
    // A copy from the middle of a group keeps its key frame and hides it by an edit list.
    ffmpeg(&["-ss", "1.8", "-i", plain.to_str().unwrap(), "-c", "copy", cut.to_str().unwrap()]);
    let frames = assert_equals_ffmpeg(&cut, (128, 96));
    assert_eq!(frames.total_frames, 75);
    let original = read(&plain, Sampling::Indices(vec![45]));
    assert_eq!(frames.images[0], original.images[0]);
}

#[test]
fn other_streams_do_not_disturb() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mkv");
    let mut arguments = sound_and("testsrc2=size=128x96:rate=25:duration=4");
    arguments.extend(["-c:v", "libx264", "-g", "20", path.to_str().unwrap()]);
    ffmpeg(&arguments);
    assert_equals_ffmpeg(&path, (128, 96));
}

#[test]
fn decoding_on_several_threads_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let large = "-c:v libx264 -preset ultrafast -bf 2 -g 20 -pix_fmt yuv420p";
    assert_equals_ffmpeg(&clip(dir.path(), "a.mp4", "1280x720", 50, large), (1280, 720));
}

#[test]
fn fragmented_files_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let fragmented = format!("{H264} -movflags frag_keyframe+empty_moov");
    assert_equals_ffmpeg(&clip(dir.path(), "a.mp4", "128x96", 120, &fragmented), (128, 96));
}

#[test]
fn sampling_by_rate_gives_an_even_count() {
    let dir = tempfile::tempdir().unwrap();
    for container in ["mp4", "mkv"] {
        let path = clip(dir.path(), &format!("a.{container}"), "64x48", 75, H264);
        let frames = read(&path, Sampling::Fps { fps: 2.0, min_frames: 4, max_frames: 768 });
        assert_eq!(frames.indices, [0, 15, 30, 44, 59, 74], "{container}");
    }
}
