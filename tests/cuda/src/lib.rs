//! A CUDA device that is none: a library that libtorch takes for its own CUDA part, and whose one device computes with the
//! CPU's kernels in the host's memory.
//!
//! What runs on it runs as on a GPU up to libtorch's own choices and kernels: every branch that we take on CUDA, every tensor
//! on the device that it should be on, every wait of the host for a value. It holds code to more than the CPU does: tensors of
//! host and device in one operation are an error, and so are sums that CUDA forms in any order; fresh memory is no number;
//! log-sum-exps of attention are padded as the real kernel's. What it cannot show is what the real kernels do: their
//! rounding, their speed, the memory that they take.

/// The library, for `FOVEATE_LIBTORCH_CUDA` or to be loaded with all its symbols before libtorch is first used.
pub const LIBRARY: &str = env!("CUDA_STAND_IN");
