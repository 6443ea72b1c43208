//! `config.json` of a Qwen2.5-VL directory, in the released flat layout and in the nested one of later libraries.

use std::path::Path;

use serde_json::Value;

use crate::PolicyError;

/// What `DIR/config.json` says the model is: `qwen2_5_vl`, `mamba2` ...; empty if it does not say.
///
/// # Errors
/// [`PolicyError::File`] if it cannot be read, [`PolicyError::Config`] if it is not JSON.
pub fn model_type(dir: &Path) -> Result<String, PolicyError> {
    #[derive(serde::Deserialize)]
    struct Named {
        #[serde(default)]
        model_type: String,
    }
    let path = dir.join("config.json");
    let named: Named =
        serde_json::from_value(read_json(&path)?).map_err(|error| PolicyError::config(&path, error.to_string()))?;
    Ok(named.model_type)
}

/// A JSON file as Python writes it, with `null` for its bare word for an infinite number, which JSON does not have.
pub(crate) fn read_json(path: &Path) -> Result<Value, PolicyError> {
    let text = std::fs::read_to_string(path).map_err(PolicyError::file(path))?;
    serde_json::from_str(&text.replace(" Infinity", " null"))
        .map_err(|error| PolicyError::config(path, error.to_string()))
}

/// Dimensions of the text decoder; field names as in `config.json`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are those of config.json")]
pub struct TextConfig {
    pub hidden_size: i64,
    pub intermediate_size: i64,
    pub num_hidden_layers: i64,
    pub num_attention_heads: i64,
    pub num_key_value_heads: i64,
    pub vocab_size: i64,
    pub max_position_embeddings: i64,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub mrope_section: [i64; 3],
    pub initializer_range: f64,
    pub tie_word_embeddings: bool,
}

impl TextConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> i64 {
        self.hidden_size / self.num_attention_heads
    }
}

/// Dimensions of the vision tower; field names as in `config.json`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are those of config.json")]
pub struct VisionConfig {
    pub depth: i64,
    pub hidden_size: i64,
    pub intermediate_size: i64,
    pub num_heads: i64,
    pub out_hidden_size: i64,
    pub patch_size: i64,
    pub temporal_patch_size: i64,
    pub spatial_merge_size: i64,
    pub window_size: i64,
    pub fullatt_block_indexes: Vec<i64>,
    pub tokens_per_second: f32,
    pub in_channels: i64,
}

impl VisionConfig {
    /// Numbers in one flattened patch: channels x temporal x patch x patch.
    pub fn patch_dim(&self) -> i64 {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Patches merged into one token.
    pub fn merge_area(&self) -> i64 {
        self.spatial_merge_size * self.spatial_merge_size
    }
}

/// A Qwen2.5-VL configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Text decoder.
    pub text: TextConfig,
    /// Vision tower.
    pub vision: VisionConfig,
    /// Id of `<|image_pad|>`.
    pub image_token_id: i64,
    /// Id of `<|video_pad|>`.
    pub video_token_id: i64,
    /// Id of `<|vision_start|>`.
    pub vision_start_token_id: i64,
    /// Id of `<|vision_end|>`.
    pub vision_end_token_id: i64,
}

impl ModelConfig {
    /// Reads `DIR/config.json`. A missing field is an error that names it, except the constants of the architecture
    /// that released files leave out.
    ///
    /// # Errors
    /// [`PolicyError::File`] if it cannot be read, [`PolicyError::Config`] if it is not a Qwen2.5-VL configuration.
    pub fn from_dir(dir: &Path) -> Result<Self, PolicyError> {
        let path = dir.join("config.json");
        Self::from_json(&read_json(&path)?).map_err(|problem| PolicyError::config(&path, problem))
    }

