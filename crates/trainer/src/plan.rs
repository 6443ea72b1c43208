//! What a run will do and take, said beforehand (`--dry-run`).

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use foveate_policy::{ModelConfig, Precision, Recompute};
use foveate_video::ImageProcessor;

use crate::config::{Config, FramesTable, PixelsTable, Resolved, SamplingMode};
use crate::error::UserContext;

const GIB: f64 = (1u64 << 30) as f64;

/// The resolved configuration, the data, the plan and the memory, for people to read.
///
/// # Errors
/// A user error: the model or the data cannot be read.
pub fn describe(resolved: &Resolved) -> Result<String> {
    let config = &resolved.config;
    let path = config.model.path.as_deref().context("model.path is not given").user()?;
    let mut tokens = Tokens::most(config, path)?;
    let mut text = config.to_toml()?;
    text.push_str("\n# data\n");
    for file in [&config.data.train, &config.data.test].into_iter().flatten() {
        // Writing to a String cannot fail.
        let _ = if resolved.demo.is_some() && !file.exists() {
            writeln!(text, "{}: will be rendered when training starts", file.display())
        } else {
            let records = config.data.training_records(file)?;
            tokens.examples += records.len();
            writeln!(text, "{}: {} records", file.display(), records.len())
        };
    }
    let _ = writeln!(text, "at most {} tokens per video; below, an example has one", tokens.video);
    text.push_str("\n# plan\n");
    if config.algo.picks_frames() {
        text.push_str(&plan_of_picks(config));
        return Ok(text);
    }
    text.push_str(&plan(config));
    let model = ModelConfig::from_dir(path).user()?;
    text.push_str("\n# memory, about\n");
    text.push_str(&Memory::estimate(config, &model, &tokens)?.table());
    Ok(text)
}

fn plan(config: &Config) -> String {
    let (rollout, run) = (&config.rollout, &config.run);
    let completions = rollout.prompts_per_step * rollout.completions;
    let saves = match run.save_every {
        0 => "a checkpoint at the end".to_owned(),
        every => format!("a checkpoint every {every} steps and at the end"),
    };
    format!(
        "{} on {}: {} steps of {} prompts x {} completions = {completions} completions of at most {} tokens;\n\
         {} optimizer step(s) per rollout, {} per backward pass; {saves}\n",
        config.name(),
        config.model.device,
        run.steps,
        rollout.prompts_per_step,
        rollout.completions,
        rollout.max_new_tokens,
        config.optim.updates_per_rollout * config.optim.minibatches.min(rollout.prompts_per_step),
        match config.optim.pass_tokens {
            0 => "all tokens".to_owned(),
            tokens => format!("at most {tokens} tokens"),
        },
    )
}

fn plan_of_picks(config: &Config) -> String {
    let (rollout, selector) = (&config.rollout, &config.selector);
    let picks: Vec<String> = selector.picks.iter().map(usize::to_string).collect();
    format!(
        "{} on {}: {} steps of {} questions x {} sets of {} frames; {} optimizer step(s) per rollout\n\
         (memory is estimated for policies of tokens only)\n",
        config.name(),
        config.model.device,
        config.run.steps,
        rollout.prompts_per_step,
        rollout.completions,
        picks.join(", then "),
        config.optim.updates_per_rollout * config.optim.minibatches.min(rollout.prompts_per_step),
    )
}

/// Tokens of one example, at most.
struct Tokens {
    video: usize,
    completion: usize,
    /// Records of the data, as far as it is there.
    examples: usize,
}

impl Tokens {
    fn most(config: &Config, model: &Path) -> Result<Self> {
        let processor = ImageProcessor::from_dir(model).user()?;
        Ok(Self {
            video: video_tokens(&processor, &config.data.frames, &config.data.pixels),
            completion: config.rollout.max_new_tokens,
            examples: 0,
        })
    }
}

