//! Algorithms as their users see them: recorded groups, identities, what must hold of any group, settings.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod algebra;
mod common;
mod goldens;
mod identities;
mod settings;