    pub(crate) fn from_json(root: &Value) -> Result<Self, String> {
        let model_type = root.get("model_type").and_then(Value::as_str).unwrap_or("");
        if model_type != "qwen2_5_vl" {
            return Err(format!("model_type: expected \"qwen2_5_vl\", found {model_type:?}"));
        }
        // The released files keep the text decoder's fields at the top, later ones under `text_config`.
        let nested = root.get("text_config").is_some();
        let text =
            Section::new(if nested { &root["text_config"] } else { root }, if nested { "text_config." } else { "" });
        let vision = Section::new(&root["vision_config"], "vision_config.");
        let top = Section::new(root, "");
        let config = Self {
            text: text_config(&text, &top)?,
            vision: vision_config(&vision)?,
            image_token_id: top.int("image_token_id")?,
            video_token_id: top.int("video_token_id")?,
            vision_start_token_id: top.int("vision_start_token_id")?,
            vision_end_token_id: top.int("vision_end_token_id")?,
        };
        config.check()?;
        Ok(config)
    }

    /// Refuses what libtorch would, or what overflows, before it gets there.
    fn check(&self) -> Result<(), String> {
        self.check_sizes()?;
        let (t, v) = (&self.text, &self.vision);
        let half = t.head_dim() / 2;
        let mrope = t.mrope_section.iter().all(|width| (0..=half).contains(width));
        let positive = |x: f64| x > 0.0 && (x as f32).is_finite();
        let rules = [
            (t.hidden_size % t.num_attention_heads == 0, "hidden_size must be a multiple of num_attention_heads"),
            (t.head_dim() % 2 == 0, "hidden_size / num_attention_heads, the head dimension, must be even"),
            (
                t.num_attention_heads % t.num_key_value_heads == 0,
                "num_attention_heads must be a multiple of num_key_value_heads",
            ),
            (
                mrope && t.mrope_section.iter().sum::<i64>() == half,
                "mrope_section must be three numbers of at least 0 that sum to half the head dimension",
            ),
            (positive(t.rope_theta), "rope_theta must be a positive number"),
            (positive(t.rms_norm_eps), "rms_norm_eps must be a positive number"),
            (t.initializer_range >= 0.0, "initializer_range must not be negative"),
            (v.hidden_size % (v.num_heads * 4) == 0, "vision_config: the head dimension must be a multiple of 4"),
            (v.out_hidden_size == t.hidden_size, "vision_config.out_hidden_size must equal hidden_size"),
            (
                v.window_size >= v.patch_size * v.spatial_merge_size,
                "vision_config.window_size must hold a merged patch",
            ),
            (positive(v.tokens_per_second.into()), "vision_config.tokens_per_second must be a positive number"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err((*rule).into()),
            None => Ok(()),
        }
    }

    fn check_sizes(&self) -> Result<(), String> {
        let (t, v) = (&self.text, &self.vision);
        let large = i64::from(i32::MAX);
        let small = 4096; // products of four of these are formed
        let sizes = [
            ("hidden_size", t.hidden_size, large),
            ("intermediate_size", t.intermediate_size, large),
            ("num_hidden_layers", t.num_hidden_layers, large),
            ("num_attention_heads", t.num_attention_heads, large),
            ("num_key_value_heads", t.num_key_value_heads, large),
            ("vocab_size", t.vocab_size, large),
            ("max_position_embeddings", t.max_position_embeddings, large),
            ("vision_config.depth", v.depth, large),
            ("vision_config.hidden_size", v.hidden_size, large),
            ("vision_config.intermediate_size", v.intermediate_size, large),
            ("vision_config.num_heads", v.num_heads, large),
            ("vision_config.window_size", v.window_size, large),
            ("vision_config.patch_size", v.patch_size, small),
            ("vision_config.spatial_merge_size", v.spatial_merge_size, small),
            ("vision_config.temporal_patch_size", v.temporal_patch_size, small),
            ("vision_config.in_channels", v.in_channels, small),
        ];
        if let Some((name, value, most)) = sizes.iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
            return Err(format!("{name}: expected a number from 1 to {most}, found {value}"));
        }
        let ids = [
            ("image_token_id", self.image_token_id),
            ("video_token_id", self.video_token_id),
            ("vision_start_token_id", self.vision_start_token_id),
            ("vision_end_token_id", self.vision_end_token_id),
        ];
        match ids.iter().find(|(_, id)| !(0..t.vocab_size).contains(id)) {
            Some((name, id)) => Err(format!("{name}: expected an id below vocab_size {}, found {id}", t.vocab_size)),
            None => Ok(()),
        }
    }
}

