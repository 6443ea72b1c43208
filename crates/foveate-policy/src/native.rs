//! What all calls of the C++ files share: those of libtorch's operations that tch does not bind, and one of our own.

use std::ffi::{CStr, c_char, c_int, c_void};

use tch::Tensor;

use crate::PolicyError;

/// libtorch's tensor, which tch holds a pointer to.
pub(crate) type Raw = *const c_void;

/// The pointer to a tensor; alive as long as the tensor is.
pub(crate) fn raw(tensor: &Tensor) -> Raw {
    tensor.as_ptr().cast()
}

/// Calls C++ code that returns 0, or 1 with a message.
pub(crate) fn checked(call: impl FnOnce(*mut c_char, usize) -> c_int) -> Result<(), PolicyError> {
    let mut message = [0; 512];
    if call(message.as_mut_ptr(), message.len()) == 0 {
        return Ok(());
    }
    // SAFETY: the callee ends its message with a zero within the buffer.
    let message = unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned();
    Err(tch::TchError::Torch(message).into())
}
