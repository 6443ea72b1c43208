//! Numbers and texts that data sets write either way.

use serde::{Deserialize, Deserializer, de::Error};

use crate::Fault;

/// A text, or a number as its text.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(TextOrNumber::deserialize(deserializer)?.text())
}

/// The same, or nothing.
pub(super) fn any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<TextOrNumber>::deserialize(deserializer)?.map(TextOrNumber::text))
}

/// A list of texts, or of numbers as their texts.
pub(super) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<TextOrNumber>::deserialize(deserializer)?.into_iter().map(TextOrNumber::text).collect())
}

/// A whole number from 0, or its text.
pub(super) fn index<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let text = text(deserializer)?;
    text.trim().parse().map_err(|_| D::Error::custom(format!("expected a whole number from 0, found {text:?}")))
}

/// A number, or its text.
pub(super) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let text = text(deserializer)?;
    let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| D::Error::custom(format!("expected a number, found {text:?}")))
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a number")]
enum TextOrNumber {
    Text(String),
    Number(serde_json::Number),
}

impl TextOrNumber {
    fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

/// What a field holds that some records of the data set do without, and this one does not.
pub(super) fn required<T>(field: &str, value: Option<T>) -> Result<T, Fault> {
    value.ok_or_else(|| Fault::new(field, "expected this field, found none"))
}
