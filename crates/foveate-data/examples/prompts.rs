//! Prints the prompts of a data set's file as a policy would be given them.
//!
//! `cargo run -p foveate-data --example prompts -- video-r1 train.json configs/prompts/think-aloud.toml [COUNT]`

use std::error::Error;
use std::path::Path;

use foveate_data::{Format, Prompts, Records, Seen};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [format, file, prompt, more @ ..] = arguments.as_slice() else {
        return Err("expected a data set, its file and a prompt file".into());
    };
    let count = more.first().map_or(Ok(3), |count| count.parse())?;
    let records = Records::open(Path::new(file), format.parse::<Format>()?, None)?;
    let prompts = Prompts::parse(prompt, &std::fs::read_to_string(prompt)?)?;
    for index in 0..records.len().min(count) {
        let example = records.get(index)?;
        println!("== {} ({}), answer {}", example.id, records.place(index), example.answer);
        for medium in &example.media {
            println!("{medium:?}");
        }
        // Length and frames are known once the video was opened.
        let turn = prompts.fill(&example, Seen::default())?;
        turn.system.iter().for_each(|system| println!("[system] {system}"));
        println!("{}\n", turn.user);
    }
    Ok(())
}
