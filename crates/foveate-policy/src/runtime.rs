//! Devices, the optional CUDA libraries of libtorch, and what libtorch does meanwhile.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    env,
    ffi::{CStr, c_char, c_int, c_void},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Device, Kind};

use crate::{PolicyError, native::checked};

static CUDA: OnceLock<Option<Library>> = OnceLock::new();

/// Makes CUDA available where `libtorch_cuda.so` stands beside the loaded `libtorch_cpu.so` or where
/// `FOVEATE_LIBTORCH_CUDA` names it. Call it once, before the first use of libtorch; without CUDA it does nothing.
///
/// With CUDA, libtorch's `scaled_dot_product_attention` (of the vision tower and a selector's text decoder) leaves cuDNN's
/// kernel out, and its allocator has segments that grow, lest passes of differing length fragment memory, unless libtorch's
/// environment (`PYTORCH_ALLOC_CONF`) says something else.
///
/// # Errors
/// [`PolicyError::Setting`] if `FOVEATE_LIBTORCH_CUDA` names a file that cannot be loaded; [`PolicyError::Torch`] if
/// libtorch does not take its settings.
pub fn init() -> Result<(), PolicyError> {
    if CUDA.get().is_some() {
        return Ok(());
    }
    let named = env::var_os("FOVEATE_LIBTORCH_CUDA").map(PathBuf::from);
    let path = named.clone().or_else(beside_libtorch);
    let library = match path {
        None => None,
        Some(path) => match load(&path) {
            Ok(library) => Some(library),
            Err(error) if named.is_some() => {
                return Err(PolicyError::Setting {
                    what: "FOVEATE_LIBTORCH_CUDA",
                    expected: "a loadable libtorch_cuda.so".into(),
                    found: format!("{}: {error}", path.display()),
                });
            }
            Err(error) => {
                tracing::warn!("{} is there but does not load: {error}", path.display());
                None
            }
        },
    };
    if library.is_some() {
        // SAFETY: the message fits its size.
        checked(|message, size| unsafe { foveate_settle_cuda(message, size) })?;
    }
    CUDA.get_or_init(|| library);
    Ok(())
}

fn load(path: &Path) -> Result<Library, libloading::Error> {
    // SAFETY: loading libtorch_cuda runs its static initialisers, which register CUDA with the libtorch that is
    // already in the process; that is their purpose. The handle lives as long as the process.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }
}

/// `libtorch_cuda.so` in the folder that `libtorch_cpu.so` was loaded from, if it is there.
fn beside_libtorch() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let loaded = maps.lines().find_map(|line| {
        let path = &line[line.find('/')?..];
        path.ends_with("/libtorch_cpu.so").then(|| PathBuf::from(path))
    })?;
    let cuda = loaded.with_file_name("libtorch_cuda.so");
    cuda.exists().then_some(cuda)
}

/// Reads a device name: `auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// [`PolicyError::Setting`] for any other name, and for CUDA on a machine that has none.
pub fn device(name: &str) -> Result<Device, PolicyError> {
    let wrong =
        |expected: &str| PolicyError::Setting { what: "device", expected: expected.into(), found: format!("{name:?}") };
    match name {
        "auto" => Ok(Device::cuda_if_available()),
        "cpu" => Ok(Device::Cpu),
        _ => {
            let index = match name.strip_prefix("cuda") {
                Some("") => 0,
                Some(rest) => rest
                    .strip_prefix(':')
                    .and_then(|n| n.parse().ok())
                    .ok_or_else(|| wrong("auto, cpu, cuda or cuda:N"))?,
                None => return Err(wrong("auto, cpu, cuda or cuda:N")),
            };
            if (index as i64) < Cuda::device_count() {
                Ok(Device::Cuda(index))
            } else {
                Err(wrong(&format!(
                    "one of {} CUDA devices (a full torch 2.11.0 is needed for any)",
                    Cuda::device_count()
                )))
            }
        }
    }
}

unsafe extern "C" {
    fn foveate_settle_cuda(message: *mut c_char, size: usize) -> c_int;
    fn foveate_peak_bytes(device: c_int, bytes: *mut f64, message: *mut c_char, size: usize) -> c_int;
    fn foveate_begin_counting(counting: *mut *mut c_void, message: *mut c_char, size: usize) -> c_int;
    fn foveate_counted(counting: *const c_void) -> u64;
    fn foveate_end_counting(counting: *mut c_void);
    fn foveate_begin_watching(
        note: unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char),
        to: *mut c_void,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
    fn foveate_end_watching();
}

