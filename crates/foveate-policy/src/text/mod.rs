//! Text in and out: the directory's tokenizer, its chat template, and prompts with their media pads expanded.

mod chat;
mod tokenizer;

use std::path::{Path, PathBuf};

use serde_json::Value;

use self::chat::ChatTemplate;
use self::tokenizer::SpecialTokens;
pub(crate) use self::tokenizer::TextTokenizer;
use crate::input::{Media, Prompt};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What the turn consists of, in order.
    pub content: Vec<Content>,
}

/// A part of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Plain text, free of special tokens.
    Text(String),
    /// The next medium, which is a video.
    Video,
    /// The next medium, which is an image.
    Image,
}

/// What can go wrong with text.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file of the model directory cannot be read.
    #[error("cannot access {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file of the model directory does not hold what is expected there.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// The model directory has no chat template.
    #[error("{}: no chat template: expected chat_template.jinja, chat_template.json or one in tokenizer_config.json", path.display())]
    NoTemplate {
        /// The model directory.
        path: PathBuf,
    },
    /// The chat template refuses the conversation or is itself wrong.
    #[error("chat template: {0}")]
    Template(String),
    /// The tokenizer failed.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A text holds the spelling of a special token, which would be read as the token itself.
    #[error("the {role} text contains the special token {token}: expected plain text")]
    SpecialToken {
        /// Whose turn it is.
        role: String,
        /// The token's text.
        token: String,
    },
    /// The rendered prompt has not one placeholder per medium, in the media's order.
    #[error("the prompt has placeholders for [{placeholders}], but the media are [{media}]")]
    Media {
        /// Kinds of the placeholders, in order.
        placeholders: String,
        /// Kinds of the media, in order.
        media: String,
    },
    /// A medium's grid cannot be merged.
    #[error(
        "a grid of {t} x {h} x {w} patches: expected at least one frame, and height and width in multiples of {merge}"
    )]
    Grid {
        /// Temporal size.
        t: usize,
        /// Height in patches.
        h: usize,
        /// Width in patches.
        w: usize,
        /// Patches merged on each side.
        merge: usize,
    },
}

/// Tokenizer, chat template and special tokens of a model directory.
#[derive(Debug)]
pub struct TextProcessor {
    tokenizer: TextTokenizer,
    template: ChatTemplate,
    special: SpecialTokens,
    merge: usize,
}

impl TextProcessor {
    /// Reads `tokenizer.json`, the chat template, `config.json` (ids of the vision tokens, merge size), and, where there,
    /// `generation_config.json` (end-of-sequence ids) and `preprocessor_config.json` (merge size).
    ///
    /// # Errors
    /// If a file is missing or unreadable, or lacks a field.
    pub fn load(dir: &Path) -> Result<Self, TextError> {
        let config = dir.join("config.json");
        let config = json(&config)?.ok_or_else(|| TextError::Content {
            path: config,
            problem: "no such file: expected a model directory".into(),
        })?;
        Ok(Self {
            tokenizer: TextTokenizer::load(&dir.join("tokenizer.json"))?,
            template: ChatTemplate::load(dir)?,
            special: SpecialTokens::load(dir, &config)?,
            merge: merge_size(dir, &config)?,
        })
    }

    /// The conversation up to where the assistant's turn begins, tokenized, with each placeholder expanded to one pad
    /// token per merged patch of its medium.
    ///
    /// # Errors
    /// If a text contains a special token, the template refuses the conversation, placeholders and media do not
    /// agree in number and kind, or a grid is not a multiple of the merge size.
    pub fn prompt(&self, messages: &[Message], media: Vec<Media>) -> Result<Prompt, TextError> {
        for message in messages {
            self.refuse_special_tokens(message)?;
        }
        let text = self.template.render(messages)?;
        let ids = self.tokenizer.encode(&text)?;
        let is_pad = |id: &&i64| **id == self.special.video || **id == self.special.image;
        let found: Vec<i64> = ids.iter().filter(is_pad).copied().collect();
        let given: Vec<i64> = media.iter().map(|medium| self.pad(medium)).collect();
        if found != given {
            return Err(TextError::Media { placeholders: self.kinds(&found), media: self.kinds(&given) });
        }
        let mut counts =
            media.iter().map(|medium| self.merged_patches(medium)).collect::<Result<Vec<_>, _>>()?.into_iter();
        let repeat = |id: i64| {
            let count = if is_pad(&&id) { counts.next().unwrap_or_default() } else { 1 };
            std::iter::repeat_n(id, count)
        };
        Ok(Prompt { ids: ids.into_iter().flat_map(repeat).collect(), media })
    }

