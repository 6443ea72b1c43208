//! Videos that are folders of pictures, as some data sets have them (TVQA's in MVBench).

use std::path::{Path, PathBuf};

use crate::VideoError;

/// The pictures of a folder, in the order of their names, in which numbers count by their value: `2.jpg` before `10.jpg`.
///
/// # Errors
/// [`VideoError::Missing`] or [`VideoError::Io`] if the folder cannot be read.
pub(crate) fn pictures(folder: &Path) -> Result<Vec<PathBuf>, VideoError> {
    let of_folder = |e| VideoError::io(folder, e);
    let entries = std::fs::read_dir(folder).map_err(of_folder)?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>().map_err(of_folder)?;
    let mut pictures: Vec<PathBuf> =
        paths.into_iter().filter(|path| image::ImageFormat::from_path(path).is_ok()).collect();
    pictures.sort_by_cached_key(|path| sortable(&path.file_name().unwrap_or_default().to_string_lossy()));
    Ok(pictures)
}

/// A name with every number in it widened to 20 digits.
fn sortable(name: &str) -> String {
    let mut widened = String::new();
    let mut digits = String::new();
    for letter in name.chars().chain(['\0']) {
        if letter.is_ascii_digit() {
            digits.push(letter);
            continue;
        }
        if !digits.is_empty() {
            widened += &format!("{digits:0>20}");
            digits.clear();
        }
        widened.push(letter);
    }
    widened
}

#[cfg(feature = "decode")]
pub(crate) use read::read;

#[cfg(feature = "decode")]
mod read {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::time::Instant;

    use image::RgbImage;

    use super::pictures;
    use crate::decode::Target;
    use crate::{DecodeOptions, Frames, Sampling, VideoError, read_picture, resize_bicubic};

    /// The wanted pictures of a folder, one after another at `options.folder_fps`, each brought to the size that `target`
    /// gives.
    ///
    /// # Errors
    /// [`VideoError::BadFile`] if the rate is not given, a picture cannot be read, or is of another size than the first;
    /// [`VideoError::NotAVideo`] without pictures; [`VideoError::Sampling`]; or over a limit.
    pub(crate) fn read(
        folder: &Path,
        sampling: &Sampling,
        options: &DecodeOptions,
        target: &Target<'_>,
    ) -> Result<Frames, VideoError> {
        let bad = |path: &Path, reason: String| VideoError::BadFile { path: path.to_owned(), reason };
        let began = Instant::now();
        let paths = pictures(folder)?;
        if paths.is_empty() {
            return Err(VideoError::NotAVideo {
                path: folder.to_owned(),
                found: "a folder without pictures".to_owned(),
            });
        }
        let Some(rate) = options.folder_fps.filter(|rate| rate.is_finite() && *rate > 0.0) else {
            let reason = "it is a folder: how many of its pictures a second are a video? set folder_fps (data.decode.folder_fps in a \
                configuration), such as 3.0";
            return Err(bad(folder, reason.to_owned()));
        };
        let times: Vec<f64> = (0..paths.len()).map(|index| index as f64 / rate).collect();
        let duration = paths.len() as f64 / rate;
        let indices = sampling.indices(&times, duration)?;
        let mut read: BTreeMap<usize, RgbImage> = BTreeMap::new();
        let mut first = None;
        for &index in &indices {
            if read.contains_key(&index) {
                continue;
            }
            if began.elapsed().as_secs_f64() > options.seconds {
                return Err(VideoError::TooSlow { path: folder.to_owned(), limit: options.seconds });
            }
            let path = &paths[index];
            let picture = read_picture(path)?;
            let size = *first.get_or_insert(picture.dimensions());
            if picture.dimensions() != size {
                let found = picture.dimensions();
                return Err(bad(path, format!("expected {size:?} pixels as in the other pictures, found {found:?}")));
            }
            let (width, height) = target(size, indices.len())?;
            let needed = 3 * (u64::from(width) * u64::from(height) * indices.len() as u64);
            if needed > options.bytes {
                let found = format!("{} frames of {width} x {height}", indices.len());
                return Err(VideoError::TooLarge { path: folder.to_owned(), needed, limit: options.bytes, found });
            }
            let wanted = (width, height);
            read.insert(index, if size == wanted { picture } else { resize_bicubic(&picture, wanted) });
        }
        Ok(Frames {
            images: indices.iter().filter_map(|index| read.get(index).cloned()).collect(),
            times: indices.iter().map(|index| times[*index]).collect(),
            indices,
            total_frames: paths.len(),
            duration,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_count_by_their_value() {
        let mut names = ["f10.jpg", "f2.jpg", "f1b3.jpg", "f1b20.jpg", "a.jpg", "f02.jpg"];
        names.sort_by_cached_key(|name| sortable(name));
        assert_eq!(names, ["a.jpg", "f1b3.jpg", "f1b20.jpg", "f2.jpg", "f02.jpg", "f10.jpg"]);
    }
}
