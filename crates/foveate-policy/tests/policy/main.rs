//! The policy as its users see it: golden models, groups and their gradients, generation, model directories.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails; the lint spares only its #[test] functions")]

mod common;
mod counterfactual;
mod directory;
mod goldens;
mod gradients;
mod group;
mod rollout;
mod selector;
mod transformers;
