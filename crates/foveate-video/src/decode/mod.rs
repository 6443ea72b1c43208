//! Frames of a video file, through FFmpeg.
//!
//! A first pass reads packets without decoding them, which gives the true number of frames and their times whatever
//! the container's metadata say. Frames are then known by time stamp: for each wanted one the reader seeks or runs
//! on, whichever takes fewer packets. Of H.264, frames that are neither wanted nor referred to are not decoded; after
//! the last frame before a seek the decoder is emptied rather than fed; and only wanted frames are converted. Where
//! packets carry no usable time stamps (raw streams, AVI), or such a shortcut turns out not to be exact, frames are
//! counted by decoding from the start.
//!
//! Damage is an error wherever it is met, which is in packets that are decoded. What is missing at the end of a file
//! shows where the container declares its length (ISO, Matroska, AVI). MPEG-TS, raw streams and live recordings declare
//! none: cut between two packets, such a file is simply a shorter video, and nothing can tell; cut within a packet, it
//! is an error only if the decoder gets that packet and minds.
//!
//! Pictures equal those of `ffmpeg -fps_mode passthrough -i FILE -f rawvideo -pix_fmt rgb24` byte for byte: swscale
//! with its default bicubic flag, the stream's colour matrix and range, and the display matrix applied.

mod container;
mod decoding;
mod index;
mod picture;
mod reader;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ffmpeg_next as ffmpeg;
use image::RgbImage;

use crate::{DecodeOptions, Frames, Sampling, VideoError, folder, resize_bicubic};
use index::Timeline;
use reader::Reader;
use source::Source;

/// The size (width, height) that frames are brought to, by the video's size and the number of frames.
pub(crate) type Target<'a> = dyn Fn((u32, u32), usize) -> Result<(u32, u32), VideoError> + 'a;

/// Decodes the wanted frames of a video at full size. A folder of pictures is a video too ([`DecodeOptions::folder_fps`]).
///
/// # Errors
/// A [`VideoError`] that names the file: missing, not a video, no video stream, no frames, truncated, corrupt,
/// unsupported, over a limit; or [`VideoError::Sampling`] if the video does not have the wanted frames. A file whose
/// container says that it goes on after its end is truncated, whichever frames are wanted; MPEG-TS, raw streams and live
/// recordings do not say how long they are, so that one cut between two frames passes for a shorter video. Damage is found
/// only in what is decoded: the wanted frames and those that they refer to.
pub fn decode(path: &Path, sampling: &Sampling, options: &DecodeOptions) -> Result<Frames, VideoError> {
    decode_resized(path, sampling, options, &|size, _| Ok(size))
}

/// Decodes like [`decode`] and brings each frame, as soon as it is decoded, to the size (width, height) that
/// `target` gives for the video's size and the number of frames, so that a long sampling of a large video stays small.
///
/// # Errors
/// Those of [`decode`], and those of `target`.
pub fn decode_resized(
    path: &Path,
    sampling: &Sampling,
    options: &DecodeOptions,
    target: &Target<'_>,
) -> Result<Frames, VideoError> {
    if path.is_dir() {
        return folder::read(path, sampling, options, target);
    }
    let job = Job::new(path, options)?;
    container::check_whole(path)?;
    let mut source = Source::open(&job)?;
    if let Some(timeline) = index::scan(&job, &mut source)? {
        let request = Request { job: &job, sampling, target, timeline: &timeline };
        if let Some(frames) = request.frames(source)? {
            return Ok(frames);
        }
    }
    let timeline = index::count_by_decoding(&job)?;
    let request = Request { job: &job, sampling, target, timeline: &timeline };
    let frames = request.frames(Source::open(&job)?)?;
    frames.ok_or_else(|| job.corrupt(0.0, "frames differ between two passes".to_owned()))
}

/// Starts FFmpeg once and silences its own log: what goes wrong is told by our errors.
pub(crate) fn quiet_ffmpeg() -> Result<(), ffmpeg::Error> {
    static STARTED: std::sync::OnceLock<Result<(), ffmpeg::Error>> = std::sync::OnceLock::new();
    *STARTED.get_or_init(|| {
        ffmpeg::init()?;
        ffmpeg::log::set_level(ffmpeg::log::Level::Quiet);
        Ok(())
    })
}

