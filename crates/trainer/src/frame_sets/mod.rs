//! Sets of frames and what they are worth to a frozen model (ReFoCUS, arXiv 2506.01274).

mod framed;
mod scorer;
mod sensitivity;

pub use framed::{Framed, FramedExamples};
pub use scorer::FrameScorer;
pub use sensitivity::Sensitivity;
