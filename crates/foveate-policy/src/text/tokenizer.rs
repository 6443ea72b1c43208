//! The tokenizer of a model directory, and its special tokens.

use std::path::Path;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::TextError;

/// A tokenizer whose ids are `i64`, as tensors have them.
#[derive(Debug)]
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    /// Spellings of all tokens marked special, by id.
    special: Vec<(i64, String)>,
}

impl TextTokenizer {
    pub(super) fn load(path: &Path) -> Result<Self, TextError> {
        let bytes = std::fs::read(path).map_err(|source| TextError::File { path: path.to_owned(), source })?;
        Self::parse(path, &bytes)
    }

    /// From the contents of a `tokenizer.json`; the path is for messages.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, TextError> {
        let tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| TextError::Content {
            path: path.to_owned(),
            problem: format!("not a tokenizer: {error}"),
        })?;
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special);
        let mut special: Vec<_> = special.map(|(id, token)| (i64::from(*id), token.content.clone())).collect();
        special.sort();
        Ok(Self { tokenizer, special })
    }

    /// Ids of a text. Nothing is added; a special token in it becomes its id.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<i64>, TextError> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(failed)?;
        Ok(encoding.get_ids().iter().map(|id| i64::from(*id)).collect())
    }

    /// Text of ids, without special tokens.
    pub(super) fn decode(&self, ids: &[i64]) -> Result<String, TextError> {
        let ids = ids
            .iter()
            .map(|id| u32::try_from(*id).map_err(|_| TextError::Tokenizer(format!("expected a token id, found {id}"))))
            .collect::<Result<Vec<_>, _>>()?;
        self.tokenizer.decode(&ids, true).map_err(failed)
    }

    /// Text of one token, special ones included; of a token that is part of a character only, its spelling in the file.
    pub(super) fn spelling(&self, id: i64) -> Result<String, TextError> {
        let unknown = || TextError::Tokenizer(format!("expected a token id, found {id}"));
        let id = u32::try_from(id).map_err(|_| unknown())?;
        let text = self.tokenizer.decode(&[id], false).map_err(failed)?;
        if text.is_empty() || text.contains(char::REPLACEMENT_CHARACTER) {
            return self.tokenizer.id_to_token(id).ok_or_else(unknown);
        }
        Ok(text)
    }

    /// The first special token, or token among `more`, whose spelling the text contains.
    pub(super) fn special_token_in(&self, text: &str, more: &[i64]) -> Option<String> {
        let more = more.iter().filter_map(|id| self.tokenizer.id_to_token(u32::try_from(*id).ok()?));
        let all = self.special.iter().map(|(_, token)| token.clone()).chain(more);
        all.into_iter().find(|token| !token.is_empty() && text.contains(token.as_str()))
    }
}

fn failed(error: tokenizers::Error) -> TextError {
    TextError::Tokenizer(error.to_string())
}

/// Ids that mean something to the model.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    /// Stands for one merged patch of an image.
    pub(super) image: i64,
    /// Stands for one merged patch of a video.
    pub(super) video: i64,
    /// All vision tokens: both pads, start and end.
    pub(super) vision: Vec<i64>,
    /// End of a completion.
    pub(super) eos: Vec<i64>,
}

impl SpecialTokens {
    /// From `config.json`, and `generation_config.json` where there is one.
    pub(super) fn load(dir: &Path, config: &Value) -> Result<Self, TextError> {
        let missing = |field: &str| TextError::Content {
            path: dir.join("config.json"),
            problem: format!("{field} is missing, expected a token id"),
        };
        let id = |field: &str| config.get(field).and_then(Value::as_i64).ok_or_else(|| missing(field));
        let (image, video) = (id("image_token_id")?, id("video_token_id")?);
        let vision = vec![image, video, id("vision_start_token_id")?, id("vision_end_token_id")?];
        let generation = super::json(&dir.join("generation_config.json"))?;
        let stated = |value: Option<&Value>| value.map(ids).filter(|ids| !ids.is_empty());
        let eos = stated(generation.as_ref().and_then(|generation| generation.get("eos_token_id")))
            .or_else(|| stated(config.get("eos_token_id")))
            .or_else(|| stated(config.pointer("/text_config/eos_token_id")))
            .ok_or_else(|| missing("eos_token_id (here or in generation_config.json)"))?;
        Ok(Self { image, video, vision, eos })
    }
}

/// One id or a list of them.
fn ids(value: &Value) -> Vec<i64> {
    match value {
        Value::Array(list) => list.iter().filter_map(Value::as_i64).collect(),
        single => single.as_i64().into_iter().collect(),
    }
}