fn video_tokens(processor: &ImageProcessor, frames: &FramesTable, pixels: &PixelsTable) -> usize {
    let count = match frames.sampling {
        SamplingMode::Uniform => frames.count,
        SamplingMode::Fps => frames.max,
    };
    let per_frame = pixels.budget().per_frame(count) / (processor.factor() * processor.factor()) as f64;
    (count.div_ceil(processor.temporal_patch_size) as f64 * per_frame).ceil() as usize
}

/// Bytes that a run takes, by use.
#[derive(Debug, Clone, PartialEq)]
struct Memory(Vec<(&'static str, f64)>);

impl Memory {
    /// Weights, gradients and AdamW's state exactly (up to norms and biases); keys and values of a whole step's rollout;
    /// activations of a backward pass by the count of values that a decoder layer keeps for its backward pass.
    fn estimate(config: &Config, model: &ModelConfig, tokens: &Tokens) -> Result<Self> {
        let bytes = config.model.dtype.kind().elt_size_in_bytes() as f64;
        let text = text_parameters(model);
        let vision = vision_parameters(model);
        let all = text + vision;
        let trained = if config.model.train_vision { all } else { text };
        let state = match config.optim.precision {
            _ if bytes == 4.0 => 8.0,
            Precision::Float32 => 16.0,
            Precision::Master => 12.0,
            Precision::Weights => 2.0 * bytes,
        };
        let needs = config.algo.algorithm().user()?.needs(foveate_algo::MediaKind::Video);
        let reference = if needs.reference { all } else { 0.0 };
        let group = (tokens.video + config.rollout.completions * tokens.completion) as f64;
        let step = config.rollout.prompts_per_step as f64 * group;
        // Contrast completions stand behind a prompt of their own, in as many rows.
        let contrasts = needs.contrast && config.rollout.completions > 1;
        let prompts = config.rollout.prompts_per_step * if contrasts { 2 } else { 1 };
        let together = match config.rollout.max_rows {
            0 => prompts,
            rows => (rows / config.rollout.completions).clamp(1, prompts),
        };
        let drawn = together as f64 * group;
        let longest = (tokens.video + tokens.completion) as f64;
        let pass = match config.optim.pass_tokens {
            0 => step,
            budget => step.min(longest.max(budget as f64)),
        };
        let t = &model.text;
        let layers = t.num_hidden_layers as f64;
        // Values that a decoder layer keeps of a token for its backward pass, and those kept where it computes them again.
        let layer = (14 * t.hidden_size + 4 * t.intermediate_size) as f64;
        let kept = match config.optim.recompute {
            Recompute::Nothing => layers * layer,
            Recompute::Layers => layers * (2 * t.hidden_size) as f64 + layer,
        };
        // A tower that is trained keeps as much of a patch in each block, whatever `recompute` says.
        let v = &model.vision;
        let tower = if config.model.train_vision {
            // A group that does not fit in a pass has its video in each.
            let patches = (pass / group).max(1.0) * (tokens.video as i64 * v.merge_area()) as f64;
            patches * (v.depth * (14 * v.hidden_size + 4 * v.intermediate_size)) as f64
        } else {
            0.0
        };
        let videos = if tokens.examples == 0 { f64::INFINITY } else { tokens.examples as f64 };
        let features = (videos * (tokens.video as i64 * t.hidden_size) as f64 * bytes)
            .min((config.model.feature_cache_mib << 20) as f64);
        let cached = layers * (2 * t.num_key_value_heads * t.head_dim()) as f64;
        Ok(Self(vec![
            ("weights", all * bytes),
            ("gradients", trained * bytes),
            ("AdamW", trained * state),
            ("reference policy", reference * bytes),
            ("kept features", if config.model.train_vision { 0.0 } else { features }),
            ("keys and values", drawn * cached * bytes),
            ("activations", (pass * kept + tower) * bytes),
        ]))
    }

    fn of(&self, use_: &str) -> f64 {
        self.0.iter().find(|(other, _)| *other == use_).map_or(0.0, |(_, bytes)| *bytes)
    }

    /// A line for each use, and the most that is in use at a time: rollout and update take turns.
    fn table(&self) -> String {
        let turns = self.of("keys and values").min(self.of("activations"));
        let total: f64 = self.0.iter().map(|(_, bytes)| bytes).sum::<f64>() - turns;
        let mut text = String::new();
        for (name, bytes) in self.0.iter().chain([&("at most at a time", total)]) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<18}{:>9.2} GiB", bytes / GIB);
        }
        text
    }
}

