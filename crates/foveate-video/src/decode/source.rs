//! An opened file and its video stream's packets.

use std::time::Instant;

use ffmpeg::codec::{self, decoder};
use ffmpeg::format::context::Input;
use ffmpeg::format::stream::Disposition;
use ffmpeg::{Dictionary, Packet, Rational, media, packet::Ref};
use ffmpeg_next as ffmpeg;

use super::Job;
use super::picture::Orientation;
use crate::VideoError;

/// Demuxers that take text or lists for videos.
const NOT_VIDEOS: [&str; 5] = ["tty", "hls", "concat", "dash", "sdp"];

/// A file opened for reading its video stream.
pub(super) struct Source {
    input: Input,
    stream: usize,
}

/// A packet of the video stream.
pub(super) struct Piece {
    pub(super) packet: Packet,
    /// Whether it carries a frame to show. Frames that an edit list cuts away are only decoded, since others refer to
    /// them, and VP8 has packets that merely serve as reference.
    pub(super) shown: bool,
}

impl Source {
    pub(super) fn open(job: &Job) -> Result<Self, VideoError> {
        let not_a_video = |found: String| VideoError::NotAVideo { path: job.path.clone(), found };
        let path = job.path.to_str().filter(|p| !p.contains('\0'));
        let path = path.ok_or_else(|| job.unsupported("expected a path in UTF-8".to_owned()))?;
        let deadline = job.deadline;
        let mut options = Dictionary::new();
        options.set("protocol_whitelist", "file");
        let opened = ffmpeg::format::input_with_interrupt_and_dictionary(
            // A name with a colon must not be taken for a protocol.
            &format!("file:{path}"),
            move || Instant::now() > deadline,
            options,
        );
        let mut input = opened.map_err(|e| match e {
            ffmpeg::Error::Exit => job.too_slow(),
            ffmpeg::Error::Other { errno } => {
                VideoError::Io { path: job.path.clone(), source: std::io::Error::from_raw_os_error(errno) }
            }
            other => not_a_video(format!("no known container ({other})")),
        })?;
        let format = input.format().name().to_owned();
        if format.split(',').any(|name| NOT_VIDEOS.contains(&name)) {
            return Err(not_a_video(format!("it reads as {format}")));
        }
        let stream = video_stream(&input).ok_or_else(|| no_video(job, &input))?;
        skip_others(&mut input, stream);
        Ok(Self { input, stream })
    }

