//! Spans of time, in seconds.

use crate::Fault;

/// A span that does not end before it begins.
pub(super) fn span(field: &str, [start, end]: [f64; 2]) -> Result<[f64; 2], Fault> {
    if start <= end {
        Ok([start, end])
    } else {
        Err(Fault::new(field, format!("expected a start and an end not before it, found {start} to {end}")))
    }
}

/// The same for each of a list.
pub(super) fn spans(field: &str, spans: Vec<[f64; 2]>) -> Result<Vec<[f64; 2]>, Fault> {
    spans.into_iter().enumerate().map(|(index, found)| span(&format!("{field}[{index}]"), found)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_must_not_end_before_it_begins() {
        assert_eq!(spans("glue", vec![[0.0, 1.5], [2.0, 2.0]]).unwrap(), [[0.0, 1.5], [2.0, 2.0]]);
        let fault = spans("glue", vec![[0.0, 1.5], [3.0, 2.0]]).unwrap_err().to_string();
        assert_eq!(fault, "glue[1]: expected a start and an end not before it, found 3 to 2");
    }
}
