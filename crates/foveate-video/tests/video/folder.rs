//! Videos that are folders of pictures.

use std::path::Path;

use foveate_video::{DecodeOptions, Frames, Sampling, VideoError, decode, decode_resized};
use image::{Rgb, RgbImage};

const OPTIONS: DecodeOptions = DecodeOptions { seconds: 60.0, bytes: 1 << 20, folder_fps: Some(4.0) };

/// Ten pictures whose colour tells their number, and a file that is none.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for number in 1..=10u8 {
        RgbImage::from_pixel(6, 4, Rgb([number, 0, 0])).save(folder.path().join(format!("{number}.png"))).unwrap();
    }
    fs_err::write(folder.path().join("notes.txt"), "nothing").unwrap();
    folder
}

fn numbers(frames: &Frames) -> Vec<u8> {
    frames.images.iter().map(|image| image.get_pixel(0, 0)[0]).collect()
}

fn fault(folder: &Path, options: &DecodeOptions) -> String {
    decode(folder, &Sampling::Uniform { frames: 10 }, options).unwrap_err().to_string()
}

#[test]
fn pictures_are_frames_in_the_order_of_their_numbers() {
    let folder = folder();
    let frames = decode(folder.path(), &Sampling::Uniform { frames: 4 }, &OPTIONS).unwrap();
    assert_eq!((numbers(&frames), frames.indices.as_slice()), (vec![1, 4, 7, 10], &[0, 3, 6, 9][..]));
    assert_eq!((frames.times.as_slice(), frames.duration, frames.total_frames), (&[0.0, 0.75, 1.5, 2.25][..], 2.5, 10));
    let part = Sampling::Within { span: [1.0, 1.5], sampling: Box::new(Sampling::Uniform { frames: 3 }) };
    let small = decode_resized(folder.path(), &part, &OPTIONS, &|_, _| Ok((3, 2))).unwrap();
    assert_eq!((small.indices.as_slice(), small.images[0].dimensions()), (&[4, 4, 5][..], (3, 2)));
}

#[test]
fn what_is_wrong_with_a_folder_is_told() {
    let folder = folder();
    let path = folder.path();
    let unknown = fault(path, &DecodeOptions { folder_fps: None, ..OPTIONS });
    assert!(unknown.contains("set folder_fps") && unknown.contains(path.to_str().unwrap()), "{unknown}");
    assert!(fault(path, &DecodeOptions { bytes: 100, ..OPTIONS }).contains("10 frames of 6 x 4"));
    RgbImage::new(8, 4).save(path.join("5.png")).unwrap();
    let size = fault(path, &OPTIONS);
    assert!(size.contains("5.png") && size.contains("found (8, 4)"), "{size}");
    fs_err::write(path.join("3.png"), "no picture").unwrap();
    assert!(fault(path, &OPTIONS).contains("3.png"));
    let empty = tempfile::tempdir().unwrap();
    let error = decode(empty.path(), &Sampling::Uniform { frames: 1 }, &OPTIONS).unwrap_err();
    assert!(matches!(error, VideoError::NotAVideo { .. }), "{error}");
}
