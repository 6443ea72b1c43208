//! `trainer score`: teacher-forced log-probs, entropy and frame attention of given sequences.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use foveate_policy::{
    Draw, GroupSeed, LoadOptions, Mamba, Media, Prompt, RowScores, SamplingParams, Trainable, Vlm, model_type,
    read_safetensors, runtime, write_safetensors,
};
use foveate_video::{Grid, Patches};
use ndarray::Array2;
use tch::{Kind, Tensor};

use crate::{
    cli::ScoreArgs,
    error::{UserContext, existing, user_error},
    run::existing_model,
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
    existing_model("--model", &args.model)?;
    existing("--inputs", &args.inputs)?;
    let inputs = Inputs::read(&args.inputs).user()?;
    let mut output = Output::new(&inputs.ids);
    let row = |row: usize| format!("{}: row {row}", args.inputs.display());
    let greedy_row0 = if model_type(&args.model).user()? == "mamba2" {
        let model = Mamba::load(&args.model, options.device, options.kind).user()?;
        let sequences = inputs.texts().user()?;
        for (index, (ids, chosen)) in sequences.iter().enumerate() {
            output.add(index, chosen, &model.score(ids, chosen).with_context(|| row(index)).user()?);
        }
        ensure!(args.greedy == 0 || !sequences.is_empty(), user_error("greedy decoding needs a row"));
        let greedy = |(ids, chosen): &Row| model.greedy(prompt_of(ids, chosen), args.greedy).user();
        sequences.first().filter(|_| args.greedy > 0).map(greedy).transpose()?
    } else {
        let model = Vlm::load(&args.model, &options).user()?;
        let sequences = inputs.sequences(&model).user()?;
        for (index, (sequence, chosen)) in sequences.iter().enumerate() {
            let scores = model.score(sequence, chosen, args.layers).with_context(|| row(index)).user()?;
            output.add(index, chosen, &scores);
        }
        ensure!(args.greedy == 0 || !sequences.is_empty(), user_error("greedy decoding needs a row"));
        let first = sequences.first().filter(|_| args.greedy > 0);
        first.map(|first| greedy(&model, first, args.greedy)).transpose()?
    };
    let mut tensors = output.tensors();
    tensors.extend(greedy_row0.map(|ids| ("greedy_row0", Tensor::from_slice(&ids))));
    write_safetensors(&args.output, tensors.iter().map(|(name, tensor)| (*name, tensor)))?;
    Ok(())
}

/// Ids of a row without its padding, and the indices of its completion tokens.
type Row = (Vec<i64>, Vec<usize>);

/// What stands before a row's first completion token.
fn prompt_of<'a>(ids: &'a [i64], chosen: &[usize]) -> &'a [i64] {
    &ids[..chosen.first().copied().unwrap_or(ids.len())]
}

/// The likeliest `count` tokens after a row's prompt.
fn greedy(model: &Vlm, (sequence, chosen): &(Prompt, Vec<usize>), count: usize) -> Result<Vec<i64>> {
    let prompt = Prompt { ids: prompt_of(&sequence.ids, chosen).to_vec(), media: sequence.media.clone() };
    let prompt = model.encode(&prompt).user()?;
    let seed = GroupSeed { seed: 0, step: 0, group: 0 };
    let rollouts =
        model.rollout(&[Draw { prompt: &prompt, completions: 1, seed }], &SamplingParams::greedy(count), &[])?;
    rollouts.into_iter().next().and_then(|group| group.ids.into_iter().next()).context("no greedy completion")
}

struct Inputs {
    ids: Tensor,                // [B, S]
    attention: Tensor,          // [B, S]
    completion: Tensor,         // [B, S]
    seconds_per_grid: Vec<f32>, // [videos], or [B] of rows with a video each
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

    /// Each row.
    fn texts(&self) -> Result<Vec<Row>> {
        ensure!(
            self.videos.grids.is_empty() && self.images.grids.is_empty(),
            "the model reads text only, found pictures"
        );
        (0..self.ids.size()[0]).map(|row| self.row(row)).collect()
    }

    fn row(&self, row: i64) -> Result<Row> {
        let values = |tensor: &Tensor| Vec::<i64>::try_from(tensor.get(row).to_kind(Kind::Int64));
        let (attention, completion) = (values(&self.attention)?, values(&self.completion)?);
        let length = attention.iter().take_while(|seen| **seen != 0).count();
        if attention[length..].iter().any(|seen| *seen != 0) {
            bail!("row {row}: expected right padding, found attention_mask 0 before a 1");
        }
        let chosen = (0..).zip(&completion).filter(|(_, chosen)| **chosen != 0).map(|(index, _)| index).collect();
        Ok((values(&self.ids)?[..length].to_vec(), chosen))
    }

