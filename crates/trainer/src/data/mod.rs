//! From a file of records to examples ready for the policy, in an order that a seed fixes and a checkpoint can go back to.

mod examples;
mod loader;
mod media;
mod memory;
mod sampler;

pub use foveate_data::{Example, Medium, Records};

pub(crate) use examples::conversation;
pub use examples::{Asked, Examples, Prepared, Preparer, View};
pub use loader::{BadExample, Batch, Loader, LoaderOptions, LoaderState, Source};
pub use media::{Apart, Clip, MediaReader, Shown};
pub use sampler::{Epochs, Order, first};