fn text_config(text: &Section, top: &Section) -> Result<TextConfig, String> {
    if text.value.get("use_sliding_window").and_then(Value::as_bool) == Some(true) {
        return Err("use_sliding_window: expected false, found true (sliding windows are not supported)".into());
    }
    let rope = ["rope_parameters", "rope_scaling"]
        .iter()
        .find_map(|name| text.value.get(*name).filter(|v| v.is_object()))
        .ok_or_else(|| format!("missing field {}rope_scaling (or rope_parameters)", text.prefix))?;
    let section = rope
        .get("mrope_section")
        .and_then(|v| serde_json::from_value::<[i64; 3]>(v.clone()).ok())
        .ok_or("missing field mrope_section (three numbers) in rope_scaling")?;
    let theta = rope.get("rope_theta").or_else(|| text.value.get("rope_theta")).and_then(Value::as_f64);
    Ok(TextConfig {
        hidden_size: text.int("hidden_size")?,
        intermediate_size: text.int("intermediate_size")?,
        num_hidden_layers: text.int("num_hidden_layers")?,
        num_attention_heads: text.int("num_attention_heads")?,
        num_key_value_heads: text.int("num_key_value_heads")?,
        vocab_size: text.int("vocab_size")?,
        max_position_embeddings: text.int("max_position_embeddings")?,
        rms_norm_eps: text.float("rms_norm_eps")?,
        rope_theta: theta.ok_or("missing field rope_theta")?,
        mrope_section: section,
        initializer_range: text.float("initializer_range")?,
        tie_word_embeddings: text.bool("tie_word_embeddings").or_else(|_| top.bool("tie_word_embeddings"))?,
    })
}

fn vision_config(vision: &Section) -> Result<VisionConfig, String> {
    let channels = ["in_channels", "in_chans"].iter().find_map(|name| vision.int(name).ok());
    let blocks = vision.value.get("fullatt_block_indexes").cloned().unwrap_or_default();
    Ok(VisionConfig {
        depth: vision.int("depth")?,
        hidden_size: vision.int("hidden_size")?,
        intermediate_size: vision.int("intermediate_size")?,
        num_heads: vision.int("num_heads")?,
        out_hidden_size: vision.int("out_hidden_size")?,
        patch_size: vision.int("patch_size")?,
        temporal_patch_size: vision.int("temporal_patch_size")?,
        spatial_merge_size: vision.int("spatial_merge_size")?,
        window_size: vision.int("window_size")?,
        fullatt_block_indexes: serde_json::from_value(blocks)
            .map_err(|_| "missing field vision_config.fullatt_block_indexes (a list of numbers)".to_owned())?,
        tokens_per_second: vision.float("tokens_per_second")? as f32,
        in_channels: channels.unwrap_or(3),
    })
}

struct Section<'a> {
    value: &'a Value,
    prefix: &'a str,
}

impl<'a> Section<'a> {
    fn new(value: &'a Value, prefix: &'a str) -> Self {
        Self { value, prefix }
    }

    fn field<T>(&self, name: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T, String> {
        let prefix = self.prefix;
        match self.value.get(name) {
            None => Err(format!("missing field {prefix}{name} ({expected})")),
            Some(value) => read(value).ok_or_else(|| format!("{prefix}{name}: expected {expected}, found {value}")),
        }
    }

    fn int(&self, name: &str) -> Result<i64, String> {
        self.field(name, "a whole number", Value::as_i64)
    }

    fn float(&self, name: &str) -> Result<f64, String> {
        self.field(name, "a number", Value::as_f64)
    }

    fn bool(&self, name: &str) -> Result<bool, String> {
        self.field(name, "true or false", Value::as_bool)
    }
}
