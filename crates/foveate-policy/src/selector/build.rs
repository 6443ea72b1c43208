//! Selector directories: `config.json`, `model.safetensors`, the backbone's tokenizer and the tower's preprocessing.

use std::cell::RefCell;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{Heads, Selector};
use crate::{
    LoadOptions, MambaConfig, ModelConfig, PolicyError,
    backbone::Backbone,
    companions::Companions,
    config::{VisionConfig, read_json},
    features::FeatureCache,
    mamba::MambaBackbone,
    qwen::{Linear, TextBackbone, vision::VisionTower},
    text::TextTokenizer,
    weights::{Init, Weights},
};

/// What `config.json` of a selector says.
#[derive(Debug, Clone)]
pub struct SelectorConfig {
    /// Neighbouring tokens of a frame that are averaged into one, on each side.
    pub pool: i64,
    /// The frozen vision tower.
    pub vision: VisionConfig,
    backbone: BackboneConfig,
}

#[derive(Debug, Clone)]
enum BackboneConfig {
    Mamba(MambaConfig),
    Text(crate::TextConfig),
}

/// What a new selector is made from: the vision tower of one directory and the backbone of another, whose last two layers
/// begin anew with their norms at 0.1, and new heads (appendix B.2). The tokenizer is the backbone's, or if it has none
/// the tower's. Same seed, same weights.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// A Qwen2.5-VL directory.
    pub tower: &'a Path,
    /// A Mamba-2 or Qwen2.5-VL directory.
    pub backbone: &'a Path,
    /// Whether the backbone's weights are read; else they are random, and only its `config.json` is.
    pub pretrained: bool,
    /// Neighbouring tokens of a frame that are averaged into one, on each side.
    pub pool: i64,
    /// Of everything that begins anew.
    pub seed: i64,
}

/// The file itself: the configurations of the models that a selector was made from, as they stood.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    model_type: String,
    pool: i64,
    vision: Value,
    backbone: Value,
}

/// `model_type` of a selector's `config.json`.
pub const SELECTOR_TYPE: &str = "foveate-selector";

/// Layers at the end of a backbone that begin anew, and what their norms' weights begin at (appendix B.2).
const FRESH: (i64, f64) = (2, 0.1);

impl SelectorConfig {
    fn new(file: &File) -> Result<Self, String> {
        if file.model_type != SELECTOR_TYPE {
            return Err(format!("model_type: expected {SELECTOR_TYPE:?}, found {:?}", file.model_type));
        }
        if !(1..=64).contains(&file.pool) {
            return Err(format!("pool: expected a number from 1 to 64, found {}", file.pool));
        }
        let vision = ModelConfig::from_json(&file.vision).map_err(|problem| format!("vision: {problem}"))?.vision;
        let backbone = match file.backbone.get("model_type").and_then(Value::as_str) {
            Some("mamba2") => MambaConfig::from_json(&file.backbone).map(BackboneConfig::Mamba),
            Some("qwen2_5_vl") => ModelConfig::from_json(&file.backbone).map(|found| BackboneConfig::Text(found.text)),
            found => Err(format!("model_type: expected \"mamba2\" or \"qwen2_5_vl\", found {found:?}")),
        };
        Ok(Self { pool: file.pool, vision, backbone: backbone.map_err(|problem| format!("backbone: {problem}"))? })
    }

    fn backbone(&self, weights: &Weights) -> Box<dyn Backbone> {
        match &self.backbone {
            BackboneConfig::Mamba(config) => Box::new(MambaBackbone::new(weights, config)),
            BackboneConfig::Text(config) => Box::new(TextBackbone::new(weights, config)),
        }
    }
}

impl Heads {
    /// Key and query orthogonal with gain 1 and without bias, value orthogonal with gain 0.1 and bias 0, start token
    /// N(0, 0.02), scale 1 (appendix B.2).
    fn new(weights: &Weights, features: i64, width: i64) -> Self {
        let weights = weights / "selector";
        let orthogonal = |name: &str, init| {
            let weights = &weights / name;
            let weight = weights.get("weight", &[width, width], Init::Made(init));
            (weights, weight)
        };
        let (value, value_weight) = orthogonal("value", small_orthogonal);
        Self {
            projector: Linear::new(&(&weights / "projector"), features, width),
            key: Linear::of(orthogonal("key", whole_orthogonal).1, None),
            query: Linear::of(orthogonal("query", whole_orthogonal).1, None),
            value: Linear::of(value_weight, Some(value.get("bias", &[width], Init::Zeros))),
            start: weights.get("start", &[width], Init::Made(|shape| randn(shape) * 0.02)),
            // softplus of it is 1
            scale: weights.get("scale", &[1], Init::Made(|shape| Tensor::full(shape, 1.0_f64.exp_m1().ln(), CPU))),
        }
    }
}

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

fn randn(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, CPU)
}

/// A random orthogonal matrix: Q of a normal one, its columns' signs those of R's diagonal, so that it is uniform.
fn whole_orthogonal(shape: &[i64]) -> Tensor {
    let (q, r) = Tensor::linalg_qr(&Tensor::randn(shape, (Kind::Double, Device::Cpu)), "reduced");
    // Q comes column by column, and optimizers walk through memory.
    (q * r.diagonal(0, 0, 1).sign()).contiguous()
}

