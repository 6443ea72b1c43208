//! A stream of frames out of a stream of packets.

use std::collections::BTreeSet;

use ffmpeg::codec::{self, discard::Discard};
use ffmpeg::{decoder, frame};
use ffmpeg_next as ffmpeg;

use super::Job;
use super::index::{KeyFrame, Packets};
use super::picture::Orientation;
use super::source::{Piece, Source};
use crate::VideoError;

/// A source and its decoder, running forward.
pub(super) struct Decoding {
    source: Source,
    decoder: decoder::Video,
    /// Time stamp of the key frame that decoding began with.
    begin: Option<i64>,
    /// A packet that was read to see where a seek went.
    pending: Option<Piece>,
    origin: Origin,
    /// Whether the end was sent to the decoder.
    ended: bool,
    /// Which frames are to come out; `None`: all.
    need: Option<Need>,
}

/// What is needed of a stream. The rest may come out or not.
#[derive(Debug, Default)]
pub(super) struct Need {
    /// Time stamps of the wanted frames.
    pub(super) wanted: BTreeSet<i64>,
    /// The wanted frame after which the stream is left, by a seek or for good.
    pub(super) last: Option<i64>,
}

/// Where decoding began.
#[derive(Clone, Copy, PartialEq)]
enum Origin {
    /// At the file's start. Frames before the first key frame cannot be decoded: they are passed over, and every error
    /// counts.
    Start,
    /// After a seek. Frames shown before the key frame may refer to frames from before the seek: they are decoded, since
    /// others may refer to them in turn, but what goes wrong with them does not count.
    Leading,
    /// After a seek, and the key frame has come out.
    Running,
}

impl Decoding {
    /// Decodes all of a source that is at its start.
    pub(super) fn begin(job: &Job, source: Source) -> Result<Self, VideoError> {
        job.check_memory(0, (0, 0), source.coded_size(job)?)?;
        let decoder = source.decoder(job)?;
        Ok(Self { source, decoder, begin: None, pending: None, origin: Origin::Start, ended: false, need: None })
    }

    /// Lets the decoder pass over what is not needed. Frames are then found by their time stamps only.
    pub(super) fn shorten(&mut self, need: Need) {
        self.need = Some(need);
    }

    /// From the next seek on, the decoder passes over nothing.
    pub(super) fn lengthen(&mut self) {
        self.need = None;
        self.decoder.skip_frame(Discard::Default);
    }

    /// Whether the decoder passes over what is not needed.
    pub(super) fn is_shortened(&self) -> bool {
        self.need.is_some()
    }

    /// The wanted frame after which the stream is left; no effect on a decoding that is not shortened.
    pub(super) fn leave_after(&mut self, last: Option<i64>) {
        if let Some(need) = &mut self.need {
            need.last = last;
        }
    }

    /// Whether frames may be missing that a decoding of everything from the start would give.
    pub(super) fn is_partial(&self) -> bool {
        self.need.is_some() || self.origin != Origin::Start
    }

    pub(super) fn frame_rate(&self) -> Option<f64> {
        self.source.frame_rate()
    }

    pub(super) fn time_base(&self) -> f64 {
        f64::from(self.source.time_base())
    }

    pub(super) fn coded_size(&self, job: &Job) -> Result<(u32, u32), VideoError> {
        self.source.coded_size(job)
    }

    pub(super) fn orientation(&self) -> Result<Orientation, VideoError> {
        self.source.orientation()
    }

    /// The next frame in presentation order, or `None` at the end.
    pub(super) fn next_frame(&mut self, job: &Job) -> Result<Option<frame::Video>, VideoError> {
        let mut frame = frame::Video::empty();
        loop {
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => {
                    self.origin = match self.origin {
                        Origin::Leading if frame.pts() < self.begin => continue,
                        Origin::Leading => Origin::Running,
                        other => other,
                    };
                    if frame.is_corrupt() || frame.has_decode_errors() {
                        return Err(self.damage(job, frame.timestamp(), "a frame is damaged".to_owned()));
                    }
                    return Ok(Some(frame));
                }
                Err(ffmpeg::Error::Eof) => return Ok(None),
                Err(ffmpeg::Error::Other { errno }) if errno == ffmpeg::error::EAGAIN => self.feed(job)?,
                Err(_) if self.origin == Origin::Leading => self.feed(job)?,
                Err(other) => return Err(self.damage(job, None, other.to_string())),
            }
        }
    }

    /// Sends one packet, or the end.
    fn feed(&mut self, job: &Job) -> Result<(), VideoError> {
        let piece = match self.pending.take() {
            Some(piece) => Some(piece),
            None => self.source.next(job)?,
        };
        let Some(piece) = piece else { return self.end(job) };
        let pts = piece.packet.pts();
        if self.begin.is_none() && piece.packet.is_key() {
            self.begin = Some(pts.unwrap_or(i64::MIN));
        }
        let leads = pts.is_some_and(|pts| self.begin.is_some_and(|begin| pts < begin));
        if self.begin.is_none() || (leads && self.origin == Origin::Start) {
            return Ok(());
        }
        self.choose_effort(pts);
        match self.decoder.send_packet(&piece.packet) {
            Err(e) if self.origin != Origin::Leading => return Err(self.damage(job, pts, e.to_string())),
            _ => {}
        }
        match &self.need {
            // The decoder keeps frames back until it has more packets, or no more: the second is faster.
            Some(need) if pts.is_some() && need.last == pts => self.end(job),
            _ => Ok(()),
        }
    }

    /// Tells the decoder whether the next packet may be passed over: if no frame refers to it and nobody wants it. H.264
    /// marks such frames reliably; in HEVC those of higher temporal layers may refer to them.
    fn choose_effort(&mut self, pts: Option<i64>) {
        let Some(need) = &self.need else { return };
        if self.decoder.id() == codec::Id::H264 {
            let wanted = pts.is_none_or(|pts| need.wanted.contains(&pts));
            self.decoder.skip_frame(if wanted { Discard::Default } else { Discard::NonReference });
        }
    }

    fn end(&mut self, job: &Job) -> Result<(), VideoError> {
        if self.ended {
            return Err(self.damage(job, None, "the decoder does not end".to_owned()));
        }
        self.ended = true;
        self.decoder.send_eof().map_err(|e| self.damage(job, None, e.to_string()))
    }

    /// Goes to a key frame: the position landed on, or `None` if that is later than the key frame or unknown.
    pub(super) fn seek(&mut self, job: &Job, packets: &Packets, key: KeyFrame) -> Result<Option<usize>, VideoError> {
        // Containers with an index are searched by the time of showing, others by that of decoding; the earlier one is
        // right for both, but leads to the key frame before where it is wrong.
        for time in [key.pts, key.dts] {
            if !self.source.seek(time) {
                continue;
            }
            let piece = self.source.next(job)?;
            let landed = piece.as_ref().and_then(|p| p.packet.pts()).and_then(|pts| packets.position(pts));
            if let Some(landed) = landed.filter(|&landed| landed <= key.position) {
                self.decoder.flush();
                self.begin = None;
                self.ended = false;
                self.origin = Origin::Leading;
                self.pending = piece;
                return Ok(Some(landed));
            }
        }
        Ok(None)
    }

    fn damage(&self, job: &Job, pts: Option<i64>, found: String) -> VideoError {
        let first = self.begin.filter(|b| *b != i64::MIN).unwrap_or_default();
        let seconds = pts.map_or(0.0, |pts| (pts - first) as f64 * self.time_base());
        job.corrupt(seconds, found)
    }
}
