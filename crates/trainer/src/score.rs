//! `trainer score`: teacher-forced log-probs, entropy and frame attention of given sequences.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use foveate_policy::{
    Draw, GroupSeed, LoadOptions, Media, Prompt, RowScores, SamplingParams, Trainable, Vlm, read_safetensors, runtime,
    write_safetensors,
};
use foveate_video::{Grid, Patches};
use ndarray::Array2;
use tch::{Kind, Tensor};

use crate::{
    cli::ScoreArgs,
    error::{UserContext, existing},
};

/// Reads `args.inputs`, scores every row with the model and writes `args.output`.
///
/// # Errors
/// If the model or the inputs cannot be read, do not fit each other, or the output cannot be written.
pub fn run(args: &ScoreArgs) -> Result<()> {
    let options = LoadOptions {
        device: runtime::device(&args.device).user()?,
        kind: runtime::dtype(&args.dtype).user()?,
        attention: args.attention,
        trainable: Trainable::Nothing,
        feature_cache: 0,
    };
    existing("--model", &args.model)?;
    existing("--inputs", &args.inputs)?;
    let rows = Inputs::read(&args.inputs).user()?;
    let model = Vlm::load(&args.model, &options).user()?;
    let mut output = Output::new(rows.ids.size()[0], rows.ids.size()[1]);
    let sequences = rows.sequences(&model).user()?;
    for (row, (sequence, chosen)) in sequences.iter().enumerate() {
        let scores = model
            .score(sequence, chosen, args.layers)
            .with_context(|| format!("{}: row {row}", args.inputs.display()))
            .user()?;
        output.add(row as i64, chosen, &scores);
    }
    let mut tensors = output.tensors();
    if args.greedy > 0 {
        let first = sequences.first().context("greedy decoding needs a row")?;
        tensors.insert("greedy_row0", greedy(&model, first, args.greedy)?);
    }
    write_safetensors(&args.output, tensors.iter().map(|(name, tensor)| (*name, tensor)))?;
    Ok(())
}

/// The likeliest continuation, `[count]`, of the row's prompt: the tokens before its first completion token.
fn greedy(model: &Vlm, (sequence, chosen): &(Prompt, Vec<usize>), count: usize) -> Result<Tensor> {
    let end = chosen.first().copied().unwrap_or(sequence.ids.len());
    let prompt = Prompt { ids: sequence.ids[..end].to_vec(), media: sequence.media.clone() };
    let prompt = model.encode(&prompt).user()?;
    let seed = GroupSeed { seed: 0, step: 0, group: 0 };
    let rollouts =
        model.rollout(&[Draw { prompt: &prompt, completions: 1, seed }], &SamplingParams::greedy(count), &[])?;
    let ids = rollouts.first().and_then(|group| group.ids.first()).context("no greedy completion")?;
    Ok(Tensor::from_slice(ids))
}

struct Inputs {
    ids: Tensor,                // [B, S]
    attention: Tensor,          // [B, S]
    completion: Tensor,         // [B, S]
    seconds_per_grid: Vec<f32>, // [B]
    videos: PatchReader,
    images: PatchReader,
}

impl Inputs {
    fn read(path: &Path) -> Result<Self> {
        let tensors = read_safetensors(path)?;
        let get = |name: &str| {
            let tensor = tensors.get(name).with_context(|| format!("{}: tensor {name} is missing", path.display()))?;
            anyhow::Ok(tensor.shallow_clone())
        };
        let ids = get("input_ids")?;
        ensure!(ids.dim() == 2, "{}: input_ids: expected shape [B, S], found {:?}", path.display(), ids.size());
        let like = |name: &str| {
            let tensor = get(name)?;
            let (expected, found) = (ids.size(), tensor.size());
            ensure!(expected == found, "{}: {name}: expected shape {expected:?}, found {found:?}", path.display());
            anyhow::Ok(tensor)
        };
        let optional = |name: &str| tensors.get(name).map(Tensor::shallow_clone);
        let seconds = optional("second_per_grid_ts").map(|t| t.to_kind(Kind::Float));
        Ok(Self {
            attention: like("attention_mask")?,
            completion: like("completion_mask")?,
            seconds_per_grid: seconds.map_or(Ok(Vec::new()), |t| Vec::try_from(t.flatten(0, -1)))?,
            videos: PatchReader::new(path, "pixel_values_videos", "video_grid_thw", &optional)?,
            images: PatchReader::new(path, "pixel_values", "image_grid_thw", &optional)?,
            ids,
        })
    }

    /// Each row without its padding, and the indices of its completion tokens.
    fn sequences(mut self, model: &Vlm) -> Result<Vec<(Prompt, Vec<usize>)>> {
        let merge = model.config().vision.merge_area() as usize;
        let mut sequences = Vec::new();
        for row in 0..self.ids.size()[0] {
            let values = |tensor: &Tensor| Vec::<i64>::try_from(tensor.get(row).to_kind(Kind::Int64));
            let (attention, completion) = (values(&self.attention)?, values(&self.completion)?);
            let length = attention.iter().take_while(|seen| **seen != 0).count();
            if attention[length..].iter().any(|seen| *seen != 0) {
                bail!("row {row}: expected right padding, found attention_mask 0 before a 1");
            }
            let ids = values(&self.ids)?[..length].to_vec();
            let chosen = (0..).zip(&completion).filter(|(_, chosen)| **chosen != 0).map(|(index, _)| index).collect();
            let mut media = Vec::new();
            let mut token = 0;
            while token < ids.len() {
                let patches = if ids[token] == model.config().video_token_id {
                    let seconds = self.seconds_per_grid.get(row as usize).copied();
                    Media::Video(self.videos.next(seconds.context("second_per_grid_ts is missing")?)?)
                } else if ids[token] == model.config().image_token_id {
                    Media::Image(self.images.next(0.0)?)
                } else {
                    token += 1;
                    continue;
                };
                token += (patches.patches().pixels.nrows() / merge).max(1);
                media.push(patches);
            }
            sequences.push((Prompt { ids, media }, chosen));
        }
        Ok(sequences)
    }
}

