//! Text as Python reads it, where the rules are written in terms of Python: `strip`, `split`, `float`, `round`.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// Whether Python's `str.strip` drops the character and `\s` matches it: white space and four separators.
pub(crate) fn is_blank(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// `text.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_blank)
}

/// `text.split()`.
pub(crate) fn words(text: &str) -> Vec<&str> {
    text.split(is_blank).filter(|word| !word.is_empty()).collect()
}

/// The decimal digits of every script: runs of ten, from zero to nine.
static DIGITS: LazyLock<Vec<(char, char)>> =
    LazyLock::new(|| match regex_syntax::parse(r"\d").map(|digits| digits.into_kind()) {
        Ok(HirKind::Class(Class::Unicode(digits))) => {
            digits.ranges().iter().map(|range| (range.start(), range.end())).collect()
        }
        _ => vec![('0', '9')],
    });

/// The value of a character that `\d` matches.
pub(crate) fn digit(c: char) -> Option<u32> {
    if c.is_ascii() {
        return c.to_digit(10);
    }
    let (zero, _) = DIGITS.iter().find(|&&(first, last)| (first..=last).contains(&c))?;
    Some((u32::from(c) - u32::from(*zero)) % 10)
}

/// Whether `\d` matches the character.
pub(crate) fn is_digit(c: char) -> bool {
    digit(c).is_some()
}

/// `float(text)`: blanks around, digits of any script, `_` between digits, `inf` and `nan` are all numbers.
pub(crate) fn float(text: &str) -> Option<f64> {
    let mut plain = String::with_capacity(text.len());
    let mut after_digit = false;
    let mut chars = strip(text).chars().peekable();
    while let Some(c) = chars.next() {
        let value = digit(c).and_then(|value| char::from_digit(value, 10));
        let joins_digits = c == '_' && after_digit && chars.peek().copied().is_some_and(is_digit);
        if !joins_digits {
            plain.push(value.unwrap_or(c));
        }
        after_digit = value.is_some();
    }
    plain.parse().ok()
}

/// `round(number, 2)`: of the exact binary value, halves to even.
pub(crate) fn round_to_hundredths(number: f64) -> f64 {
    format!("{number:.2}").parse().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_python() {
        for (text, number) in [
            ("3", 3.0),
            (" -3\n", -3.0),
            ("+.5", 0.5),
            ("5.", 5.0),
            ("1e5", 1e5),
            ("1_000.2_5", 1000.25),
            ("\u{661}\u{662}.\u{665}", 12.5),
            ("\u{1d7dc}\u{ff11}", 41.0),
            ("\u{a0}7\u{3000}\x1c", 7.0),
            ("-Infinity", f64::NEG_INFINITY),
            ("INF", f64::INFINITY),
        ] {
            assert_eq!(float(text), Some(number), "{text}");
        }
        assert!(float("+nan").is_some_and(f64::is_nan));
    }

    #[test]
    fn what_python_refuses_is_no_number() {
        for text in [
            "", " ", ".", "-", "1e", "0x1f", "50%", "3 4", "1__0", "_1", "1_", "1_.5", "\u{bd}", "\u{b2}", "- 3",
            "infinit",
        ] {
            assert_eq!(float(text), None, "{text}");
        }
    }

    #[test]
    fn hundredths_are_rounded_as_python_does() {
        for (number, rounded) in
            [(0.125, 0.12), (0.375, 0.38), (1.005, 1.0), (2.675, 2.67), (0.005, 0.01), (-0.001, 0.0)]
        {
            assert_eq!(round_to_hundredths(number), rounded, "{number}");
        }
        assert_eq!(round_to_hundredths(f64::INFINITY), f64::INFINITY);
        assert!(round_to_hundredths(f64::NAN).is_nan());
    }

    #[test]
    fn the_separators_of_files_are_blanks() {
        assert_eq!(strip("\x1c a b\u{2003}"), "a b");
        assert_eq!(words("\x1f a\u{a0}b\n\tc "), ["a", "b", "c"]);
        assert_eq!(strip("\u{200b}a"), "\u{200b}a");
    }
}
