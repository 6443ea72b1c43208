//! Whether a file is as long as its container says.
//!
//! FFmpeg reads a cut file up to the cut and reports a normal end, so the outermost structure of the common
//! containers (ISO base media: mp4, mov; Matroska: mkv, webm; RIFF: avi) is walked first.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use std::fs;

use crate::VideoError;

/// Boxes that an ISO file may begin with; old QuickTime files have no `ftyp`.
const ISO_STARTS: [&[u8]; 6] = [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"];

/// Compares the outermost structure with the file's length. Streams without a declared length (MPEG-TS, raw streams,
/// live recordings) pass; what is missing there shows as damage in the last frame at best.
///
/// # Errors
/// [`VideoError::Missing`], [`VideoError::Io`], or [`VideoError::Truncated`] with what is missing.
pub(super) fn check_whole(path: &Path) -> Result<(), VideoError> {
    let io = |e| VideoError::io(path, e);
    let facts = fs::metadata(path).map_err(io)?;
    if !facts.is_file() {
        return Err(VideoError::NotAVideo { path: path.to_owned(), found: "expected a file".to_owned() });
    }
    if facts.len() == 0 {
        return Err(VideoError::NotAVideo { path: path.to_owned(), found: "the file is empty".to_owned() });
    }
    let mut file = File { inner: fs::File::open(path).map_err(io)?, length: facts.len() };
    let missing = match file.bytes::<12>(0).map_err(io)? {
        Some(head) if ISO_STARTS.contains(&&head[4..8]) => file.missing_of_iso(),
        Some(head) if head[..4] == [0x1A, 0x45, 0xDF, 0xA3] => file.missing_of_matroska(),
        Some(head) if &head[..4] == b"RIFF" && &head[8..] == b"AVI " => {
            let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
            // Unknown while recording.
            Ok((size != u32::MAX).then(|| file.missing_at_end(8 + u64::from(size), "its RIFF header")).flatten())
        }
        _ => Ok(None),
    };
    match missing.map_err(io)? {
        None => Ok(()),
        Some(found) => Err(VideoError::Truncated { path: path.to_owned(), found }),
    }
}

struct File {
    inner: fs::File,
    length: u64,
}

impl File {
    fn bytes<const N: usize>(&mut self, at: u64) -> std::io::Result<Option<[u8; N]>> {
        if at.checked_add(N as u64).is_none_or(|end| end > self.length) {
            return Ok(None);
        }
        let mut bytes = [0; N];
        self.inner.seek(SeekFrom::Start(at))?;
        self.inner.read_exact(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn missing_at_end(&self, declared: u64, by: &str) -> Option<String> {
        (declared > self.length)
            .then(|| format!("{by} says that it reaches byte {declared}, the file ends at byte {}", self.length))
    }

    /// Walks the top-level boxes.
    fn missing_of_iso(&mut self) -> std::io::Result<Option<String>> {
        let (mut at, mut has_index) = (0, false);
        while let Some(head) = self.bytes::<8>(at)? {
            let name = String::from_utf8_lossy(&head[4..8]).into_owned();
            let size = match u32::from_be_bytes([head[0], head[1], head[2], head[3]]) {
                0 => self.length - at, // to the end of the file
                1 => self.bytes::<8>(at + 8)?.map_or(u64::MAX - at, u64::from_be_bytes),
                size => u64::from(size),
            };
            let end = at.saturating_add(size);
            if size < 8 || !head[4..8].iter().all(|b| b.is_ascii_graphic() || *b == b' ') {
                // Not a box: junk at the end, which FFmpeg ignores as well.
                break;
            }
            if let Some(missing) = self.missing_at_end(end, &format!("its `{name}` box")) {
                return Ok(Some(missing));
            }
            has_index |= name == "moov";
            at = end;
        }
        Ok((!has_index).then(|| "the `moov` box, its table of contents, is missing".to_owned()))
    }

    /// Compares the segment's size with the file's. A segment of unknown size (live recording) cannot be checked.
    fn missing_of_matroska(&mut self) -> std::io::Result<Option<String>> {
        let Some((header, header_end)) = self.element_size(4)? else { return Ok(None) };
        let segment = header_end.saturating_add(header);
        if self.bytes::<4>(segment)? != Some([0x18, 0x53, 0x80, 0x67]) {
            return Ok(None);
        }
        let Some((size, start)) = self.element_size(segment + 4)? else { return Ok(None) };
        Ok(self.missing_at_end(start.saturating_add(size), "its segment"))
    }

    /// Size of an element and where its content starts; `None` for an unknown size.
    fn element_size(&mut self, at: u64) -> std::io::Result<Option<(u64, u64)>> {
        let Some([first]) = self.bytes::<1>(at)? else { return Ok(None) };
        let length = u64::from(first.leading_zeros()) + 1;
        if length > 8 {
            return Ok(None);
        }
        let mut value = u64::from(first) & ((1 << (8 - length)) - 1);
        for i in 1..length {
            let Some([byte]) = self.bytes::<1>(at + i)? else { return Ok(None) };
            value = value << 8 | u64::from(byte);
        }
        let unknown = value == (1 << (7 * length)) - 1;
        Ok((!unknown).then_some((value, at + length)))
    }
}
