//! The text of a prompt.

use anyhow::Result;

use super::Example;
use crate::error::{nearest, user_error};

const FIELDS: [&str; 2] = ["question", "options"];

/// A prompt text with `{question}` and `{options}` to fill in.
#[derive(Debug, Clone)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Question,
    Options,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// A user error: a `{field}` that does not exist, or no `{question}`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, name, after)) = field(rest) {
            parts.push(Part::Text(before.to_owned()));
            parts.push(match name {
                "question" => Part::Question,
                "options" => Part::Options,
                _ => {
                    let near = nearest(name, FIELDS).unwrap_or("question");
                    return Err(user_error(format!("data.prompt: unknown field {{{name}}}; did you mean {{{near}}}?")));
                }
            });
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        if !parts.contains(&Part::Question) {
            return Err(user_error("data.prompt: expected {question} in it"));
        }
        Ok(Self { parts })
    }

    /// The text for an example. Without options, a line that would hold nothing but them is left out.
    pub fn fill(&self, example: &Example) -> String {
        let mut text = String::new();
        let mut parts = self.parts.iter().peekable();
        while let Some(part) = parts.next() {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Question => text.push_str(&example.question),
                Part::Options if example.options.is_empty() => {
                    if (text.is_empty() || text.ends_with('\n'))
                        && let Some(Part::Text(next)) = parts.peek()
                        && let Some(after) = next.strip_prefix('\n')
                    {
                        text.push_str(after);
                        parts.next();
                    }
                }
                Part::Options => text.push_str(&example.options.join("\n")),
            }
        }
        text
    }
}

/// The first `{word}` of a text, with what stands before and after it. Other braces are plain text.
fn field(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    loop {
        let open = from + text[from..].find('{')?;
        let inner = &text[open + 1..];
        let end = inner.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
        if end > 0 && inner[end..].starts_with('}') {
            return Some((&text[..open], &inner[..end], &inner[end + 1..]));
        }
        from = open + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::one_line;

    fn example(options: &[&str]) -> Example {
        Example {
            question: "What {colour}?".into(),
            options: options.iter().map(|option| (*option).into()).collect(),
            ..Example::default()
        }
    }

    #[test]
    fn question_and_options_are_filled_in_once() {
        let template = Template::parse("Q: {question}\n{options}\nAnswer { in } <answer>.").unwrap();
        assert_eq!(
            template.fill(&example(&["A. red", "B. {options}"])),
            "Q: What {colour}?\nA. red\nB. {options}\nAnswer { in } <answer>."
        );
    }

    #[test]
    fn a_line_for_options_disappears_without_them() {
        let template = Template::parse("{question}\n{options}\nThink.").unwrap();
        assert_eq!(template.fill(&example(&[])), "What {colour}?\nThink.");
    }

    #[test]
    fn a_mistyped_field_is_named_with_the_nearest_one() {
        let error = Template::parse("{question} {option}").unwrap_err();
        assert_eq!(one_line(&error), "data.prompt: unknown field {option}; did you mean {options}?");
        assert!(Template::parse("no question").is_err());
    }
}
