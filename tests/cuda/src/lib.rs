//! A CUDA device that is none: a library that libtorch takes for its own CUDA part, and whose one device computes with the
//! CPU's kernels in the host's memory.
//!
//! What runs on it runs as on a GPU up to libtorch's own choices and kernels: every branch that we take on CUDA, every tensor
//! on the device that it should be on. It holds code to more than the CPU does: tensors of host and device in one operation are
//! an error, and so are `index_add`, `scatter_add` and running sums where CUDA's order is not fixed; fresh memory is no number;
//! log-sum-exps of attention are padded as the real kernel's. It counts the host's copies from the device and the operations
//! whose result it reads. What it cannot show is what the real kernels do: their
//! rounding, their speed, the memory that they take.

use std::{env, ffi::OsString, path::Path};

/// The variable that names the library of a real device, which then takes the stand-in's place.
pub const REAL: &str = "FOVEATE_LIBTORCH_CUDA";

/// The library with the device's operations, for that variable or to be loaded with all its symbols before libtorch is first
/// used: the one that [`REAL`] names, the one beside a full torch's CPU part (with which the stand-in cannot be loaded), or
/// the stand-in.
#[must_use]
pub fn library() -> OsString {
    let beside = Path::new(env!("LIBTORCH_AT_BUILD")).join("lib/libtorch_cuda.so");
    let here = || if beside.exists() { beside.into() } else { env!("CUDA_STAND_IN").into() };
    env::var_os(REAL).unwrap_or_else(here)
}

/// Whether [`library`] is the stand-in.
#[must_use]
pub fn stands_in() -> bool {
    library() == env!("CUDA_STAND_IN")
}
