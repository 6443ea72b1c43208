//! Which frames a video has, and when they are shown.

use std::collections::{BTreeMap, HashMap};

use super::Job;
use super::decoding::Decoding;
use super::source::Source;
use crate::VideoError;

/// The frames of a video.
pub(super) struct Timeline {
    /// Time of each shown frame, seconds from the first, ascending.
    pub(super) times: Vec<f64>,
    /// Length of the video, seconds.
    pub(super) duration: f64,
    /// How frames are found again.
    pub(super) lookup: Lookup,
}

pub(super) enum Lookup {
    /// By time stamp.
    Timestamps(Packets),
    /// By counting decoded frames from the start.
    Ordinal,
}

/// All packets in decoding order.
pub(super) struct Packets {
    entries: Vec<Entry>,
    /// Time stamps of the shown frames, ascending.
    pub(super) shown: Vec<i64>,
    position: HashMap<i64, usize>,
    /// Key frames: position by time stamp.
    keys: BTreeMap<i64, usize>,
}

/// Where decoding can begin.
#[derive(Clone, Copy)]
pub(super) struct KeyFrame {
    /// Position in decoding order.
    pub(super) position: usize,
    /// Time stamp of showing.
    pub(super) pts: i64,
    /// Time stamp of decoding, not above that of showing.
    pub(super) dts: i64,
}

#[derive(Clone, Copy)]
struct Entry {
    pts: i64,
    dts: Option<i64>,
    shown: bool,
    duration: i64,
    key: bool,
}

impl Packets {
    /// Position in decoding order of the packet with a time stamp.
    pub(super) fn position(&self, pts: i64) -> Option<usize> {
        self.position.get(&pts).copied()
    }

    /// The last key frame that is neither shown nor decoded after the frame at `pts`.
    pub(super) fn key_before(&self, pts: i64) -> Option<KeyFrame> {
        let wanted = self.position(pts)?;
        let (&key, &position) = self.keys.range(..=pts).rev().find(|&(_, &at)| at <= wanted)?;
        Some(KeyFrame { position, pts: key, dts: self.entries[position].dts.unwrap_or(key) })
    }

    fn new(entries: Vec<Entry>) -> Option<Self> {
        let position: HashMap<i64, usize> = entries.iter().enumerate().map(|(i, e)| (e.pts, i)).collect();
        if position.len() < entries.len() {
            return None;
        }
        let first_key = entries.iter().position(|e| e.key)?;
        // What comes before the first key frame, in decoding or in showing, refers to frames that are not there.
        let begin = entries[first_key].pts;
        let shows = |(i, e): &(usize, &Entry)| e.shown && *i >= first_key && e.pts >= begin;
        let mut shown: Vec<i64> = entries.iter().enumerate().filter(shows).map(|(_, e)| e.pts).collect();
        shown.sort_unstable();
        let keys = entries.iter().enumerate().filter(|(_, e)| e.key).map(|(i, e)| (e.pts, i)).collect();
        Some(Self { entries, shown, position, keys })
    }
}

/// Reads all packets of a source without decoding; `None` if their time stamps do not tell frames apart.
pub(super) fn scan(job: &Job, source: &mut Source) -> Result<Option<Timeline>, VideoError> {
    let (mut entries, mut usable) = (Vec::new(), true);
    while let Some(piece) = source.next(job)? {
        let packet = &piece.packet;
        let Some(pts) = packet.pts() else {
            usable = false;
            entries.clear();
            break;
        };
        entries.push(Entry {
            pts,
            dts: packet.dts(),
            shown: piece.shown,
            duration: packet.duration(),
            key: packet.is_key(),
        });
    }
    if !usable {
        return Ok(None);
    }
    if !entries.iter().any(|e| e.shown) {
        return Err(VideoError::NoFrames { path: job.path.clone() });
    }
    let Some(packets) = Packets::new(entries) else { return Ok(None) };
    let (Some(&first), Some(&last)) = (packets.shown.first(), packets.shown.last()) else { return Ok(None) };
    let unit = f64::from(source.time_base());
    let times: Vec<f64> = packets.shown.iter().map(|pts| (pts - first) as f64 * unit).collect();
    let last_duration = packets.position(last).map_or(0, |i| packets.entries[i].duration) as f64 * unit;
    let duration = duration(&times, last_duration, source.frame_rate());
    Ok(Some(Timeline { times, duration, lookup: Lookup::Timestamps(packets) }))
}

/// Decodes everything once to learn how many frames there are.
pub(super) fn count_by_decoding(job: &Job) -> Result<Timeline, VideoError> {
    let mut decoding = Decoding::begin(job, Source::open(job)?)?;
    let rate = decoding.frame_rate();
    let mut times: Vec<f64> = Vec::new();
    while let Some(frame) = decoding.next_frame(job)? {
        let unit = decoding.time_base();
        let step = rate.map_or(0.04, |r| 1.0 / r);
        let earliest = times.last().map_or(f64::NEG_INFINITY, |t| *t);
        let stamped = frame.timestamp().map(|t| t as f64 * unit).filter(|t| *t > earliest);
        times.push(stamped.unwrap_or(if times.is_empty() { 0.0 } else { earliest + step }));
    }
    let Some(&first) = times.first() else { return Err(VideoError::NoFrames { path: job.path.clone() }) };
    times.iter_mut().for_each(|t| *t -= first);
    let duration = duration(&times, 0.0, rate);
    Ok(Timeline { times, duration, lookup: Lookup::Ordinal })
}

/// Length of a video. Time stamps of some containers are rounded to milliseconds: where they agree with the stated
/// rate, frames over rate is the truth, so that sampling by fps does not lose a frame to rounding.
fn duration(times: &[f64], last_duration: f64, rate: Option<f64>) -> f64 {
    let end = times.last().copied().unwrap_or_default();
    let mean_gap = (times.len() > 1).then(|| end / (times.len() - 1) as f64);
    let last = Some(last_duration).filter(|d| *d > 0.0).or(mean_gap).or(rate.map(|r| 1.0 / r)).unwrap_or(0.04);
    let measured = end + last;
    match rate.map(|r| (times.len() as f64 / r, 1.0 / r)) {
        Some((stated, frame)) if (stated - measured).abs() < 0.5 * frame => stated,
        _ => measured,
    }
}
