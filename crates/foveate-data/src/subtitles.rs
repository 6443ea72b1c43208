//! What is said in a video.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::DataError;

/// A file of subtitles: SubRip (`.srt`), or LongVideoBench's JSON, a list of `{"start": "00:00:01.5", "end", "line"}` or
/// `{"timestamp": [1.5, 3.0], "text"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subtitles {
    /// The file.
    pub path: PathBuf,
    /// Where in the file's time the video begins, seconds.
    #[serde(default)]
    pub begin: f64,
}

/// A subtitle: when it is shown, in seconds, and what it says.
type Cue = ([f64; 2], String);

impl Subtitles {
    /// What is shown at any of these times (seconds from the video's first frame): a line each, in the order of the file.
    /// Nothing if there is no such file: benchmarks have videos without subtitles.
    ///
    /// # Errors
    /// [`DataError::File`] or [`DataError::Content`] if the file cannot be read.
    pub fn shown_at(&self, times: &[f64]) -> Result<String, DataError> {
        let content = |reason: String| DataError::Content { path: self.path.clone(), reason };
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
            Err(source) => return Err(DataError::File { path: self.path.clone(), source }),
        };
        let text = text.trim_start_matches('\u{feff}'); // a byte order mark
        let is_json = self.path.extension().is_some_and(|end| end.eq_ignore_ascii_case("json"));
        let cues = if is_json { json(text) } else { srt(text) }.map_err(content)?;
        let is_shown = |[start, end]: [f64; 2]| times.iter().any(|time| (start..=end).contains(&(time + self.begin)));
        let mut lines: Vec<String> =
            cues.into_iter().filter(|(span, _)| is_shown(*span)).map(|(_, line)| line).collect();
        lines.dedup();
        Ok(lines.join("\n"))
    }
}

fn srt(text: &str) -> Result<Vec<Cue>, String> {
    let mut cues: Vec<([f64; 2], Vec<&str>)> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let Some((start, end)) = line.split_once("-->") else {
            // What stands before the first cue is its number.
            cues.last_mut().into_iter().for_each(|(_, lines)| lines.push(line));
            continue;
        };
        // Behind the end a place on the screen may stand.
        let end = end.split_whitespace().next().unwrap_or_default();
        let [Some(start), Some(end)] = [start, end].map(clock) else {
            return Err(format!("expected \"00:00:01,000 --> 00:00:02,000\", found {line:?}"));
        };
        // The line before the times is the number of the cue, which says nothing that its place does not.
        if let Some((_, lines)) = cues.last_mut() {
            lines.pop_if(|line| line.bytes().all(|byte| byte.is_ascii_digit()));
        }
        cues.push(([start, end], Vec::new()));
    }
    let said = |lines: Vec<&str>| lines.into_iter().map(plain).collect::<Vec<_>>().join(" ");
    Ok(cues.into_iter().map(|(span, lines)| (span, said(lines))).collect())
}

/// A line without its markup (`<font color="white">`, `<i>`).
fn plain(line: &str) -> String {
    let (mut said, mut rest) = (String::new(), line);
    while let Some((before, after)) = rest.split_once('<') {
        said += before;
        let is_tag = after.starts_with(|c: char| c == '/' || c.is_ascii_alphabetic());
        match after.split_once('>').filter(|_| is_tag) {
            Some((_, behind)) => rest = behind,
            None => {
                said.push('<');
                rest = after;
            }
        }
    }
    (said + rest).trim().to_owned()
}

fn json(text: &str) -> Result<Vec<Cue>, String> {
    let entries: Vec<Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let cue = |(index, entry): (usize, Value)| {
        let (span, line) = match entry.get("timestamp") {
            // An end that is not known is the video's.
            Some(times) => ([times[0].as_f64(), times[1].as_f64().or(Some(f64::INFINITY))], &entry["text"]),
            None => ([&entry["start"], &entry["end"]].map(|time| clock(time.as_str()?)), &entry["line"]),
        };
        match (span, line.as_str()) {
            ([Some(start), Some(end)], Some(line)) => Ok((lasting([start, end]), line.trim().replace('\n', " "))),
            _ => {
                Err(format!("entry {}: expected start, end and line, or timestamp and text; found {entry}", index + 1))
            }
        }
    };
    entries.into_iter().enumerate().map(cue).collect()
}