/// How often some work asks for memory for a tensor, on any device and in this thread.
///
/// # Errors
/// [`PolicyError::Torch`] if libtorch cannot count.
pub fn allocations<T>(work: impl FnOnce() -> T) -> Result<(T, u64), PolicyError> {
    struct Counting(*mut c_void);

    impl Drop for Counting {
        fn drop(&mut self) {
            // SAFETY: a raw pointer stays in its thread; it is ended once, the newest first, being local to its call.
            unsafe { foveate_end_counting(self.0) }
        }
    }

    let mut counting = std::ptr::null_mut();
    // SAFETY: the pointer is written to a live variable, and the message fits its size.
    checked(|message, size| unsafe { foveate_begin_counting(&raw mut counting, message, size) })?;
    let counting = Counting(counting);
    let result = work();
    // SAFETY: it has begun and not ended.
    Ok((result, unsafe { foveate_counted(counting.0) }))
}

/// How often some work calls each of libtorch's operations in this thread, itself or through others, by names such as
/// `aten::sum.dim_IntList`.
///
/// # Errors
/// [`PolicyError::Torch`] if libtorch cannot tell, as within another such call.
pub fn operations<T>(work: impl FnOnce() -> T) -> Result<(T, BTreeMap<String, u64>), PolicyError> {
    struct Watching;

    impl Drop for Watching {
        fn drop(&mut self) {
            // SAFETY: it has begun, and a local of this call ends in the thread that it began in.
            unsafe { foveate_end_watching() }
        }
    }

    unsafe extern "C" fn note(to: *mut c_void, name: *const c_char, overload: *const c_char) {
        // SAFETY: `to` is the cell below, borrowed by nobody else meanwhile.
        let counts = unsafe { &*to.cast::<RefCell<BTreeMap<String, u64>>>() };
        // SAFETY: libtorch's names end with a zero.
        let [name, overload] = [name, overload].map(|text| unsafe { CStr::from_ptr(text) }.to_string_lossy());
        let dot = if overload.is_empty() { "" } else { "." };
        *counts.borrow_mut().entry(format!("{name}{dot}{overload}")).or_default() += 1;
    }

    let counts = RefCell::new(BTreeMap::new());
    let to = (&raw const counts).cast_mut().cast();
    // SAFETY: `counts` outlives the watching, which ends before this function does.
    checked(|message, size| unsafe { foveate_begin_watching(note, to, message, size) })?;
    let watching = Watching;
    let result = work();
    drop(watching);
    Ok((result, counts.into_inner()))
}

/// Most bytes that libtorch's allocator has had in use at a time on the CUDA device of this number.
///
/// # Errors
/// [`PolicyError::Torch`] if there is no such device.
pub fn peak_bytes(device: usize) -> Result<f64, PolicyError> {
    let mut bytes = 0.0_f64;
    // SAFETY: the number is written to a live variable, and the message fits its size.
    checked(|message, size| unsafe { foveate_peak_bytes(device as c_int, &raw mut bytes, message, size) })?;
    Ok(bytes)
}

/// Reads a number type: `float32` or `bfloat16` (`f32`, `bf16` for short).
///
/// # Errors
/// [`PolicyError::Setting`] for any other name.
pub fn dtype(name: &str) -> Result<Kind, PolicyError> {
    match name {
        "float32" | "f32" => Ok(Kind::Float),
        "bfloat16" | "bf16" => Ok(Kind::BFloat16),
        _ => Err(PolicyError::Setting {
            what: "dtype",
            expected: "float32 or bfloat16".into(),
            found: format!("{name:?}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;

    #[test]
    fn tensors_are_counted_where_memory_is_asked_for() {
        let x = Tensor::zeros([8, 8], (Kind::Float, Device::Cpu));
        let ((), outer) = allocations(|| {
            let _two = [&x + &x, &x * &x];
            let (_, inner) = allocations(|| x.shallow_clone().g_add_(&x)).unwrap();
            assert_eq!(inner, 0, "in place");
        })
        .unwrap();
        assert_eq!(outer, 2);
    }

    #[test]
    fn operations_are_named_with_those_they_call() {
        let x = Tensor::ones([2], (Kind::Float, Device::Cpu));
        let ((), counts) = operations(|| {
            let _ = x.double_value(&[0]) + x.double_value(&[1]);
            assert!(operations(|| ()).is_err(), "within another");
        })
        .unwrap();
        assert_eq!(counts.get("aten::_local_scalar_dense"), Some(&2), "{counts:?}");
        assert!(operations(|| ()).unwrap().1.is_empty());
    }

    #[test]
    fn a_device_that_is_not_there_has_no_memory() {
        assert!(peak_bytes(Cuda::device_count() as usize).is_err());
    }
}
