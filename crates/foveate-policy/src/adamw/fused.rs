//! Safe calls of the operations on lists of tensors in `fused.cpp`.

use std::ffi::{c_char, c_int};

use tch::Tensor;

use crate::{
    PolicyError,
    native::{Raw, checked, raw},
};

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) lr: f64,
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) weight_decay: f64,
    pub(super) eps: f64,
}

unsafe extern "C" {
    fn foveate_norm(tensors: *const Raw, count: usize, norm: *mut f64, message: *mut c_char, size: usize) -> c_int;
    fn foveate_adamw_step(
        parameters: *const Raw,
        gradients: *const Raw,
        first: *const Raw,
        second: *const Raw,
        steps: *const Raw,
        count: usize,
        scale: Raw,
        options: Options,
        message: *mut c_char,
        size: usize,
    ) -> c_int;
}

/// Lists of equal length that an AdamW step works on, all of one type and on one device.
#[derive(Debug, Default)]
pub(super) struct Lists<'a> {
    pub(super) parameters: Vec<&'a Tensor>,
    pub(super) gradients: Vec<&'a Tensor>,
    pub(super) first: Vec<&'a Tensor>,
    pub(super) second: Vec<&'a Tensor>,
    /// The number of this step, counted from 1, f32.
    pub(super) steps: Vec<&'a Tensor>,
}

/// The Euclidean norm of all tensors together; 0 of none.
pub(super) fn norm(tensors: &[&Tensor]) -> Result<f64, PolicyError> {
    if tensors.is_empty() {
        return Ok(0.0);
    }
    let tensors = all(tensors);
    let mut norm = 0.0_f64;
    // SAFETY: the pointers are to live tensors, `count` of them; the message fits its size.
    checked(|message, size| unsafe { foveate_norm(tensors.as_ptr(), tensors.len(), &raw mut norm, message, size) })?;
    Ok(norm)
}

/// One step of libtorch's fused AdamW in place; gradients are divided by `scale`, an f32 scalar on their device.
pub(super) fn step(lists: &Lists<'_>, scale: &Tensor, options: Options) -> Result<(), PolicyError> {
    let [parameters, gradients, first, second, steps] =
        [&lists.parameters, &lists.gradients, &lists.first, &lists.second, &lists.steps].map(|list| all(list));
    let count = parameters.len();
    if count == 0 {
        return Ok(());
    }
    debug_assert!([&gradients, &first, &second, &steps].iter().all(|list| list.len() == count));
    // SAFETY: the pointers are to live tensors, `count` of each kind; the message fits its size.
    checked(|message, size| unsafe {
        foveate_adamw_step(
            parameters.as_ptr(),
            gradients.as_ptr(),
            first.as_ptr(),
            second.as_ptr(),
            steps.as_ptr(),
            count,
            raw(scale),
            options,
            message,
            size,
        )
    })
}

fn all(tensors: &[&Tensor]) -> Vec<Raw> {
    tensors.iter().map(|tensor| raw(tensor)).collect()
}
