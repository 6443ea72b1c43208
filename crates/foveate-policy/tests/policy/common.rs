//! A tiny random model, prompts with made-up pictures, and the golden models.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use foveate_policy::{LoadOptions, Media, Observe, Prompt, SamplingParams, Vlm, read_safetensors};
use foveate_video::{Grid, Patches};
use ndarray::Array2;
use serde_json::{Value, json};
use tch::{Kind, Tensor};
use tempfile::TempDir;

/// The golden models, each with what is special about it.
pub(crate) const GOLDENS: [&str; 4] = ["untied", "tied", "released-config", "image-and-video"];

/// Vocabulary of the random model; 0 and 1 are plain, 2 ends a completion.
pub(crate) const VOCABULARY: i64 = 40;
pub(crate) const END: i64 = 2;
pub(crate) const SPECIAL: [i64; 4] = [IMAGE, VIDEO, VISION_START, VISION_END];
const IMAGE: i64 = 10;
const VIDEO: i64 = 11;
const VISION_START: i64 = 12;
const VISION_END: i64 = 13;

/// Numbers in a flattened patch of the random model: 3 channels x 2 frames x 4 x 4.
const PATCH_DIM: usize = 96;

/// Configuration of the random model in the released flat layout.
pub(crate) fn config() -> Value {
    json!({
        "model_type": "qwen2_5_vl", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": { "type": "mrope", "mrope_section": [1, 1, 2] },
        "initializer_range": 0.3, "tie_word_embeddings": false, "image_token_id": IMAGE, "video_token_id": VIDEO,
        "vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END,
        "vision_config": {
            "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2, "window_size": 16,
            "fullatt_block_indexes": [1], "tokens_per_second": 2, "in_chans": 3,
        },
    })
}

/// Writes a small file of a temporary folder.
pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) {
    use std::io::Write;
    fs::File::create(path).unwrap().write_all(text.as_ref()).unwrap();
}

/// The random model. libtorch's random stream is one for the whole process, so only one test at a time draws from it.
pub(crate) fn random(options: &LoadOptions, seed: i64) -> Vlm {
    random_with(&config(), options, seed)
}

/// Held while libtorch's random stream is drawn from.
pub(crate) fn stream() -> MutexGuard<'static, ()> {
    static STREAM: Mutex<()> = Mutex::new(());
    STREAM.lock().unwrap_or_else(|broken| broken.into_inner())
}

pub(crate) fn random_with(config: &Value, options: &LoadOptions, seed: i64) -> Vlm {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("config.json"), config.to_string());
    let _one_at_a_time = stream();
    Vlm::random(folder.path(), options, seed).unwrap()
}

/// A part of a prompt; sizes in merged patches.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Text(usize),
    Video { t: usize, h: usize, w: usize, seconds: f32 },
    Image { h: usize, w: usize },
}

pub(crate) fn patches(grid: Grid, second_per_grid: f32, seed: usize) -> Arc<Patches> {
    let shape = (grid.t * grid.h * grid.w, PATCH_DIM);
    let pixels = Array2::from_shape_fn(shape, |(i, j)| ((i * PATCH_DIM + j + seed * 7919) as f32 * 0.731).sin());
    Arc::new(Patches::new(pixels, grid, second_per_grid))
}

/// A prompt of these parts, its words and pictures made from `seed`.
pub(crate) fn prompt(parts: &[Part], seed: usize) -> Prompt {
    let mut prompt = Prompt { ids: Vec::new(), media: Vec::new() };
    for (index, part) in parts.iter().enumerate() {
        let seed = seed * 31 + index;
        let (pad, medium) = match *part {
            Part::Text(words) => {
                prompt.ids.extend((0..words).map(|word| 14 + ((seed * 17 + word * 5) % 26) as i64));
                continue;
            }
            Part::Video { t, h, w, seconds } => {
                (VIDEO, Media::Video(patches(Grid { t, h: 2 * h, w: 2 * w }, seconds, seed)))
            }
            Part::Image { h, w } => (IMAGE, Media::Image(patches(Grid { t: 1, h: 2 * h, w: 2 * w }, 0.0, seed))),
        };
        let tokens = medium.patches().pixels.nrows() / 4;
        prompt.ids.push(VISION_START);
        prompt.ids.extend(std::iter::repeat_n(pad, tokens));
        prompt.ids.push(VISION_END);
        prompt.media.push(medium);
    }
    prompt
}

/// Words, a video with a window and a half, and a question.
pub(crate) fn plain_prompt(seed: usize) -> Prompt {
    prompt(&[Part::Text(3), Part::Video { t: 3, h: 2, w: 3, seconds: 0.7 }, Part::Text(4)], seed)
}

/// Completions of up to so many tokens, nothing filtered, nothing observed.
pub(crate) fn params(max_new_tokens: usize) -> SamplingParams {
    SamplingParams {
        max_new_tokens,
        temperature: 0.9,
        top_p: 1.0,
        top_k: 0,
        repetition_penalty: 1.0,
        max_rows: 0,
        observe: Observe::default(),
    }
}

