//! Data sets of video questions: their files, prompts and answers.
//!
//! [`Records`] reads a data set's files, whatever they look like ([`Format`]), as one [`Example`] each, in any order and
//! without holding them in memory. A [`Prompts`] file says how an example is put to a policy.
//!
//! This crate knows nothing of models and does not open media.

mod error;
mod example;
mod formats;
mod invert;
mod prompts;
mod records;
mod store;
mod subtitles;

pub use error::{DataError, Fault};
pub use example::{Example, Medium, letter};
pub use formats::{Format, line, option_texts};
pub use invert::{Inversion, Style};
pub use prompts::{Prompts, Seen, Turn};
pub use records::Records;
pub use subtitles::Subtitles;
