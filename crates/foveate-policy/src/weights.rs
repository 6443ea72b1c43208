//! Tensors of a checkpoint: memory-mapped reading, checking against the model's needs, random initialisation, saving.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
    rc::Rc,
};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::{PolicyError, companions::Companions};

/// Bytes of the number before a safetensors header, which says how long that is.
const HEADER_LENGTH: usize = 8;

/// The file that names the shards of a checkpoint.
const INDEX: &str = "model.safetensors.index.json";

/// How a tensor begins where no checkpoint gives it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Init {
    /// Normal with the configuration's `initializer_range`.
    Normal,
    /// Ones: norm weights.
    Ones,
    /// Zeros: biases.
    Zeros,
    /// Otherwise, from the shape.
    Made(fn(&[i64]) -> Tensor),
}

/// Where a tensor lies in the mapped files.
struct Place {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

enum Source {
    Files(Vec<(PathBuf, Mmap)>, BTreeMap<String, Place>),
    Random { range: f64 },
}

struct Shared {
    dir: PathBuf,
    source: Source,
    device: Device,
    kind: Kind,
    /// Beginnings of the names of tensors that are random all the same, and the range of those.
    anew: RefCell<(Vec<String>, f64)>,
    taken: RefCell<Vec<(String, Tensor)>>,
    differences: RefCell<Vec<String>>,
}

/// Hands out a checkpoint's tensors by path (`weights / "layers" / 3`), remembers what was asked for and reports all
/// differences at once in [`Weights::finish`].
#[derive(Clone)]
pub(crate) struct Weights {
    shared: Rc<Shared>,
    path: String,
}

impl<T: ToString> std::ops::Div<T> for &Weights {
    type Output = Weights;

    fn div(self, part: T) -> Weights {
        let part = part.to_string();
        Weights {
            shared: Rc::clone(&self.shared),
            path: if self.path.is_empty() { part } else { format!("{}.{part}", self.path) },
        }
    }
}

impl<T: ToString> std::ops::Div<T> for Weights {
    type Output = Weights;

    fn div(self, part: T) -> Weights {
        &self / part
    }
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    pub(crate) fn open(dir: &Path, device: Device, kind: Kind) -> Result<Self, PolicyError> {
        let mut files = Vec::new();
        let mut places = BTreeMap::new();
        for path in shards(dir)? {
            let file = std::fs::File::open(&path).map_err(PolicyError::file(&path))?;
            // SAFETY: the mapping is read-only and lives within this loader; a file changed by others while it is
            // being read gives wrong numbers, as any reader would.
            let map = unsafe { Mmap::map(&file) }.map_err(PolicyError::file(&path))?;
            let (header, metadata) =
                SafeTensors::read_metadata(&map).map_err(|error| damaged(&path, error.to_string()))?;
            for (name, info) in metadata.tensors() {
                let (start, end) = info.data_offsets;
                let data = HEADER_LENGTH + header;
                let (file, dtype, shape) = (files.len(), info.dtype, info.shape.clone());
                places.insert(released_name(&name), Place { file, dtype, shape, bytes: data + start..data + end });
            }
            files.push((path, map));
        }
        Ok(Self::new(dir, Source::Files(files, places), device, kind))
    }

    /// Random weights: normal with standard deviation `range`, norms 1, biases 0, in libtorch's seeded stream.
    pub(crate) fn random(dir: &Path, device: Device, kind: Kind, range: f64) -> Self {
        Self::new(dir, Source::Random { range }, device, kind)
    }

    fn new(dir: &Path, source: Source, device: Device, kind: Kind) -> Self {
        let shared = Shared {
            dir: dir.to_owned(),
            source,
            device,
            kind,
            anew: RefCell::default(),
            taken: RefCell::default(),
            differences: RefCell::default(),
        };
        Self { shared: Rc::new(shared), path: String::new() }
    }