/// Completions of these lengths, free of special tokens.
pub(crate) fn words(lengths: &[usize], seed: usize) -> Vec<Vec<i64>> {
    let word = |row: usize, at: usize| 14 + ((seed * 13 + row * 11 + at * at * 7 + at) % 26) as i64;
    lengths.iter().enumerate().map(|(row, length)| (0..*length).map(|at| word(row, at)).collect()).collect()
}

pub(crate) fn floats(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

/// Largest difference of two tensors of one shape; infinite where either is not a number.
pub(crate) fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    if found.numel() == 0 {
        return 0.0;
    }
    let difference = (found.to_kind(Kind::Double) - expected.to_kind(Kind::Double)).abs().max().double_value(&[]);
    if difference.is_nan() { f64::INFINITY } else { difference }
}

#[track_caller]
pub(crate) fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let difference = difference(found, expected);
    assert!(difference <= tolerance, "{what}: {difference:e} apart, allowed {tolerance:e}");
}

/// One row of a golden model's inputs, without padding.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) sequence: Prompt,
    /// Indices of the completion's tokens.
    pub(crate) chosen: Vec<usize>,
}

/// A golden model's inputs and expected outputs.
#[derive(Debug)]
pub(crate) struct Golden {
    pub(crate) dir: PathBuf,
    pub(crate) rows: Vec<Row>,
    pub(crate) expected: BTreeMap<String, Tensor>,
}

impl Golden {
    pub(crate) fn read(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/model").join(name);
        let inputs = read_safetensors(&dir.join("inputs.safetensors")).unwrap();
        let expected = read_safetensors(&dir.join("expected.safetensors")).unwrap();
        Self { dir, rows: rows(&inputs), expected }
    }

    /// The expected values `[.., B, S]` of a row at its completion's tokens.
    pub(crate) fn chosen(&self, name: &str, row: usize) -> Tensor {
        let index: Vec<i64> = self.rows[row].chosen.iter().map(|index| *index as i64).collect();
        self.expected[name].get(row as i64).index_select(0, &Tensor::from_slice(&index))
    }
}

/// A golden folder for the test to change.
pub(crate) fn copy_of(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        fs::copy(Golden::read(name).dir.join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn rows(inputs: &BTreeMap<String, Tensor>) -> Vec<Row> {
    let ints = |tensor: &Tensor| Vec::<i64>::try_from(tensor.to_kind(Kind::Int64).flatten(0, -1)).unwrap();
    let mut videos = Pictures::new(inputs, "pixel_values_videos", "video_grid_thw");
    let mut images = Pictures::new(inputs, "pixel_values", "image_grid_thw");
    let one = |row: i64| {
        let length = ints(&inputs["attention_mask"].get(row)).iter().sum::<i64>() as usize;
        let ids = ints(&inputs["input_ids"].get(row))[..length].to_vec();
        let seconds = inputs["second_per_grid_ts"].double_value(&[row]) as f32;
        let mut media = Vec::new();
        for at in 0..length {
            // A medium begins where its pads do; the golden prompts never have two without a token between them.
            match ids[at] {
                id if at > 0 && ids[at - 1] == id => {}
                IMAGE => media.push(Media::Image(images.next(0.0))),
                VIDEO => media.push(Media::Video(videos.next(seconds))),
                _ => {}
            }
        }
        let completion = ints(&inputs["completion_mask"].get(row));
        let chosen = (0..length).filter(|index| completion[*index] != 0).collect();
        Row { sequence: Prompt { ids, media }, chosen }
    };
    (0..inputs["input_ids"].size()[0]).map(one).collect()
}

/// Concatenated patches, handed out picture by picture.
struct Pictures {
    pixels: Tensor,
    grids: Vec<i64>,
    used: usize,
}

impl Pictures {
    fn new(inputs: &BTreeMap<String, Tensor>, pixels: &str, grids: &str) -> Self {
        let empty = Tensor::zeros([0, 1], (Kind::Float, tch::Device::Cpu));
        let grids = inputs.get(grids).map_or(Vec::new(), |grids| Vec::try_from(grids.flatten(0, -1)).unwrap());
        Self { pixels: inputs.get(pixels).map_or(empty, Tensor::shallow_clone), grids, used: 0 }
    }

    fn next(&mut self, second_per_grid: f32) -> Arc<Patches> {
        let size: Vec<usize> = self.grids.drain(..3).map(|size| size as usize).collect();
        let count = size.iter().product::<usize>();
        let pixels = self.pixels.narrow(0, self.used as i64, count as i64);
        self.used += count;
        let values = Vec::<f32>::try_from(pixels.flatten(0, -1)).unwrap();
        let pixels = Array2::from_shape_vec((count, values.len() / count), values).unwrap();
        let grid = Grid { t: size[0], h: size[1], w: size[2] };
        Arc::new(Patches::new(pixels, grid, second_per_grid))
    }
}
