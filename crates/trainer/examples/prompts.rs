//! Prints the prompts of a record file as a model would be given them.
//!
//! `cargo run -p trainer --example prompts -- RECORDS.jsonl [COUNT]`; without arguments, of two records of its own.

use std::path::{Path, PathBuf};

use anyhow::Result;
use trainer::config::DataTable;
use trainer::data::{Records, Template};
use trainer::run::write_atomically;

const RECORDS: &str = r#"{"id": "a", "video": "a.mp4", "question": "What falls?", "options": ["A. a cup", "B. a book"], "answer": "B"}
{"id": "b", "image": ["b.png"], "question": "How many?", "answer": "3"}
"#;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().map_or_else(own, |path| Ok(PathBuf::from(path)))?;
    let count = arguments.next().map_or(Ok(3), |count| count.parse())?;

    let records = Records::open(&path, None)?;
    let template = Template::parse(&DataTable::default().prompt)?;
    for index in 0..records.len().min(count) {
        let example = records.get(index)?;
        println!("== {} ({}), answer {}", example.id, records.place(index), example.answer);
        for media in &example.media {
            println!("{media:?}");
        }
        println!("{}\n", template.fill(&example));
    }
    Ok(())
}

/// A file with the records above.
fn own() -> Result<PathBuf> {
    let path: &Path = &std::env::temp_dir().join("foveate-prompts.jsonl");
    write_atomically(path, RECORDS.as_bytes())?;
    Ok(path.to_owned())
}
