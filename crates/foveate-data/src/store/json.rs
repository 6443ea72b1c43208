//! One JSON array of records, or one object with a record at each key, too large to be read at once.

use std::fs::File;
use std::io::{BufReader, Bytes, Error, Read, Result};

use super::Span;

/// Finds the records: the file is walked once, byte by byte, and only brackets, commas and strings are understood. What
/// is inside a record is judged when it is read.
///
/// # Errors
/// The file cannot be read or has another shape.
pub(super) fn index(file: &File) -> Result<Vec<Span>> {
    let mut walk = Walk { bytes: BufReader::new(file).bytes(), position: 0 };
    let mut first = walk.token()?;
    if first == Some(0xEF) {
        // A byte order mark.
        walk.next()?;
        walk.next()?;
        first = walk.token()?;
    }
    let is_object = match first {
        Some(b'[') => false,
        Some(b'{') => true,
        found => return Err(walk.expected("a JSON array or object of records", found)),
    };
    let mut spans = Vec::new();
    let mut next = walk.token()?;
    while next != Some(if is_object { b'}' } else { b']' }) {
        let begin = walk.position - 1;
        let mut start = begin;
        if is_object {
            if next != Some(b'"') {
                return Err(walk.expected("a key", next));
            }
            walk.string()?;
            let colon = walk.token()?;
            if colon != Some(b':') {
                return Err(walk.expected("':' after a key", colon));
            }
            next = walk.token()?;
            start = walk.position - 1;
        }
        let (end, after) = walk.value(next)?;
        let length = u32::try_from(end - start).map_err(|_| walk.shape("a record of more than 4 GiB"))?;
        let number = spans.len() as u32 + 1;
        spans.push(Span { start, length, number, key: (start - begin) as u32 });
        next = match after {
            Some(b',') => walk.token()?,
            Some(close @ (b']' | b'}')) if (close == b'}') == is_object => Some(close),
            found => return Err(walk.expected("',' or the end after a record", found)),
        };
    }
    match walk.token()? {
        None => Ok(spans),
        Some(b'{') => {
            Err(walk.shape("expected nothing after the last record, found another: a record a line is a .jsonl file"))
        }
        found => Err(walk.expected("nothing after the last record", found)),
    }
}

/// The key that stands before a record: `"key" :`.
pub(super) fn key(bytes: &[u8]) -> serde_json::Result<Option<String>> {
    let bytes = bytes.trim_ascii_end();
    match bytes.strip_suffix(b":") {
        Some(key) => serde_json::from_slice(key).map(Some),
        None => Ok(None),
    }
}

struct Walk<'a> {
    bytes: Bytes<BufReader<&'a File>>,
    /// Number of bytes read.
    position: u64,
}

impl Walk<'_> {
    fn next(&mut self) -> Result<Option<u8>> {
        let byte = self.bytes.next().transpose()?;
        self.position += u64::from(byte.is_some());
        Ok(byte)
    }

    /// The next byte that is not blank.
    fn token(&mut self) -> Result<Option<u8>> {
        loop {
            match self.next()? {
                Some(byte) if byte.is_ascii_whitespace() => {}
                found => return Ok(found),
            }
        }
    }

    /// Passes the rest of a string, whose opening quote was read.
    fn string(&mut self) -> Result<()> {
        loop {
            match self.next()? {
                Some(b'"') => return Ok(()),
                Some(b'\\') => {
                    self.next()?;
                }
                Some(_) => {}
                None => return Err(self.shape("the file ends within a string")),
            }
        }
    }

    /// Passes a value whose first byte was read; where it ends, and the token after it.
    fn value(&mut self, first: Option<u8>) -> Result<(u64, Option<u8>)> {
        let mut depth = 0usize;
        let mut byte = first;
        loop {
            match byte {
                None => return Err(self.shape("the file ends within a record: was it cut off?")),
                Some(b'"') => self.string()?,
                Some(b'[' | b'{') => depth += 1,
                Some(b']' | b'}' | b',') if depth == 0 => return Ok((self.position - 1, byte)),
                Some(b']' | b'}') => depth -= 1,
                Some(_) => {}
            }
            byte = self.next()?;
        }
    }

    fn expected(&self, what: &str, found: Option<u8>) -> Error {
        let found = found.map_or("the end of the file".to_owned(), |byte| format!("'{}'", byte.escape_ascii()));
        self.shape(&format!("expected {what}, found {found}"))
    }

    fn shape(&self, reason: &str) -> Error {
        Error::other(format!("{reason} (at byte {})", self.position))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    fn found(text: &str) -> std::result::Result<Vec<String>, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        let spans = index(&file).map_err(|error| error.to_string())?;
        let of = |span: &Span| {
            let start = span.start as usize;
            let value = &text[start..start + span.length as usize];
            let key = key(&text.as_bytes()[start - span.key as usize..start]).unwrap();
            key.map_or(String::new(), |key| key + "=") + value.trim()
        };
        Ok(spans.iter().map(of).collect())
    }

    #[test]
    fn records_are_found_whatever_stands_in_them() {
        assert_eq!(found(" [ ] ").unwrap(), [""; 0]);
        assert_eq!(found("{}").unwrap(), [""; 0]);
        assert_eq!(found(r#"[{"a": [1, {}]} , 2,"x,]\"" ]"#).unwrap(), [r#"{"a": [1, {}]}"#, "2", r#""x,]\"""#]);
        assert_eq!(found("{\"k\\\"\" : {\"b\": \"}\"},\n\"l\":[]}\n").unwrap(), [r#"k"={"b": "}"}"#, "l=[]"]);
    }

    #[test]
    fn a_file_of_another_shape_is_named_with_what_was_expected() {
        for (text, reason) in [
            ("", "expected a JSON array or object of records, found the end of the file"),
            ("nonsense", "expected a JSON array or object of records, found 'n'"),
            ("[{\"a\": 1}", "the file ends within a record: was it cut off?"),
            ("[{\"a", "the file ends within a string"),
            ("[1}", "expected ',' or the end after a record, found '}'"),
            ("[1] 2", "expected nothing after the last record, found '2'"),
            ("{1: 2}", "expected a key, found '1'"),
            ("{\"a\" 2}", "expected ':' after a key, found '2'"),
        ] {
            let error = found(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_serde_writes_is_found_again(values in proptest::collection::vec(".*", 0..6), pretty in proptest::bool::ANY) {
            let values: Vec<serde_json::Value> = values.iter().map(|text| serde_json::json!({ text: [text] })).collect();
            let text = if pretty { serde_json::to_string_pretty(&values) } else { serde_json::to_string(&values) }.unwrap();
            let read: Vec<serde_json::Value> =
                found(&text).unwrap().iter().map(|record| serde_json::from_str(record).unwrap()).collect();
            proptest::prop_assert_eq!(read, values);
        }
    }
}