/// Weights of the text decoder's matrices.
pub(crate) fn text_parameters(model: &ModelConfig) -> f64 {
    let t = &model.text;
    let key_value = t.num_key_value_heads * t.head_dim();
    let attention = 2 * t.hidden_size * t.hidden_size + 2 * t.hidden_size * key_value;
    let layer = attention + 3 * t.hidden_size * t.intermediate_size;
    let heads = if t.tie_word_embeddings { 1 } else { 2 };
    (t.num_hidden_layers * layer + heads * t.vocab_size * t.hidden_size) as f64
}

/// Weights of the vision tower's matrices, its merger's included.
pub(crate) fn vision_parameters(model: &ModelConfig) -> f64 {
    let v = &model.vision;
    let block = 4 * v.hidden_size * v.hidden_size + 3 * v.hidden_size * v.intermediate_size;
    let merged = v.hidden_size * v.merge_area();
    (v.depth * block + v.patch_dim() * v.hidden_size + merged * merged + merged * v.out_hidden_size) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layers, resolve};

    #[test]
    fn video_tokens_follow_from_frames_and_pixels() {
        let processor = ImageProcessor {
            patch_size: 14,
            merge_size: 2,
            temporal_patch_size: 2,
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
            min_pixels: 1,
            max_pixels: 1,
        };
        let frames = FramesTable { sampling: SamplingMode::Uniform, count: 16, ..FramesTable::default() };
        let pixels = PixelsTable { min: 1, max: 64 * 28 * 28, total: 0 };
        assert_eq!(video_tokens(&processor, &frames, &pixels), 8 * 64);
    }

    #[test]
    fn rollout_and_update_take_turns_in_memory() {
        let memory = Memory(vec![("weights", GIB), ("keys and values", 2.0 * GIB), ("activations", 3.0 * GIB)]);
        assert!(memory.table().ends_with("at most at a time      4.00 GiB\n"), "{}", memory.table());
    }

    #[test]
    fn contrast_completions_have_keys_and_values_too() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tiny-vlm");
        let model = ModelConfig::from_dir(&folder).unwrap();
        let cached = |algo: &str, max_rows: usize| {
            let set = [
                format!("rollout.max_rows={max_rows}"),
                "rollout.prompts_per_step=3".into(),
                "rollout.completions=4".into(),
            ];
            let config = resolve(&Layers { algo: Some(algo.into()), config: None, set: set.into() }).unwrap().config;
            let tokens = Tokens { video: 100, completion: 10, examples: 0 };
            Memory::estimate(&config, &model, &tokens).unwrap().of("keys and values")
        };
        assert_eq!(cached("t-grpo", 0), 2.0 * cached("grpo", 0));
        assert_eq!(cached("t-grpo", 8), cached("grpo", 8));
    }

    #[test]
    fn a_trained_tower_keeps_all_patches_of_a_pass() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tiny-vlm");
        let model = ModelConfig::from_dir(&folder).unwrap();
        let activations = |train_vision: bool, pass_tokens: usize| {
            let set = [
                format!("model.train_vision={train_vision}"),
                format!("optim.pass_tokens={pass_tokens}"),
                "rollout.prompts_per_step=3".into(),
                "rollout.completions=2".into(),
            ];
            let config = resolve(&Layers { algo: Some("grpo".into()), config: None, set: set.into() }).unwrap().config;
            let tokens = Tokens { video: 100, completion: 10, examples: 0 };
            Memory::estimate(&config, &model, &tokens).unwrap().of("activations")
        };
        // A group has 120 tokens; a pass holds all three, two, or a part of one.
        let [all, two, part] = [0, 240, 110].map(|tokens| activations(true, tokens) - activations(false, tokens));
        assert!(part > 0.0 && all == 3.0 * part && two == 2.0 * part, "{all} {two} {part}");
    }
}