    /// The tensor at this path and `name`, which must have `shape`.
    pub(crate) fn get(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        let shared = &self.shared;
        let name = (self / name).path;
        let (anew, range) = &*shared.anew.borrow();
        let tensor = match &shared.source {
            Source::Files(..) if anew.iter().any(|beginning| name.starts_with(beginning)) => {
                initial(shape, init, *range)
            }
            Source::Random { range } => initial(shape, init, *range),
            Source::Files(files, places) => match places.get(&name).map(|place| read(&files[place.file], place, &name))
            {
                Some(Ok(tensor)) if tensor.size() == shape => tensor,
                other => {
                    let problem = match other {
                        None => format!("{name} is missing"),
                        Some(Err(error)) => error.to_string(),
                        Some(Ok(tensor)) => format!("{name}: expected shape {shape:?}, found {:?}", tensor.size()),
                    };
                    shared.differences.borrow_mut().push(problem);
                    Tensor::zeros(shape, (Kind::Float, Device::Cpu))
                }
            },
        };
        let tensor = tensor.to_device(shared.device).to_kind(shared.kind);
        shared.taken.borrow_mut().push((name, tensor.shallow_clone()));
        tensor
    }

    /// Tensors whose names begin so are random whatever the checkpoint holds, as in [`Weights::random`].
    pub(crate) fn begin_anew(&self, names: &[String], range: f64) {
        self.shared.anew.replace((names.to_vec(), range));
    }

    /// All tensors handed out, by name, if the checkpoint had them all; it may hold others.
    pub(crate) fn finish_part(self) -> Result<Vec<(String, Tensor)>, PolicyError> {
        let shared = &self.shared;
        let differences = shared.differences.take();
        match differences.is_empty() {
            true => Ok(shared.taken.take()),
            false => Err(PolicyError::Weights { path: shared.dir.clone(), differences }),
        }
    }

    /// All tensors handed out, by name, if they are exactly those of the checkpoint.
    pub(crate) fn finish(self) -> Result<Vec<(String, Tensor)>, PolicyError> {
        let shared = &self.shared;
        let taken = shared.taken.take();
        let mut differences = shared.differences.take();
        if let Source::Files(_, places) = &shared.source {
            let known: BTreeSet<&str> = taken.iter().map(|(name, _)| name.as_str()).collect();
            // Tied checkpoints may carry a copy of the embedding under the head's name.
            let extra = places.keys().filter(|name| !known.contains(name.as_str()) && *name != "lm_head.weight");
            differences.extend(extra.map(|name| format!("{name} is unexpected")));
        }
        if differences.is_empty() {
            return Ok(taken);
        }
        Err(PolicyError::Weights { path: shared.dir.clone(), differences })
    }
}

fn initial(shape: &[i64], init: Init, range: f64) -> Tensor {
    let options = (Kind::Float, Device::Cpu);
    match init {
        Init::Normal => Tensor::randn(shape, options) * range,
        Init::Ones => Tensor::ones(shape, options),
        Init::Zeros => Tensor::zeros(shape, options),
        Init::Made(make) => make(shape),
    }
}

/// Later libraries prefix the towers (`model.visual.`, `model.language_model.`); the released files do not.
fn released_name(name: &str) -> String {
    for (later, released) in [("model.visual.", "visual."), ("model.language_model.", "model.")] {
        if let Some(rest) = name.strip_prefix(later) {
            return format!("{released}{rest}");
        }
    }
    name.to_owned()
}

/// Saves a model's directory: its weights and the small files beside them.
///
/// # Errors
/// [`PolicyError::File`] if something cannot be written, [`PolicyError::Config`] if the directory holds a checkpoint in
/// shards: its index would hide what is saved here.
pub(crate) fn save_directory(
    dir: &Path,
    companions: &Companions,
    tensors: &[(String, Tensor)],
) -> Result<(), PolicyError> {
    std::fs::create_dir_all(dir).map_err(PolicyError::file(dir))?;
    let stale = dir.join(INDEX);
    if stale.exists() {
        return Err(PolicyError::config(&stale, "expected no checkpoint in shards where a model is saved"));
    }
    companions.write(dir)?;
    write_safetensors(&dir.join("model.safetensors"), tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))
}