    /// Token ids of a text as it stands: no template, and special tokens are recognised by their spelling.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>, TextError> {
        self.tokenizer.encode(text)
    }

    /// The text of tokens, without the special ones.
    ///
    /// # Errors
    /// If an id is negative, or the tokenizer fails.
    pub fn decode(&self, ids: &[i64]) -> Result<String, TextError> {
        self.tokenizer.decode(ids)
    }

    /// The text of one token as people are shown it: special tokens too, and of a token that holds but a part of a
    /// character its spelling in the tokenizer's file.
    ///
    /// # Errors
    /// If there is no such token.
    pub fn spelling(&self, id: i64) -> Result<String, TextError> {
        self.tokenizer.spelling(id)
    }

    /// Tokens that end a completion; the first is the one to train on.
    pub fn eos_ids(&self) -> &[i64] {
        &self.special.eos
    }

    fn refuse_special_tokens(&self, message: &Message) -> Result<(), TextError> {
        for content in &message.content {
            if let Content::Text(text) = content
                && let Some(token) = self.tokenizer.special_token_in(text, &self.special.vision)
            {
                return Err(TextError::SpecialToken { role: message.role.clone(), token });
            }
        }
        Ok(())
    }

    fn pad(&self, medium: &Media) -> i64 {
        match medium {
            Media::Video(_) => self.special.video,
            Media::Image(_) => self.special.image,
        }
    }

    fn kinds(&self, pads: &[i64]) -> String {
        let kind = |pad: &i64| if *pad == self.special.video { "video" } else { "image" };
        pads.iter().map(kind).collect::<Vec<_>>().join(", ")
    }

    fn merged_patches(&self, medium: &Media) -> Result<usize, TextError> {
        let (grid, merge) = (medium.patches().grid, self.merge);
        let tokens = grid.t * (grid.h / merge) * (grid.w / merge);
        if tokens == 0 || grid.h % merge != 0 || grid.w % merge != 0 {
            return Err(TextError::Grid { t: grid.t, h: grid.h, w: grid.w, merge });
        }
        Ok(tokens)
    }
}

/// Patches merged on each side: the preprocessor's, or else the vision tower's.
fn merge_size(dir: &Path, config: &Value) -> Result<usize, TextError> {
    let preprocessor = json(&dir.join("preprocessor_config.json"))?;
    let size = preprocessor
        .as_ref()
        .and_then(|preprocessor| preprocessor.get("merge_size"))
        .or_else(|| config.pointer("/vision_config/spatial_merge_size"))
        .and_then(Value::as_u64)
        .filter(|size| *size > 0);
    size.and_then(|size| usize::try_from(size).ok()).ok_or_else(|| TextError::Content {
        path: dir.join("config.json"),
        problem: "vision_config.spatial_merge_size is missing, and so is merge_size in preprocessor_config.json".into(),
    })
}

/// A file's text; `None` if there is no such file.
fn text(path: &Path) -> Result<Option<String>, TextError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::File { path: path.to_owned(), source }),
    }
}

/// A JSON file's value; `None` if there is no such file.
fn json(path: &Path) -> Result<Option<Value>, TextError> {
    let parse = |text: String| {
        serde_json::from_str(&text)
            .map_err(|error| TextError::Content { path: path.to_owned(), problem: format!("not valid JSON: {error}") })
    };
    text(path)?.map(parse).transpose()
}

#[cfg(test)]
mod tests;
