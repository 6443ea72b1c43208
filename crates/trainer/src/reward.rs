//! `trainer reward`: rewards of completions that were made elsewhere.

use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use foveate_reward::{Record, judge};
use serde_json::{Map, Value};

use crate::cli::RewardArgs;
use crate::error::{UserContext, existing};
use crate::run::write_streaming;

/// Answers each line by the line and its `breakdown`: the value of each scorer that it names, null where one cannot score it.
///
/// # Errors
/// A user error: the file cannot be read, or a line is no record; or the output cannot be written.
pub fn run(args: &RewardArgs) -> Result<()> {
    existing("--input", &args.input)?;
    let lines = BufReader::new(fs_err::File::open(&args.input).user()?).lines();
    let mut judged = 0;
    write_streaming(&args.output, |file| {
        for (number, line) in (1..).zip(lines) {
            let line = line.user()?;
            if line.trim().is_empty() {
                continue;
            }
            let answered = answered(&line).with_context(|| place(&args.input, number)).user()?;
            serde_json::to_writer(&mut *file, &answered)?;
            file.write_all(b"\n")?;
            judged += 1;
        }
        Ok(())
    })?;
    println!("{judged} completions judged in {}", args.output.display());
    Ok(())
}

fn place(path: &Path, number: usize) -> String {
    format!("{}:{number}", path.display())
}

fn answered(line: &str) -> Result<Map<String, Value>> {
    let Value::Object(mut fields) = serde_json::from_str(line.trim_start_matches('\u{feff}'))? else {
        return Err(anyhow!("expected an object with solution, completion and scorers"));
    };
    let record: Record = serde_path_to_error::deserialize(Value::Object(fields.clone()))?;
    let breakdown = judge(&record).into_iter().map(|(scorer, value)| (scorer.name().to_owned(), Value::from(value)));
    fields.insert("breakdown".to_owned(), Value::Object(breakdown.collect()));
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_answered_by_itself_and_its_breakdown() {
        let line = r#"{"id": 3, "problem_type": "multiple choice", "solution": "<answer>B,C</answer>", "completion": "<answer>B</answer>",
            "scorers": ["accuracy", "soft-choice", "temporal-iou"]}"#;
        let answered = answered(line).unwrap();
        assert_eq!(answered["id"], 3);
        assert_eq!(
            answered["breakdown"],
            serde_json::json!({"accuracy": 0.0, "soft-choice": 0.5, "temporal-iou": null})
        );
    }

    #[test]
    fn a_line_that_is_no_record_is_told_by_its_field() {
        let error = |line: &str| format!("{:#}", answered(line).unwrap_err());
        let unknown = error(r#"{"solution": "B", "completion": "", "scorers": ["acuracy"]}"#);
        assert!(unknown.contains("scorers[0]") && unknown.contains("`accuracy`"), "{unknown}");
        assert!(error(r#"{"solution": "B", "scorers": []}"#).contains("missing field `completion`"));
        assert!(error("[1]").contains("expected an object"));
    }
}