fn shards(dir: &Path) -> Result<Vec<PathBuf>, PolicyError> {
    let index = dir.join(INDEX);
    if !index.exists() {
        return Ok(vec![dir.join("model.safetensors")]);
    }
    let text = std::fs::read_to_string(&index).map_err(PolicyError::file(&index))?;
    let json: Value = serde_json::from_str(&text).map_err(|error| PolicyError::config(&index, error.to_string()))?;
    let map = json
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| PolicyError::config(&index, "missing field weight_map"))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    match names.iter().find(|name| Path::new(name).components().count() != 1) {
        Some(name) => Err(PolicyError::config(&index, format!("expected plain file names, found {name:?}"))),
        None => Ok(names.iter().map(|name| dir.join(name)).collect()),
    }
}

fn damaged(path: &Path, problem: String) -> PolicyError {
    PolicyError::Safetensors { path: path.to_owned(), problem }
}

fn read((path, map): &(PathBuf, Mmap), place: &Place, name: &str) -> Result<Tensor, PolicyError> {
    let data = map.get(place.bytes.clone()).unwrap_or_default();
    let view = TensorView::new(place.dtype, place.shape.clone(), data)
        .map_err(|error| damaged(path, format!("{name}: {error}")))?;
    to_tensor(&view).ok_or_else(|| damaged(path, format!("{name}: cannot use dtype {:?}", view.dtype())))
}

/// Copies a stored tensor into libtorch; `None` for number types that foveate does not use.
pub fn to_tensor(view: &TensorView<'_>) -> Option<Tensor> {
    let kind = match view.dtype() {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F16 => Kind::Half,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    };
    let shape: Vec<i64> = view.shape().iter().map(|d| *d as i64).collect();
    Some(Tensor::from_data_size(view.data(), &shape, kind))
}

/// Reads every tensor of a safetensors file.
///
/// # Errors
/// [`PolicyError::File`] and [`PolicyError::Safetensors`].
pub fn read_safetensors(path: &Path) -> Result<BTreeMap<String, Tensor>, PolicyError> {
    let bytes = std::fs::read(path).map_err(PolicyError::file(path))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| damaged(path, error.to_string()))?;
    tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let tensor = to_tensor(&view)
                .ok_or_else(|| damaged(path, format!("{name}: cannot use dtype {:?}", view.dtype())))?;
            Ok((name, tensor))
        })
        .collect()
}

/// A tensor that is copied to the CPU only while it is being written.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    tensor: Tensor,
}

impl safetensors::View for Stored {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        let tensor = self.tensor.to_device(Device::Cpu).contiguous();
        let mut data = vec![0; self.data_len()];
        tensor.copy_data_u8(&mut data, tensor.numel());
        data.into()
    }

    fn data_len(&self) -> usize {
        self.tensor.numel() * self.tensor.kind().elt_size_in_bytes()
    }
}

/// Writes tensors as a safetensors file that Hugging Face libraries load: to a temporary name, then renamed once it is
/// on the disk. Makes the folder if needed.
///
/// # Errors
/// [`PolicyError::File`] if it cannot be written, [`PolicyError::Setting`] for a number type without a place there.
pub fn write_safetensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<(), PolicyError> {
    let mut views = Vec::new();
    for (name, tensor) in tensors {
        let dtype = match tensor.kind() {
            Kind::Double => Dtype::F64,
            Kind::Float => Dtype::F32,
            Kind::BFloat16 => Dtype::BF16,
            Kind::Int64 => Dtype::I64,
            Kind::Bool => Dtype::BOOL,
            other => {
                return Err(PolicyError::Setting {
                    what: "tensor to save",
                    expected: "f64, f32, bf16, i64 or bool".into(),
                    found: format!("{name} of {other:?}"),
                });
            }
        };
        let shape = tensor.size().iter().map(|d| *d as usize).collect();
        let tensor = tensor.detach();
        views.push((name.to_owned(), Stored { dtype, shape, tensor }));
    }
    let temporary = path.with_extension("safetensors.partial");
    let written = write_views(&temporary, views).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        PolicyError::file(path)(error)
    })
}

fn write_views(path: &Path, views: Vec<(String, Stored)>) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // The library makes files that only their owner may read; a checkpoint is to be shared like any other file.
    let usual = std::fs::File::create(path)?.metadata()?.permissions();
    let format = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(format), path).map_err(|error| match error {
        SafeTensorError::IoError(error) => error,
        other => std::io::Error::other(other),
    })?;
    std::fs::set_permissions(path, usual)?;
    std::fs::File::open(path)?.sync_all()
}
