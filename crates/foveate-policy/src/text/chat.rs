//! Chat templates as Hugging Face writes them: Jinja that calls Python's string methods.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};
use serde_json::Value as Json;

use super::{Content, Message, TextError};

const NAME: &str = "chat";

/// A compiled chat template.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// The directory's template, looked for as transformers' processors do: `chat_template.jinja`, `chat_template.json`,
    /// `tokenizer_config.json`.
    pub(super) fn load(dir: &Path) -> Result<Self, TextError> {
        if let Some(source) = super::text(&dir.join("chat_template.jinja"))? {
            return Self::new(source);
        }
        for file in ["chat_template.json", "tokenizer_config.json"] {
            if let Some(config) = super::json(&dir.join(file))?
                && let Some(source) = template_in(&config)
            {
                return Self::new(source.to_owned());
            }
        }
        Err(TextError::NoTemplate { path: dir.to_owned() })
    }

    /// Compiles a template's source, with the white-space rules that transformers gives Jinja.
    pub(super) fn new(source: String) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(template_error)?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned(NAME, source).map_err(template_error)?;
        Ok(Self { environment })
    }

    /// The conversation as text, ending where the assistant's turn begins.
    pub(super) fn render(&self, messages: &[Message]) -> Result<String, TextError> {
        let messages: Vec<Value> = messages.iter().map(turn).collect();
        let template = self.environment.get_template(NAME).map_err(template_error)?;
        template.render(context! { messages, add_generation_prompt => true }).map_err(template_error)
    }
}

/// The `chat_template` of a config: a string, or the default one of a list of named ones.
fn template_in(config: &Json) -> Option<&str> {
    match config.get("chat_template")? {
        Json::String(source) => Some(source),
        Json::Array(named) => {
            let default = named.iter().find(|one| one.get("name").and_then(Json::as_str) == Some("default"))?;
            default.get("template")?.as_str()
        }
        _ => None,
    }
}

/// A message as templates expect it: its content is a string if it is one text, else a list of typed parts.
fn turn(message: &Message) -> Value {
    let content = match message.content.as_slice() {
        [Content::Text(text)] => Value::from(text.as_str()),
        parts => parts.iter().map(part).collect(),
    };
    context! { role => message.role.as_str(), content }
}

fn part(content: &Content) -> Value {
    match content {
        Content::Text(text) => context! { type => "text", text },
        Content::Video => context! { type => "video" },
        Content::Image => context! { type => "image" },
    }
}

fn template_error(error: minijinja::Error) -> TextError {
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    TextError::Template(format!("{detail}{line}"))
}
