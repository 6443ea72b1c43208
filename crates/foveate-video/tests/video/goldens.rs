//! Preprocessing against PIL, numpy and qwen-vl-utils, and against torchvision; `scripts/make_video_goldens.py` and
//! `scripts/make_torchvision_goldens.py` make the goldens.

use std::path::PathBuf;

use crate::largest_difference;
use foveate_video::{
    FpsBounds, Frames, ImageProcessor, TimeScale, resize_bicubic, smart_nframes, smart_resize, uniform_indices,
};
use image::{Rgb, RgbImage};
use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/video")
}

fn picture(name: &str) -> RgbImage {
    image::open(folder().join(format!("{name}.png"))).unwrap().into_rgb8()
}

/// Largest difference of our resizes from those that a library made.
fn resize_difference(library: &str) -> u8 {
    let sizes =
        [("noise", &[(61, 47), (24, 50), (7, 5), (13, 20)][..]), ("smooth", &[(32, 32), (28, 84), (140, 112)][..])];
    let differences = sizes.into_iter().flat_map(|(name, sizes)| {
        let source = picture(&format!("resize-{name}"));
        sizes.iter().map(move |&(width, height)| {
            let expected = picture(&format!("{library}-{name}-{width}x{height}"));
            largest_difference(&resize_bicubic(&source, (width, height)), &expected)
        })
    });
    differences.max().unwrap()
}

fn rows(name: &str) -> Vec<Vec<Value>> {
    let text = std::fs::read_to_string(folder().join("preprocess.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(golden[name].clone()).unwrap()
}

fn whole(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

#[test]
fn resizing_equals_pil_exactly() {
    assert_eq!(resize_difference("resize"), 0);
}

#[test]
fn resizing_equals_torchvision_to_one_level() {
    assert!(resize_difference("torchvision") <= 1);
}

#[test]
fn sizes_equal_those_of_qwen_vl_utils() {
    for row in rows("smart_resize") {
        let n: Vec<usize> = row.iter().map(whole).collect();
        let size = smart_resize((n[0], n[1]), n[2], n[3] as f64, n[4] as f64).unwrap();
        assert_eq!(size, (n[5], n[6]), "{row:?}");
    }
}

#[test]
fn frame_counts_equal_those_of_qwen_vl_utils() {
    for row in rows("smart_nframes") {
        let bounds = FpsBounds { fps: row[2].as_f64().unwrap(), min: whole(&row[3]), max: whole(&row[4]) };
        let frames = smart_nframes(whole(&row[0]), row[1].as_f64().unwrap(), &bounds).unwrap();
        assert_eq!(frames, whole(&row[5]), "{row:?}");
    }
}

#[test]
fn indices_equal_numpys_linspace() {
    for row in rows("linspace") {
        let expected: Vec<usize> = serde_json::from_value(row[2].clone()).unwrap();
        assert_eq!(uniform_indices(whole(&row[0]), whole(&row[1])), expected, "{row:?}");
    }
}

#[test]
fn patches_equal_the_reference_order_and_normalisation() {
    let processor = ImageProcessor {
        patch_size: 2,
        merge_size: 2,
        temporal_patch_size: 2,
        image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        min_pixels: 16,
        max_pixels: 1 << 20,
    };
    let level = |f: u32, c: u32, y: u32, x: u32| ((f * 97 + c * 61 + y * 13 + x * 7) % 256) as u8;
    let frame = |f| RgbImage::from_fn(12, 8, |x, y| Rgb([0, 1, 2].map(|c| level(f, c, y, x))));
    let frames = Frames {
        images: (0..4).map(frame).collect(),
        indices: vec![0, 1, 2, 3],
        times: vec![0.0, 0.5, 1.0, 1.5],
        total_frames: 4,
        duration: 2.0,
    };
    let patches = processor.video(&frames, TimeScale::True).unwrap();
    let expected = rows("patches");
    assert_eq!(patches.pixels.nrows(), expected.len());
    for (row, expected) in patches.pixels.rows().into_iter().zip(expected) {
        assert_eq!(row.len(), expected.len());
        for (value, expected) in row.iter().zip(expected) {
            assert!((f64::from(*value) - expected.as_f64().unwrap()).abs() < 2e-6, "{value} {expected}");
        }
    }
}