/// Hands out concatenated patches picture by picture.
struct PatchReader {
    name: &'static str,
    pixels: Vec<f32>,
    width: usize,
    grids: Vec<i64>,
    next: usize,
    used: usize,
}

impl PatchReader {
    fn new(path: &Path, name: &'static str, grid: &'static str, get: &dyn Fn(&str) -> Option<Tensor>) -> Result<Self> {
        let (pixels, width) = match get(name) {
            None => (Vec::new(), 1),
            Some(tensor) => {
                ensure!(tensor.dim() == 2, "{}: {name}: expected two axes, found {:?}", path.display(), tensor.size());
                let width = tensor.size()[1] as usize;
                (Vec::try_from(tensor.to_kind(Kind::Float).flatten(0, -1))?, width)
            }
        };
        let grids = match get(grid) {
            None => Vec::new(),
            Some(tensor) => {
                ensure!(
                    tensor.dim() == 2 && tensor.size()[1] == 3,
                    "{}: {grid}: expected shape [n, 3], found {:?}",
                    path.display(),
                    tensor.size()
                );
                Vec::try_from(tensor.to_kind(Kind::Int64).flatten(0, -1))?
            }
        };
        Ok(Self { name, pixels, width, grids, next: 0, used: 0 })
    }

    fn next(&mut self, second_per_grid: f32) -> Result<Arc<Patches>> {
        let name = self.name;
        let grid = self.grids.get(self.next * 3..self.next * 3 + 3);
        let grid = grid.with_context(|| format!("{name}: input_ids hold more pictures than its grid has rows"))?;
        ensure!(grid.iter().all(|side| *side > 0), "{name}: expected a positive grid, found {grid:?}");
        let (t, h, w) = (grid[0] as usize, grid[1] as usize, grid[2] as usize);
        let patches = t.checked_mul(h).and_then(|area| area.checked_mul(w)).filter(|n| *n <= self.pixels.len());
        let patches = patches.with_context(|| format!("{name}: the grids need more patches than there are"))?;
        let (start, count) = (self.used * self.width, patches * self.width);
        let pixels = self.pixels.get(start..start + count);
        let pixels = pixels.with_context(|| format!("{name}: the grids need more patches than there are"))?;
        self.next += 1;
        self.used += patches;
        let pixels = Array2::from_shape_vec((patches, self.width), pixels.to_vec())?;
        Ok(Arc::new(Patches::new(pixels, Grid { t, h, w }, second_per_grid)))
    }
}

/// Row results gathered into padded tensors.
struct Output {
    size: [i64; 2],
    logprobs: Tensor,
    entropy: Tensor,
    positions: Tensor,
    attention: Vec<(i64, Tensor, Tensor)>, // row, chosen indices, [L, R, F]
}

impl Output {
    fn new(rows: i64, length: i64) -> Self {
        let zeros = || Tensor::zeros([rows, length], (Kind::Float, tch::Device::Cpu));
        Self {
            size: [rows, length],
            logprobs: zeros(),
            entropy: zeros(),
            positions: Tensor::zeros([3, rows, length], (Kind::Int64, tch::Device::Cpu)),
            attention: Vec::new(),
        }
    }

    fn add(&mut self, row: i64, chosen: &[usize], scores: &RowScores) {
        let index: Vec<i64> = chosen.iter().map(|index| *index as i64).collect();
        let index = Tensor::from_slice(&index);
        let _ = self.logprobs.get(row).index_copy_(0, &index, &scores.logprobs.to_device(tch::Device::Cpu));
        let _ = self.entropy.get(row).index_copy_(0, &index, &scores.entropy.to_device(tch::Device::Cpu));
        let positions = scores.positions.to_device(tch::Device::Cpu);
        self.positions.select(1, row).narrow(1, 0, positions.size()[1]).copy_(&positions);
        if let Some(attention) = &scores.frame_attention {
            self.attention.push((row, index, attention.to_device(tch::Device::Cpu)));
        }
    }

    fn tensors(self) -> BTreeMap<&'static str, Tensor> {
        let [rows, length] = self.size;
        let frames = self.attention.iter().map(|(_, _, a)| a.size()[2]).max().unwrap_or(0);
        let layers = self.attention.first().map_or(1, |(_, _, a)| a.size()[0]);
        let all = Tensor::zeros([layers, rows, length, frames], (Kind::Float, tch::Device::Cpu));
        for (row, index, attention) in &self.attention {
            let place = all.select(1, *row).narrow(2, 0, attention.size()[2]);
            let _ = place.shallow_clone().index_copy_(1, index, attention);
        }
        BTreeMap::from([
            ("logprobs", self.logprobs),
            ("entropy", self.entropy),
            ("position_ids", self.positions),
            ("frame_attention", all.mean_dim(0, false, Kind::Float)),
            ("frame_attention_layers", all),
        ])
    }
}