/// One file, its bounds, and its errors.
struct Job {
    path: PathBuf,
    options: DecodeOptions,
    deadline: Instant,
}

impl Job {
    fn new(path: &Path, options: &DecodeOptions) -> Result<Self, VideoError> {
        let job = |deadline| Self { path: path.to_owned(), options: *options, deadline };
        let now = Instant::now();
        let allowed = Duration::try_from_secs_f64(options.seconds).map_err(|_| VideoError::Sampling {
            reason: format!("expected a time limit, found {} s", options.seconds),
        })?;
        let job = job(now.checked_add(allowed).unwrap_or(now + Duration::from_secs(u32::MAX.into())));
        quiet_ffmpeg().map_err(|e| job.unsupported(format!("FFmpeg does not start: {e}")))?;
        Ok(job)
    }

    fn check_time(&self) -> Result<(), VideoError> {
        if Instant::now() > self.deadline { Err(self.too_slow()) } else { Ok(()) }
    }

    fn too_slow(&self) -> VideoError {
        VideoError::TooSlow { path: self.path.clone(), limit: self.options.seconds }
    }

    fn corrupt(&self, seconds: f64, found: String) -> VideoError {
        VideoError::Corrupt { path: self.path.clone(), seconds, found }
    }

    fn unsupported(&self, found: String) -> VideoError {
        VideoError::Unsupported { path: self.path.clone(), found }
    }

    fn check_memory(&self, frames: usize, (w, h): (u32, u32), source: (u32, u32)) -> Result<(), VideoError> {
        /// Pictures that a decoder keeps at most (16 references and what is in flight).
        const DECODER_PICTURES: u64 = 24;
        /// Bytes per pixel of a decoder's picture, deep ones included.
        const DECODER_BYTES: u64 = 4;
        let kept = 3 * u64::from(w) * u64::from(h) * frames as u64;
        let needed = kept + DECODER_PICTURES * DECODER_BYTES * u64::from(source.0) * u64::from(source.1);
        if needed <= self.options.bytes {
            return Ok(());
        }
        Err(VideoError::TooLarge {
            path: self.path.clone(),
            needed,
            limit: self.options.bytes,
            found: format!("{frames} frames of {w} x {h} from {} x {}", source.0, source.1),
        })
    }
}

/// What is wanted of a file whose frames are known.
struct Request<'a> {
    job: &'a Job,
    sampling: &'a Sampling,
    target: &'a Target<'a>,
    timeline: &'a Timeline,
}

impl Request<'_> {
    /// The frames, or `None` if one does not turn up where its time stamp says.
    fn frames(&self, source: Source) -> Result<Option<Frames>, VideoError> {
        let times = &self.timeline.times;
        let indices = self.sampling.indices(times, self.timeline.duration)?;
        let wanted = BTreeSet::from_iter(indices.iter().copied());
        let mut reader = Reader::open(self.job, self.timeline, source, &wanted)?;
        let size = reader.upright_size();
        let target = (self.target)(size, indices.len())?;
        self.job.check_memory(indices.len(), target, size)?;
        let mut pictures: BTreeMap<usize, RgbImage> = BTreeMap::new();
        for &index in &wanted {
            let Some(picture) = reader.frame(index)? else { return Ok(None) };
            let picture = if picture.dimensions() == target { picture } else { resize_bicubic(&picture, target) };
            pictures.insert(index, picture);
        }
        // A repeated frame is copied; the last copy is the picture itself, so that memory is not taken twice.
        let take = |(at, index): (usize, &usize)| match indices[at + 1..].contains(index) {
            true => pictures.get(index).cloned(),
            false => pictures.remove(index),
        };
        Ok(Some(Frames {
            images: indices.iter().enumerate().filter_map(take).collect(),
            times: indices.iter().map(|&i| times[i]).collect(),
            indices,
            total_frames: times.len(),
            duration: self.timeline.duration,
        }))
    }
}
