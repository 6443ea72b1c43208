//! The one error of this crate.

use std::path::PathBuf;

/// What went wrong with a video, its preprocessing or a cache; every variant about a file names it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VideoError {
    /// The path leads nowhere.
    #[error("no such file: {}", path.display())]
    Missing {
        /// The file asked for.
        path: PathBuf,
    },
    /// The path cannot be opened or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No demuxer knows the content.
    #[error("not a video: {}: {found}", path.display())]
    NotAVideo {
        /// The file.
        path: PathBuf,
        /// What it was taken for, or why it was refused.
        found: String,
    },
    /// A container without a video stream.
    #[error("no video stream in {}: found {found}", path.display())]
    NoVideoStream {
        /// The file.
        path: PathBuf,
        /// The streams there are, such as "audio only (aac)".
        found: String,
    },
    /// A video stream without a single frame.
    #[error("the video stream of {} holds no frames", path.display())]
    NoFrames {
        /// The file.
        path: PathBuf,
    },
    /// The file ends before its container says it does.
    #[error("{} is truncated: {found}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What is missing.
        found: String,
    },
    /// The decoder met damaged data.
    #[error("{} is corrupt near {seconds:.3} s: {found}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where, seconds from the first frame.
        seconds: f64,
        /// What the decoder said.
        found: String,
    },
    /// No decoder for the codec, or a pixel format that cannot be converted.
    #[error("cannot decode {}: {found}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Codec or pixel format.
        found: String,
    },
    /// Decoding took longer than [`DecodeOptions::seconds`](crate::DecodeOptions::seconds).
    #[error("decoding {} took more than the limit of {limit} s", path.display())]
    TooSlow {
        /// The file.
        path: PathBuf,
        /// The limit, seconds.
        limit: f64,
    },
    /// Decoding would need more than [`DecodeOptions::bytes`](crate::DecodeOptions::bytes).
    #[error("decoding {} needs {needed} bytes ({found}), the limit is {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// The limit, bytes.
        limit: u64,
        /// Frames and size that need them.
        found: String,
    },
    /// Frames were asked for that the video does not have, or a setting makes no sense.
    #[error("cannot sample frames: {reason}")]
    Sampling {
        /// Expected and found.
        reason: String,
    },
    /// A picture that cannot be brought to a size or cut into patches.
    #[error("cannot preprocess: {reason}")]
    Picture {
        /// Expected and found.
        reason: String,
    },
    /// `preprocessor_config.json` lacks a field or has a wrong one.
    #[error("{}: field `{field}`: {reason}", path.display())]
    ProcessorConfig {
        /// The config file.
        path: PathBuf,
        /// The field's name.
        field: &'static str,
        /// Expected and found.
        reason: String,
    },
    /// A file that is not what it should be: a cache entry, a manifest.
    #[error("{} cannot be read: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Expected and found.
        reason: String,
    },
    /// A bounded cache holds as much as it may.
    #[error("{} is full: {held} bytes are in it, the limit is {limit}", path.display())]
    CacheFull {
        /// The cache's folder.
        path: PathBuf,
        /// Bytes of its entries.
        held: u64,
        /// The limit, bytes.
        limit: u64,
    },
    /// FFmpeg could not encode a scene.
    #[error("cannot encode {}: {reason}", path.display())]
    Encode {
        /// The file to write.
        path: PathBuf,
        /// What FFmpeg said.
        reason: String,
    },
}

impl VideoError {
    /// An I/O error with the path it concerns.
    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::NotFound {
            Self::Missing { path: path.to_owned() }
        } else {
            Self::Io { path: path.to_owned(), source }
        }
    }
}
