//! Sets of frames and what they are worth to a frozen model (ReFoCUS, arXiv 2506.01274).

mod asker;
mod framed;
mod picked;
mod picker;
mod scorer;
mod sensitivity;
mod spread;
mod step;

pub use asker::FrameAsker;
pub use framed::{Framed, FramedExamples, Part, passed_over};
pub use picked::Picked;
pub use picker::{Picker, Sees, density, sets};
pub use scorer::{FrameScorer, Judged};
pub use sensitivity::Sensitivity;
pub use spread::temporal_entropy;
pub use step::{PickStepped, PickStepper};