/// A span of at least a second around the same middle, as LongVideoBench's loaders have it.
fn lasting([start, end]: [f64; 2]) -> [f64; 2] {
    let middle = (start + end) / 2.0;
    if end - start < 1.0 { [middle - 0.5, middle + 0.5] } else { [start, end] }
}

/// Seconds of `hours:minutes:seconds`, with a comma or a point before the fraction.
fn clock(text: &str) -> Option<f64> {
    let parts: Vec<f64> =
        text.trim().split(':').map(|part| part.replace(',', ".").parse().ok()).collect::<Option<_>>()?;
    if parts.len() == 3 { Some(parts.iter().fold(0.0, |sum, part| 60.0 * sum + part)) } else { None }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    fn shown(name: &str, text: &str, begin: f64, times: &[f64]) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        Subtitles { path, begin }.shown_at(times).map_err(|error| error.to_string())
    }

    const SRT: &str = "\u{feff}1\r\n00:00:01,000 --> 00:00:02,500\r\nHello\r\nthere.\r\n\r\n2\r\n00:01:00,250 --> 00:01:01,000 X1:40\r\nBye.\r\n";

    #[test]
    fn what_is_shown_at_a_frame_is_told_once() {
        assert_eq!(shown("a.srt", SRT, 0.0, &[0.0, 1.2, 2.4, 60.25]).unwrap(), "Hello there.\nBye.");
        assert_eq!(shown("a.srt", SRT, 0.0, &[0.5, 30.0]).unwrap(), "");
        assert_eq!(shown("a.srt", SRT, 60.0, &[0.5]).unwrap(), "Bye.");
        assert_eq!(shown("a.srt", "", 0.0, &[0.5]).unwrap(), "");
        let gap = "1\n00:00:01,000 --> 00:00:02,000\n\nred\n\nblue\n\n2\n00:00:03,000 --> 00:00:04,000\n7\n";
        assert_eq!(shown("a.srt", gap, 0.0, &[1.5, 3.5]).unwrap(), "red blue\n7");
    }

    #[test]
    fn markup_and_blanks_between_cues_are_not_said() {
        let text = "1\n00:00:01,000 --> 00:00:02,000\n<font color=\"white\" size=\".72c\">Five < <i>six</i></font>\n \n2\n00:00:03,000 --> 00:00:04,000\nBye.";
        assert_eq!(shown("a.srt", text, 0.0, &[1.5, 3.5]).unwrap(), "Five < six\nBye.");
    }

    #[test]
    fn both_forms_of_json_are_read() {
        let clocks = r#"[{"start": "00:00:01.000", "end": "00:00:02.000", "line": "one"}]"#;
        let seconds = r#"[{"timestamp": [1.0, 2.0], "text": "one"}, {"timestamp": [9.0, null], "text": "two"}]"#;
        assert_eq!(shown("a.json", &format!("\u{feff}{clocks}"), 0.0, &[1.5]).unwrap(), "one");
        let brief = r#"[{"timestamp": [3.0, 3.2], "text": "brief"}]"#;
        assert_eq!(shown("a.json", brief, 0.0, &[2.7]).unwrap(), "brief");
        assert_eq!(shown("a.json", seconds, 1.0, &[0.5, 99.0]).unwrap(), "one\ntwo");
    }

    #[test]
    fn a_wrong_file_is_named_with_what_was_found() {
        let error = shown("a.srt", "1\n00:01 --> 00:02\nx", 0.0, &[]).unwrap_err();
        assert!(
            error.ends_with("a.srt: expected \"00:00:01,000 --> 00:00:02,000\", found \"00:01 --> 00:02\""),
            "{error}"
        );
        let error = shown("a.json", r#"[{"start": "1", "end": "2", "line": "x"}]"#, 0.0, &[]).unwrap_err();
        assert!(error.contains("a.json: entry 1: expected start, end and line"), "{error}");
        let missing = Subtitles { path: "/nowhere/a.srt".into(), begin: 0.0 };
        assert_eq!(missing.shown_at(&[0.0]).unwrap(), "");
        let folder = Subtitles { path: "/".into(), begin: 0.0 };
        assert!(folder.shown_at(&[0.0]).unwrap_err().to_string().starts_with("/: "));
    }
}
