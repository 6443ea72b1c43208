//! Decoding up to the wanted frames.

use ffmpeg::{decoder, frame};
use ffmpeg_next as ffmpeg;
use image::RgbImage;

use super::Job;
use super::index::{KeyFrame, Lookup, Packets, Timeline};
use super::picture::{Converter, Orientation};
use super::source::{Piece, Source};
use crate::VideoError;

/// Packets that a seek costs: it empties the decoder and reads the container anew.
const SEEK_COST: usize = 12;

/// A source and its decoder, running forward.
pub(super) struct Decoding {
    source: Source,
    decoder: decoder::Video,
    /// Time stamp of the key frame that decoding began with.
    begin: Option<i64>,
    /// A packet that was read to see where a seek went.
    pending: Option<Piece>,
    /// Whether decoding began at the file's start or after a seek.
    origin: Origin,
    /// Whether the end was sent to the decoder.
    ended: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Origin {
    /// Frames before the first key frame cannot be decoded: they are passed over, and every error counts.
    Start,
    /// Frames shown before the key frame may refer to frames from before the seek: they are decoded, since others may
    /// refer to them in turn, but what goes wrong with them does not count.
    Leading,
    /// The key frame has come out.
    Running,
}

impl Decoding {
    pub(super) fn open(job: &Job) -> Result<Self, VideoError> {
        let source = Source::open(job)?;
        job.check_memory(0, (0, 0), source.coded_size(job)?)?;
        let decoder = source.decoder(job)?;
        Ok(Self { source, decoder, begin: None, pending: None, origin: Origin::Start, ended: false })
    }

    pub(super) fn frame_rate(&self) -> Option<f64> {
        self.source.frame_rate()
    }

    pub(super) fn time_base(&self) -> f64 {
        f64::from(self.source.time_base())
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
        let Some(piece) = piece else {
            if self.ended {
                return Err(self.damage(job, None, "the decoder does not end".to_owned()));
            }
            self.ended = true;
            return self.decoder.send_eof().map_err(|e| self.damage(job, None, e.to_string()));
        };
        let pts = piece.packet.pts();
        if self.begin.is_none() && piece.packet.is_key() {
            self.begin = Some(pts.unwrap_or(i64::MIN));
        }
        let leads = pts.is_some_and(|pts| self.begin.is_some_and(|begin| pts < begin));
        if self.begin.is_none() || (leads && self.origin == Origin::Start) {
            return Ok(());
        }
        match self.decoder.send_packet(&piece.packet) {
            Err(e) if self.origin != Origin::Leading => Err(self.damage(job, pts, e.to_string())),
            _ => Ok(()),
        }
    }

    /// Goes to a key frame: the position landed on, or `None` if that is later than the key frame or unknown.
    fn seek(&mut self, job: &Job, packets: &Packets, key: KeyFrame) -> Result<Option<usize>, VideoError> {
        if !self.source.seek(key.time) {
            return Ok(None);
        }
        let piece = self.source.next(job)?;
        let landed = piece.as_ref().and_then(|p| p.packet.pts()).and_then(|pts| packets.position(pts));
        self.decoder.flush();
        self.begin = None;
        self.ended = false;
        self.origin = Origin::Leading;
        self.pending = piece;
        Ok(landed.filter(|&landed| landed <= key.position))
    }

    fn damage(&self, job: &Job, pts: Option<i64>, found: String) -> VideoError {
        let first = self.begin.filter(|b| *b != i64::MIN).unwrap_or_default();
        let seconds = pts.map_or(0.0, |pts| (pts - first) as f64 * self.time_base());
        job.corrupt(seconds, found)
    }
}

/// Gives wanted frames, asked for in ascending order.
pub(super) struct Reader<'a> {
    job: &'a Job,
    timeline: &'a Timeline,
    decoding: Decoding,
    converter: Converter,
    /// Position of the next packet to decode, or number of frames given by the decoder when frames are counted.
    next: usize,
    /// Whether seeks have turned out to be exact so far.
    seeks: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn open(job: &'a Job, timeline: &'a Timeline) -> Result<Self, VideoError> {
        let decoding = Decoding::open(job)?;
        let orientation: Orientation = decoding.source.orientation()?;
        let converter = Converter::new(decoding.source.coded_size(job)?, orientation);
        Ok(Self { job, timeline, decoding, converter, next: 0, seeks: true })
    }

    /// Width and height as shown.
    pub(super) fn upright_size(&self) -> (u32, u32) {
        self.converter.upright_size()
    }

    /// The frame at an index, or `None` if it does not turn up.
    pub(super) fn frame(&mut self, index: usize) -> Result<Option<RgbImage>, VideoError> {
        match &self.timeline.lookup {
            Lookup::Ordinal => self.frame_by_ordinal(index),
            Lookup::Timestamps(packets) => self.frame_by_time(packets, packets.shown[index]),
        }
    }

    fn frame_by_ordinal(&mut self, index: usize) -> Result<Option<RgbImage>, VideoError> {
        while let Some(frame) = self.decoding.next_frame(self.job)? {
            self.next += 1;
            if self.next == index + 1 {
                return self.convert(&frame).map(Some);
            }
        }
        Ok(None)
    }

    fn frame_by_time(&mut self, packets: &Packets, pts: i64) -> Result<Option<RgbImage>, VideoError> {
        if let Some(key) = packets.key_before(pts).filter(|key| self.seeks && key.position > self.next + SEEK_COST) {
            match self.decoding.seek(self.job, packets, key)? {
                Some(landed) => self.next = landed,
                None => self.restart()?,
            }
        }
        match self.run_to(packets, pts) {
            // Some streams cannot be entered at what they call a key frame: the whole stream decides.
            Ok(None) | Err(VideoError::Corrupt { .. }) if self.decoding.origin != Origin::Start => {
                self.restart()?;
                self.run_to(packets, pts)
            }
            other => other,
        }
    }

    fn run_to(&mut self, packets: &Packets, pts: i64) -> Result<Option<RgbImage>, VideoError> {
        while let Some(frame) = self.decoding.next_frame(self.job)? {
            let found = frame.pts();
            if let Some(position) = found.and_then(|pts| packets.position(pts)) {
                self.next = self.next.max(position + 1);
            }
            match found {
                Some(found) if found == pts => return self.convert(&frame).map(Some),
                Some(found) if found < pts => {}
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Goes on from the start of the file, and seeks no more.
    fn restart(&mut self) -> Result<(), VideoError> {
        self.decoding = Decoding::open(self.job)?;
        (self.next, self.seeks) = (0, false);
        Ok(())
    }

    fn convert(&mut self, frame: &frame::Video) -> Result<RgbImage, VideoError> {
        self.converter
            .rgb(frame)
            .map_err(|e| self.job.unsupported(format!("pixel format {:?} cannot be converted ({e})", frame.format())))
    }
}
