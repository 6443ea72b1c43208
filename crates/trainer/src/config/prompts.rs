//! Prompt files: those compiled into the program, and a user's own.

use std::path::Path;

use anyhow::Result;
use foveate_data::Prompts;

use crate::error::{UserContext, nearest, user_error};

macro_rules! files {
    ($($name:literal)*) => {
        const NAMES: &[&str] = &[$($name),*];

        const TEXTS: &[&str] = &[$(include_str!(concat!("../../../../configs/prompts/", $name, ".toml"))),*];
    };
}

files!("appo" "appo-grounding" "tw-grpo" "refocus" "think-aloud" "when" "subtitles" "describe" "plain" "question" "scenes");

/// The prompt of this name, or of this file; `setting` is for messages.
///
/// # Errors
/// A user error: no such prompt, or something is wrong with the file.
pub fn prompts(setting: &str, name: &str) -> Result<Prompts> {
    Prompts::parse(name, &prompt_text(setting, name)?).user()
}

/// The same as it is written.
///
/// # Errors
/// A user error: no such prompt, or the file cannot be read.
pub fn prompt_text(setting: &str, name: &str) -> Result<String> {
    if let Some(at) = NAMES.iter().position(|known| *known == name) {
        return Ok(TEXTS[at].to_owned());
    }
    let path = Path::new(name);
    if path.extension().is_some_and(|end| end == "toml") {
        return fs_err::read_to_string(path).user();
    }
    let near = nearest(name, NAMES.iter().copied()).map_or(String::new(), |near| format!("; did you mean {near}?"));
    let known = NAMES.join(", ");
    Err(user_error(format!("{setting}: expected one of {known}, or a .toml file; found {name:?}{near}")))
}

#[cfg(test)]
mod tests {
    use foveate_data::{Example, Seen};

    use super::*;

    fn example() -> Example {
        let options = vec!["red".to_owned(), "blue".to_owned()];
        Example { question: "Which?".into(), options, ..Example::default() }
    }

    #[test]
    fn the_papers_prompts_are_theirs_to_the_letter() {
        let said = |name: &str| {
            prompts("data.prompt", name)
                .unwrap()
                .fill(&example(), Seen { duration: 12.5, times: &[0.0; 16] })
                .unwrap()
                .user
        };
        assert_eq!(
            said("appo"),
            "Which?\nA. red\nB. blue Output the thinking process in <think> </think> and final answer in <answer> </answer> \
            tags, i.e., <think> reasoning process here </think><answer> answer here </answer>."
        );
        assert_eq!(
            said("appo-grounding"),
            "The video is 12.5 seconds long, with 16 frames evenly sampled from it.\nBased on the video content, think about \
            the question deeply, select the correct option, and provide ONE or MORE time periods in the video where the clues \
            corresponding to the correct option occur.\nQuestion: Which?\nA. red\nB. blue\nOutput the thinking process in \
            <think> </think> tags, final answer in <answer> </answer> tags and time clues in <time> </time> tags, i.e., <think> \
            reasoning process here </think> <answer> answer here </answer> <time> 8.4 to 12.5, 25 to 30.2 </time>"
        );
        assert_eq!(
            said("tw-grpo"),
            "Which?\nA red\nB blue\nOutput the thinking process in <think></think> and the final answer (letters separated by \
            commas, if multiple) in <answer></answer> tags."
        );
        assert_eq!(said("refocus"), "Which?\nOptions:\nA. red\nB. blue");
        assert_eq!((said("scenes"), said("question")), ("Which?\nA.red\nB.blue".into(), "Which?".into()));
    }

    #[test]
    fn every_file_of_the_folder_is_compiled_in() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/prompts");
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        let mut known: Vec<&str> = NAMES.to_vec();
        found.sort();
        known.sort_unstable();
        assert_eq!(found, known);
        assert!(NAMES.iter().all(|name| prompts("data.prompt", name).is_ok()));
    }

    #[test]
    fn an_unknown_prompt_is_an_error_with_the_nearest() {
        let error = prompts("scorer.prompt", "apo").unwrap_err().to_string();
        assert!(
            error.starts_with("scorer.prompt: ")
                && error.contains("did you mean appo?")
                && error.contains("think-aloud"),
            "{error}"
        );
        assert!(prompts("data.prompt", "/no/such.toml").is_err());
    }
}
