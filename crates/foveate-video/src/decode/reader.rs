//! Decoding up to the wanted frames.

use std::collections::BTreeSet;

use ffmpeg::frame;
use ffmpeg_next as ffmpeg;
use image::RgbImage;

use super::Job;
use super::decoding::{Decoding, Need};
use super::index::{Lookup, Packets, Timeline};
use super::picture::Converter;
use super::source::Source;
use crate::VideoError;

/// Packets that a seek costs: it empties the decoder and reads the container anew.
const SEEK_COST: usize = 12;

/// Gives wanted frames, asked for in ascending order.
pub(super) struct Reader<'a> {
    job: &'a Job,
    timeline: &'a Timeline,
    /// Indices of the wanted frames.
    wanted: &'a BTreeSet<usize>,
    decoding: Decoding,
    converter: Converter,
    /// Position of the next packet to decode, or number of frames given by the decoder when frames are counted; `None`
    /// where only a seek goes on: at the source's end, or with a decoder that was emptied.
    next: Option<usize>,
    /// Whether seeks have turned out to be exact so far.
    seeks: bool,
}

impl<'a> Reader<'a> {
    /// A reader of a source that is at its end after a scan, or, if frames are to be counted, at its start.
    pub(super) fn open(
        job: &'a Job,
        timeline: &'a Timeline,
        source: Source,
        wanted: &'a BTreeSet<usize>,
    ) -> Result<Self, VideoError> {
        let mut decoding = Decoding::begin(job, source)?;
        let converter = Converter::new(decoding.coded_size(job)?, decoding.orientation()?);
        let next = match &timeline.lookup {
            Lookup::Ordinal => Some(0),
            Lookup::Timestamps(packets) => {
                let wanted = wanted.iter().map(|&index| packets.shown[index]).collect();
                decoding.shorten(Need { wanted, last: None });
                None
            }
        };
        Ok(Self { job, timeline, wanted, decoding, converter, next, seeks: true })
    }

    /// Width and height as shown.
    pub(super) fn upright_size(&self) -> (u32, u32) {
        self.converter.upright_size()
    }

    /// The frame at an index, or `None` if it does not turn up.
    pub(super) fn frame(&mut self, index: usize) -> Result<Option<RgbImage>, VideoError> {
        match &self.timeline.lookup {
            Lookup::Ordinal => self.frame_by_ordinal(index),
            Lookup::Timestamps(packets) => self.frame_by_time(packets, index),
        }
    }

    fn frame_by_ordinal(&mut self, index: usize) -> Result<Option<RgbImage>, VideoError> {
        while let Some(frame) = self.decoding.next_frame(self.job)? {
            let at = self.next.unwrap_or_default();
            self.next = Some(at + 1);
            if at == index {
                return self.convert(&frame).map(Some);
            }
        }
        Ok(None)
    }

    fn frame_by_time(&mut self, packets: &Packets, index: usize) -> Result<Option<RgbImage>, VideoError> {
        let pts = packets.shown[index];
        let leaves = self.approach(packets, index)?;
        let mut found = self.run_to(packets, pts);
        if matches!(&found, Ok(Some(frame)) if frame.is_interlaced()) && self.decoding.is_shortened() {
            // Fields may come in packets of their own, of which one may have been passed over.
            self.decoding.lengthen();
            self.next = None;
            self.approach(packets, index)?;
            found = self.run_to(packets, pts);
        } else if leaves {
            self.next = None;
        }
        if matches!(&found, Ok(None) | Err(VideoError::Corrupt { .. })) && self.decoding.is_partial() {
            // Some streams cannot be entered at what they call a key frame: the whole stream decides.
            self.restart()?;
            found = self.run_to(packets, pts);
        }
        found?.map(|frame| self.convert(&frame)).transpose()
    }

    /// Seeks if that is nearer; whether the stream is left after this frame, by another seek or for good.
    fn approach(&mut self, packets: &Packets, index: usize) -> Result<bool, VideoError> {
        if !self.seeks {
            return Ok(false);
        }
        let pts = packets.shown[index];
        let far = |from: Option<usize>, key: usize| from.is_none_or(|from| key > from + SEEK_COST);
        let landed = match packets.key_before(pts) {
            Some(key) if far(self.next, key.position) => self.decoding.seek(self.job, packets, key)?,
            _ => self.next,
        };
        self.next = landed;
        if landed.is_none() {
            self.restart()?;
            return Ok(false);
        }
        let following = self.wanted.range(index + 1..).next().map(|&next| packets.shown[next]);
        let position = packets.position(pts);
        let key = following.and_then(|next| packets.key_before(next));
        let leaves = following.is_none() || key.is_some_and(|key| far(position, key.position));
        self.decoding.leave_after(leaves.then_some(pts));
        Ok(leaves && self.decoding.is_shortened())
    }

    /// Decodes up to the frame with a time stamp.
    fn run_to(&mut self, packets: &Packets, pts: i64) -> Result<Option<frame::Video>, VideoError> {
        while let Some(frame) = self.decoding.next_frame(self.job)? {
            let found = frame.pts();
            if let Some(position) = found.and_then(|pts| packets.position(pts)) {
                self.next = self.next.max(Some(position + 1));
            }
            match found {
                Some(found) if found == pts => return Ok(Some(frame)),
                Some(found) if found < pts => {}
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Goes on from the start of the file, without shortcuts.
    fn restart(&mut self) -> Result<(), VideoError> {
        self.decoding = Decoding::begin(self.job, Source::open(self.job)?)?;
        (self.next, self.seeks) = (Some(0), false);
        Ok(())
    }

    fn convert(&mut self, frame: &frame::Video) -> Result<RgbImage, VideoError> {
        self.converter
            .rgb(frame)
            .map_err(|e| self.job.unsupported(format!("pixel format {:?} cannot be converted ({e})", frame.format())))
    }
}