    /// Seconds of a temporal grid of the next video, which is in this row. Hugging Face's processor gives a number for every
    /// video.
    fn seconds(&self, row: usize) -> Result<f32> {
        let (videos, rows) = (self.videos.grids.len() / 3, self.ids.size()[0] as usize);
        let place = match self.seconds_per_grid.len() {
            0 => bail!("second_per_grid_ts is missing"),
            found if found == videos => self.videos.next,
            found if found == rows => row,
            found => bail!("second_per_grid_ts: expected a number for each of {videos} videos, found {found}"),
        };
        self.seconds_per_grid.get(place).copied().context("input_ids hold more videos than video_grid_thw has rows")
    }

    /// Each row with its pictures.
    fn sequences(mut self, model: &Vlm) -> Result<Vec<(Prompt, Vec<usize>)>> {
        let merge = model.config().vision.merge_area() as usize;
        let mut sequences = Vec::new();
        for row in 0..self.ids.size()[0] {
            let (ids, chosen) = self.row(row)?;
            let mut media = Vec::new();
            let mut token = 0;
            while token < ids.len() {
                let patches = if ids[token] == model.config().video_token_id {
                    let seconds = self.seconds(row as usize)?;
                    Media::Video(self.videos.next(seconds)?)
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
    positions: Option<Tensor>,
    attention: Vec<(i64, Tensor, Tensor)>, // row, chosen indices, [L, R, F]
}

impl Output {
    fn new(ids: &Tensor) -> Self {
        let size = [ids.size()[0], ids.size()[1]];
        let zeros = || Tensor::zeros(size, (Kind::Float, tch::Device::Cpu));
        Self { size, logprobs: zeros(), entropy: zeros(), positions: None, attention: Vec::new() }
    }

    fn add(&mut self, row: usize, chosen: &[usize], scores: &RowScores) {
        let (row, [rows, length]) = (row as i64, self.size);
        let index: Vec<i64> = chosen.iter().map(|index| *index as i64).collect();
        let index = Tensor::from_slice(&index);
        let _ = self.logprobs.get(row).index_copy_(0, &index, &scores.logprobs.to_device(tch::Device::Cpu));
        let _ = self.entropy.get(row).index_copy_(0, &index, &scores.entropy.to_device(tch::Device::Cpu));
        if let Some(positions) = &scores.positions {
            let zeros = || Tensor::zeros([3, rows, length], (Kind::Int64, tch::Device::Cpu));
            let all = self.positions.get_or_insert_with(zeros);
            all.select(1, row).narrow(1, 0, positions.size()[1]).copy_(&positions.to_device(tch::Device::Cpu));
        }
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
        let mut tensors = BTreeMap::from([("logprobs", self.logprobs), ("entropy", self.entropy)]);
        // A model without positions has no attention either.
        if let Some(positions) = self.positions {
            tensors.insert("position_ids", positions);
            tensors.insert("frame_attention", all.mean_dim(0, false, Kind::Float));
            tensors.insert("frame_attention_layers", all);
        }
        tensors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_those_of_the_video_or_of_a_row_with_one() {
        let reader = |name, videos: usize| PatchReader {
            name,
            pixels: Vec::new(),
            width: 1,
            grids: vec![1; 3 * videos],
            next: 0,
            used: 0,
        };
        let inputs = |rows: i64, videos: usize, seconds: &[f32]| {
            let like = || Tensor::zeros([rows, 4], (Kind::Int64, tch::Device::Cpu));
            Inputs {
                ids: like(),
                attention: like(),
                completion: like(),
                seconds_per_grid: seconds.to_vec(),
                videos: reader("pixel_values_videos", videos),
                images: reader("pixel_values", 0),
            }
        };
        // One row with two videos; a row of text before one with a video.
        let mut two = inputs(1, 2, &[1.0, 0.25]);
        assert_eq!(two.seconds(0).unwrap(), 1.0);
        two.videos.next = 1;
        assert_eq!(two.seconds(0).unwrap(), 0.25);
        assert_eq!(inputs(2, 1, &[0.5]).seconds(1).unwrap(), 0.5);
        assert_eq!(inputs(2, 1, &[0.0, 0.5]).seconds(1).unwrap(), 0.5, "a number for each row");
        let error = inputs(2, 1, &[0.5; 3]).seconds(1).unwrap_err().to_string();
        assert!(error.contains("each of 1 videos, found 3"), "{error}");
        assert!(inputs(1, 1, &[]).seconds(0).unwrap_err().to_string().contains("is missing"));
    }
}
