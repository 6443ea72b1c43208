//! How a question is put: prompt files.
//!
//! A prompt file is a TOML table of minijinja templates: `user`, and `system` if the chat template's own system message is
//! not to be used. They are filled in with `question`, `options` (each with `letter` and `text`), `problem` (the problem
//! type's name), `duration` (seconds) and `frames` (number of frames) of the first video, `subtitles` (lines that are
//! shown with those frames; empty if there are none) and `description` (what a description is asked by, where the data
//! set says).

use foveate_reward::ProblemType;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use serde::Deserialize;

use crate::{DataError, Example, letter};

/// A prompt file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    system: Option<String>,
    user: String,
}

/// The templates of a prompt.
#[derive(Debug, Clone)]
pub struct Prompts {
    name: String,
    environment: Environment<'static>,
    has_system: bool,
    tells_subtitles: bool,
}

/// What is known of an example's first video when its prompt is written.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Seen<'a> {
    /// Its length, or that of the part of it that is shown, seconds; two decimals are told.
    pub duration: f64,
    /// Times of its frames that are shown, seconds from its first.
    pub times: &'a [f64],
}

/// What is said to the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The system message; the chat template's own if none.
    pub system: Option<String>,
    /// The text after the media.
    pub user: String,
}

impl Prompts {
    /// Reads a prompt file's text; `name` is for messages.
    ///
    /// # Errors
    /// [`DataError::Prompt`]: the file is not a table of templates, a template is wrong, or it leaves the question out.
    pub fn parse(name: &str, text: &str) -> Result<Self, DataError> {
        let fault = |reason: String| DataError::Prompt { name: name.to_owned(), reason };
        let file: File = toml::from_str(text).map_err(|error| fault(error.to_string()))?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        environment.set_syntax(syntax.map_err(|error| fault(chain(&error)))?);
        let has_system = file.system.is_some();
        for (part, text) in [("user", Some(file.user)), ("system", file.system)] {
            if let Some(text) = text {
                environment.add_template_owned(part, text).map_err(|error| fault(chain(&error)))?;
            }
        }
        let tells_subtitles =
            environment.templates().any(|(_, template)| template.undeclared_variables(false).contains("subtitles"));
        let prompts = Self { name: name.to_owned(), environment, has_system, tells_subtitles };
        // Every type of problem, with options and without, so that what is wrong shows before anything is trained.
        let options = [Vec::new(), vec![String::new(); 2]];
        for (problem, options) in
            ProblemType::ALL.into_iter().flat_map(|problem| options.iter().map(move |o| (problem, o)))
        {
            let marked = Example { question: MARK.to_owned(), problem, options: options.clone(), ..Example::default() };
            if !prompts.fill(&marked, Seen::default())?.user.contains(MARK) {
                return Err(fault("user: expected {{ question }} in it".to_owned()));
            }
        }
        Ok(prompts)
    }

    /// Whether a template tells subtitles.
    pub fn tells_subtitles(&self) -> bool {
        self.tells_subtitles
    }

    /// What is said of an example.
    ///
    /// # Errors
    /// [`DataError::Prompt`]: a template asks for what there is not; or the example's subtitles cannot be read.
    pub fn fill(&self, example: &Example, seen: Seen<'_>) -> Result<Turn, DataError> {
        let option =
            |(index, text): (usize, &String)| Value::from_pairs([("letter", letter(index)), ("text", text.clone())]);
        let options: Vec<Value> = example.options.iter().enumerate().map(option).collect();
        let subtitles = match &example.subtitles {
            Some(file) if self.tells_subtitles => file.shown_at(seen.times)?,
            _ => String::new(),
        };
        let values = context! {
            question => &example.question,
            options => options,
            problem => example.problem.to_string(),
            duration => (100.0 * seen.duration).round() / 100.0,
            frames => seen.times.len(),
            subtitles => subtitles,
            description => &example.description,
        };
        let part = |part: &str| {
            let filled = self.environment.get_template(part).and_then(|template| template.render(&values));
            filled.map_err(|error| DataError::Prompt { name: self.name.clone(), reason: chain(&error) })
        };
        Ok(Turn { system: self.has_system.then(|| part("system")).transpose()?, user: part("user")? })
    }
}

/// A question that stands nowhere else.
const MARK: &str = "\u{1}question\u{1}";

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::Subtitles;

    fn example() -> Example {
        Example { question: "What falls?".into(), options: vec!["a cup".into(), "a book".into()], ..Example::default() }
    }

    const USER: &str =
        r#"user = "{{ question }}{% for o in options %}\n{{ o.letter }}. {{ o.text }}{% endfor %} Now.""#;

    #[test]
    fn a_prompt_lays_out_question_and_options() {
        let prompts = Prompts::parse("p", USER).unwrap();
        let turn = prompts.fill(&example(), Seen::default()).unwrap();
        assert_eq!(turn, Turn { system: None, user: "What falls?\nA. a cup\nB. a book Now.".into() });
        let open = prompts.fill(&Example { options: vec![], ..example() }, Seen::default()).unwrap();
        assert_eq!(open.user, "What falls? Now.");
    }

    #[test]
    fn a_prompt_may_tell_of_the_video_and_ask_by_problem_type() {
        let text = "system = \"{{ duration }} s, {{ frames }} frames\"\nuser = \"{% if problem == 'multiple choice' %}M{% endif %}{{ question }}\"";
        let seen = Seen { duration: 12.5, times: &[0.0; 16] };
        let turn = Prompts::parse("p", text).unwrap().fill(&example(), seen).unwrap();
        assert_eq!(turn, Turn { system: Some("12.5 s, 16 frames".into()), user: "MWhat falls?".into() });
    }

    #[test]
    fn a_prompt_may_tell_what_is_said_and_what_a_description_is_asked_by() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.srt");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"1\n00:00:01,000 --> 00:00:02,000\nHello").unwrap();
        let text = "user = \"{% if subtitles %}Said: {{ subtitles }}. {% endif %}{{ description or question }}\"";
        let prompts = Prompts::parse("p", text).unwrap();
        let said = Example { subtitles: Some(Subtitles { path, begin: 0.0 }), ..example() };
        let user = |times| prompts.fill(&said, Seen { times, ..Seen::default() }).unwrap().user;
        assert_eq!((user(&[1.5]), user(&[3.0])), ("Said: Hello. What falls?".into(), "What falls?".into()));
        let described = Example { description: Some("What is seen?".into()), ..example() };
        assert_eq!(prompts.fill(&described, Seen::default()).unwrap().user, "What is seen?");
    }

    #[test]
    fn a_wrong_prompt_file_is_named_with_what_is_wrong() {
        for (text, reason) in [
            ("user = \"{{ queston }}\"", "undefined value"),
            ("user = \"{{ question }}{% for o in options %}{{ o.txt }}{% endfor %}\"", "undefined value"),
            ("user = \"{{ question\"", "syntax error"),
            ("user = \"Look.\"", "expected {{ question }} in it"),
            ("usr = \"{{ question }}\"", "unknown field `usr`"),
        ] {
            let error = Prompts::parse("mine.toml", text).unwrap_err().to_string();
            assert!(error.starts_with("prompt mine.toml: ") && error.contains(reason), "{error}");
        }
    }
}