fn small_orthogonal(shape: &[i64]) -> Tensor {
    whole_orthogonal(shape) * 0.1
}

impl Selector {
    /// Loads a selector's directory.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the tensors are not exactly those the configuration asks for.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self, PolicyError> {
        let path = dir.join("config.json");
        let file: File =
            serde_json::from_value(read_json(&path)?).map_err(|error| PolicyError::config(&path, error.to_string()))?;
        let config = SelectorConfig::new(&file).map_err(|problem| PolicyError::config(&path, problem))?;
        let weights = Weights::open(dir, options.device, options.kind)?;
        let vision = VisionTower::new(&weights, &config.vision);
        let backbone = config.backbone(&weights);
        let heads = Heads::new(&weights, config.vision.out_hidden_size, backbone.width());
        let parts = Parts { vision, backbone, heads, tensors: weights.finish()? };
        Self::of(dir, config, Companions::read(dir)?, parts, options)
    }

    /// A new selector from other models' directories.
    ///
    /// # Errors
    /// As [`Selector::load`], for either directory.
    pub fn begin(origin: &Origin, options: &LoadOptions) -> Result<Self, PolicyError> {
        let Origin { tower, backbone, pretrained, pool, seed } = *origin;
        let configs = [tower, backbone].map(|dir| read_json(&dir.join("config.json")));
        let [tower_config, backbone_config] = configs;
        let file =
            File { model_type: SELECTOR_TYPE.to_owned(), pool, vision: tower_config?, backbone: backbone_config? };
        let config = SelectorConfig::new(&file).map_err(|problem| PolicyError::config(backbone, problem))?;
        tch::manual_seed(seed);
        let seen = Weights::open(tower, options.device, options.kind)?;
        let (layers, depth, range) = match &config.backbone {
            BackboneConfig::Mamba(c) => ("backbone.layers", c.num_hidden_layers, c.initializer_range),
            BackboneConfig::Text(c) => ("model.layers", c.num_hidden_layers, c.initializer_range),
        };
        let fresh: Vec<String> = (depth - FRESH.0..depth).map(|layer| format!("{layers}.{layer}.")).collect();
        let new = || Weights::random(backbone, options.device, options.kind, range);
        let read = if pretrained { Weights::open(backbone, options.device, options.kind)? } else { new() };
        read.begin_anew(&fresh, range);
        let new = new();
        let vision = VisionTower::new(&seen, &config.vision);
        let body = config.backbone(&read);
        let heads = Heads::new(&new, config.vision.out_hidden_size, body.width());
        let mut tensors = Vec::new();
        for part in [seen, read, new] {
            tensors.extend(part.finish_part()?);
        }
        let is_fresh = |name: &str| fresh.iter().any(|layer| name.starts_with(layer));
        for (_, tensor) in tensors.iter_mut().filter(|(name, _)| is_fresh(name) && is_norm_of_layer(name)) {
            let _ = tensor.fill_(FRESH.1);
        }
        let text =
            serde_json::to_vec_pretty(&file).map_err(|error| PolicyError::config(backbone, error.to_string()))?;
        let (own, of_tower) = (Companions::read(backbone)?, Companions::read(tower)?);
        let tokenizer = if own.get("tokenizer.json").is_some() { own } else { of_tower.clone() };
        let companions = tokenizer.only(&["tokenizer.json", "tokenizer_config.json"]);
        let companions = companions.and(of_tower.only(&["preprocessor_config.json"])).with("config.json", text);
        let parts = Parts { vision, backbone: body, heads, tensors };
        Self::of(backbone, config, companions, parts, options)
    }

    fn of(
        dir: &Path,
        config: SelectorConfig,
        companions: Companions,
        parts: Parts,
        options: &LoadOptions,
    ) -> Result<Self, PolicyError> {
        let Parts { vision, backbone, heads, tensors } = parts;
        let file = dir.join("tokenizer.json");
        let tokenizer = companions.get("tokenizer.json").ok_or_else(|| {
            PolicyError::config(&file, "no such file: expected the tokenizer of the backbone or the vision tower")
        })?;
        let tokenizer = TextTokenizer::parse(&file, tokenizer)?;
        let features = RefCell::new(FeatureCache::new(options.feature_cache));
        let selector =
            Self { config, options: *options, companions, tokenizer, vision, features, backbone, heads, tensors };
        for (_, tensor) in selector.parameters() {
            let _ = tensor.set_requires_grad(true);
        }
        Ok(selector)
    }
}

/// What a selector is made of.
struct Parts {
    vision: VisionTower,
    backbone: Box<dyn Backbone>,
    heads: Heads,
    tensors: Vec<(String, Tensor)>,
}

/// Whether a weight is that of a norm before a part of a layer.
fn is_norm_of_layer(name: &str) -> bool {
    let ends = [".norm.weight", ".input_layernorm.weight", ".post_attention_layernorm.weight"];
    ends.iter().any(|end| name.ends_with(end)) && !name.ends_with(".mixer.norm.weight")
}
