//! The whole crate from outside: files in, frames and patches out.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

#[cfg(feature = "decode")]
mod bad_files;
#[cfg(feature = "decode")]
mod clips;
#[cfg(feature = "decode")]
mod decode;
#[cfg(feature = "decode")]
mod folder;
mod goldens;
#[cfg(feature = "decode")]
mod scenes;

/// Largest difference of any value.
fn largest_difference(a: &image::RgbImage, b: &image::RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or_default()
}
