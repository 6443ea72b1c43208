//! Every kind of bad file has its own error, which names the file.
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::clips::{H264, clip, ffmpeg, sound_and};
use foveate_video::{DecodeOptions, Sampling, VideoError, decode};

fn failure(path: &Path) -> VideoError {
    let error = decode(path, &Sampling::Uniform { frames: 8 }, &DecodeOptions::default()).map(|f| f.total_frames);
    let error = error.expect_err("the file is bad");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error} names the file");
    error
}

fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
    path
}

#[test]
fn a_missing_file_is_missing() {
    let error = failure(Path::new("/nowhere/a.mp4"));
    assert!(matches!(error, VideoError::Missing { .. }), "{error:?}");
}

#[test]
fn what_is_no_video_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let noise: Vec<u8> = (0..50_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\na.ts\n#EXT-X-ENDLIST\n";
    for (name, content) in [
        ("empty.mp4", &b""[..]),
        ("text.mp4", b"these are words, not pictures\n"),
        ("text.txt", b"these are words, not pictures\n"),
        ("noise.mp4", &noise),
        ("list.m3u8", playlist),
    ] {
        let error = failure(&file(dir.path(), name, content));
        assert!(matches!(error, VideoError::NotAVideo { .. }), "{name}: {error:?}");
    }
    let error = failure(dir.path());
    assert!(matches!(error, VideoError::NotAVideo { .. }), "{error:?}");
}

#[test]
fn audio_only_is_no_video_stream() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.m4a", "a.mp4", "a.wav", "a.mp3"] {
        let path = dir.path().join(name);
        ffmpeg(&["-f", "lavfi", "-i", "sine=duration=1", path.to_str().unwrap()]);
        let error = failure(&path);
        assert!(matches!(&error, VideoError::NoVideoStream { found, .. } if found.contains("audio")), "{error:?}");
    }
}

#[test]
fn cover_art_is_no_video() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mp3");
    let mut arguments = sound_and("testsrc2=size=64x64:duration=1");
    arguments.extend(["-frames:v", "1", "-c:v", "mjpeg", "-disposition:v", "attached_pic", path.to_str().unwrap()]);
    ffmpeg(&arguments);
    let error = failure(&path);
    assert!(matches!(error, VideoError::NoVideoStream { .. }), "{error:?}");
}

#[test]
fn a_stream_without_frames_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.mkv");
    let mut arguments = sound_and("testsrc2=size=64x64:rate=25:duration=1");
    arguments.extend(["-c:v", "ffv1", "-frames:v", "0", path.to_str().unwrap()]);
    ffmpeg(&arguments);
    let error = failure(&path);
    assert!(matches!(error, VideoError::NoFrames { .. }), "{error:?}");
}

#[test]
fn a_cut_file_is_truncated_wherever_it_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    for (name, arguments) in [
        ("end.mp4", H264.to_owned()),
        ("front.mp4", format!("{H264} -movflags +faststart")),
        ("fragments.mp4", format!("{H264} -movflags frag_keyframe+empty_moov")),
        ("a.mkv", H264.to_owned()),
        ("a.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8".to_owned()),
        ("a.avi", "-c:v mpeg4".to_owned()),
    ] {
        let bytes = std::fs::read(clip(dir.path(), name, "128x96", 100, &arguments)).unwrap();
        for share in [3, 30, 50, 80, 99] {
            let path = file(dir.path(), &format!("{share}-{name}"), &bytes[..bytes.len() * share / 100]);
            let error = failure(&path);
            assert!(matches!(error, VideoError::Truncated { .. }), "{name} at {share}%: {error:?}");
        }
    }
}

#[test]
fn damaged_data_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    for (name, arguments) in [
        ("a.mp4", H264),
        ("a.mkv", H264),
        ("a.ts", H264),
        ("b.mp4", "-c:v libx265 -preset ultrafast -x265-params log-level=none"),
        ("c.mp4", "-c:v mpeg4 -q:v 3"),
    ] {
        let mut bytes = std::fs::read(clip(dir.path(), name, "128x96", 100, arguments)).unwrap();
        let (from, to) = (bytes.len() * 30 / 100, bytes.len() * 60 / 100);
        for (i, byte) in bytes[from..to].iter_mut().enumerate() {
            *byte ^= (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0];
        }
        let error = failure(&file(dir.path(), &format!("bad-{name}"), &bytes));
        assert!(matches!(error, VideoError::Corrupt { .. }), "{name}: {error:?}");
    }
}

#[test]
fn limits_on_time_and_memory_hold() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "a.mp4", "640x480", 100, H264);
    let limited = |seconds, bytes| {
        decode(&path, &Sampling::Uniform { frames: 100 }, &DecodeOptions { seconds, bytes, ..DecodeOptions::default() })
            .map(|f| f.total_frames)
    };
    assert!(matches!(limited(0.0, 1 << 30), Err(VideoError::TooSlow { .. })));
    let error = limited(60.0, 100_000_000).unwrap_err();
    assert!(matches!(error, VideoError::TooLarge { needed, .. } if needed > 640 * 480 * 3 * 100), "{error:?}");
    assert_eq!(limited(60.0, 1 << 30).unwrap(), 100);
    assert!(matches!(limited(f64::NAN, 1 << 30), Err(VideoError::Sampling { .. })));
}

#[test]
fn frames_that_are_not_there_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "a.mp4", "64x48", 10, H264);
    for sampling in [Sampling::Indices(vec![10]), Sampling::Times(vec![0.5]), Sampling::Uniform { frames: 0 }] {
        let error = decode(&path, &sampling, &DecodeOptions::default()).map(|f| f.indices).unwrap_err();
        assert!(matches!(error, VideoError::Sampling { .. }), "{error:?}");
    }
}