    /// The next packet, or `None` at the end.
    pub(super) fn next(&mut self, job: &Job) -> Result<Option<Piece>, VideoError> {
        loop {
            job.check_time()?;
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) if packet.stream() != self.stream => continue,
                Ok(()) if packet.is_corrupt() => {
                    return Err(job.corrupt(self.seconds(packet.pts()), "a packet is incomplete".to_owned()));
                }
                Ok(()) => {
                    let shown = !is_discarded(&packet) && !self.is_hidden_vp8(&packet);
                    return Ok(Some(Piece { packet, shown }));
                }
                Err(ffmpeg::Error::Eof) => return Ok(None),
                Err(ffmpeg::Error::Exit) => return Err(job.too_slow()),
                Err(ffmpeg::Error::Other { errno }) if errno == ffmpeg::error::EAGAIN => continue,
                Err(other) => return Err(job.corrupt(0.0, format!("a packet cannot be read ({other})"))),
            }
        }
    }

    /// Jumps to the key frame at or before a decoding time stamp; `false` if the container cannot.
    pub(super) fn seek(&mut self, timestamp: i64) -> bool {
        // SAFETY: the context is open and owned by `self.input`, and the stream index is one of its own. ffmpeg-next
        // binds only seeking by wall time on a default stream, which is not exact.
        unsafe {
            ffmpeg::ffi::av_seek_frame(
                self.input.as_mut_ptr(),
                self.stream as i32,
                timestamp,
                ffmpeg::ffi::AVSEEK_FLAG_BACKWARD,
            ) >= 0
        }
    }

    pub(super) fn decoder(&self, job: &Job) -> Result<decoder::Video, VideoError> {
        let stream = self.stream()?;
        let failed = |e: ffmpeg::Error| job.unsupported(format!("codec {:?}: {e}", stream.parameters().id()));
        let decoder = codec::Context::from_parameters(stream.parameters()).map_err(failed)?.decoder();
        let codec = decoder::find(stream.parameters().id()).ok_or_else(|| failed(ffmpeg::Error::DecoderNotFound))?;
        let mut options = Dictionary::new();
        // Damage is an error, not a smeared picture.
        options.set("err_detect", "explode");
        options.set("threads", &threads(self.coded_size(job)?).to_string());
        decoder.open_as_with(codec, options).and_then(|opened| opened.video()).map_err(failed)
    }

    /// Width and height before rotation.
    pub(super) fn coded_size(&self, job: &Job) -> Result<(u32, u32), VideoError> {
        let parameters = self.stream()?.parameters();
        // SAFETY: the parameters belong to the open stream; ffmpeg-next has no getter for their size.
        let (width, height) = unsafe { ((*parameters.as_ptr()).width, (*parameters.as_ptr()).height) };
        match (u32::try_from(width), u32::try_from(height)) {
            (Ok(width @ 1..), Ok(height @ 1..)) => Ok((width, height)),
            _ => Err(job.corrupt(0.0, "the size of its pictures cannot be read".to_owned())),
        }
    }

    pub(super) fn orientation(&self) -> Result<Orientation, VideoError> {
        let stream = self.stream()?;
        let matrix = stream.side_data().find(|d| d.kind() == codec::packet::side_data::Type::DisplayMatrix);
        Ok(matrix.map_or(Orientation::default(), |m| Orientation::from_matrix(m.data())))
    }

    pub(super) fn time_base(&self) -> Rational {
        self.input.stream(self.stream).map_or(Rational(1, 1), |s| s.time_base())
    }

    /// Average frame rate that the container states, if any.
    pub(super) fn frame_rate(&self) -> Option<f64> {
        let rate = self.input.stream(self.stream)?.avg_frame_rate();
        (rate.numerator() > 0 && rate.denominator() > 0).then(|| f64::from(rate))
    }

    fn stream(&self) -> Result<ffmpeg::Stream<'_>, VideoError> {
        self.input.stream(self.stream).ok_or_else(|| VideoError::Sampling { reason: "the stream is gone".to_owned() })
    }

    fn seconds(&self, pts: Option<i64>) -> f64 {
        pts.map_or(0.0, |pts| pts as f64 * f64::from(self.time_base()))
    }

    fn is_hidden_vp8(&self, packet: &Packet) -> bool {
        let vp8 = self.input.stream(self.stream).is_some_and(|s| s.parameters().id() == codec::Id::VP8);
        // RFC 6386, 9.1: bit 4 of the frame tag is show_frame.
        vp8 && packet.data().and_then(|d| d.first()).is_some_and(|tag| tag & 0x10 == 0)
    }
}

/// Lets the demuxer pass over other streams without reading them.
fn skip_others(input: &mut Input, stream: usize) {
    let others: Vec<usize> = input.streams().map(|s| s.index()).filter(|&index| index != stream).collect();
    for index in others {
        // SAFETY: the index is one of the open context's streams, and `discard` is a field meant to be set by callers.
        // ffmpeg-next only reads it.
        unsafe { (**(*input.as_mut_ptr()).streams.add(index)).discard = ffmpeg::ffi::AVDiscard::AVDISCARD_ALL };
    }
}

fn is_discarded(packet: &Packet) -> bool {
    // SAFETY: reads a plain field of a packet that is alive; ffmpeg-next's flags leave this bit out.
    unsafe { (*packet.as_ptr()).flags & ffmpeg::ffi::AV_PKT_FLAG_DISCARD != 0 }
}

/// The first stream of moving pictures; cover art does not count.
fn video_stream(input: &Input) -> Option<usize> {
    let is_video = |s: &ffmpeg::Stream<'_>| s.parameters().medium() == media::Type::Video;
    let best = input.streams().best(media::Type::Video).map(|s| s.index());
    let moving = |s: &ffmpeg::Stream<'_>| is_video(s) && !s.disposition().contains(Disposition::ATTACHED_PIC);
    let mut candidates = input.streams().filter(moving).map(|s| s.index()).collect::<Vec<_>>();
    candidates.sort_by_key(|&index| Some(index) != best);
    candidates.first().copied()
}

fn no_video(job: &Job, input: &Input) -> VideoError {
    let name = |s: ffmpeg::Stream<'_>| {
        let medium = format!("{:?}", s.parameters().medium()).to_lowercase();
        format!("{medium} ({:?})", s.parameters().id())
    };
    let found = input.streams().map(name).collect::<Vec<_>>().join(", ");
    let found = if found.is_empty() { "no streams at all".to_owned() } else { format!("only {found}") };
    VideoError::NoVideoStream { path: job.path.clone(), found }
}

/// Small videos decode fastest on one thread; several files are decoded at a time anyway.
fn threads((width, height): (u32, u32)) -> usize {
    const SMALL: u64 = 320 * 240;
    const MOST: usize = 4;
    if u64::from(width) * u64::from(height) <= SMALL {
        return 1;
    }
    std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST))
}
