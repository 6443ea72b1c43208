//! Trains video policies: configuration, examples, runs and every command of the program `trainer`.
//!
//! Only this crate reads configurations and the environment, and prints.

// The tiny model's configuration is one `json!` literal.
#![recursion_limit = "256"]

pub mod analyze;
pub mod answer;
pub mod attention;
mod begun;
pub mod bench;
pub mod cli;
pub mod compare;
pub mod config;
mod counterfactual;
pub mod curate;
pub mod data;
pub mod difficulty;
pub mod draw;
pub mod error;
pub mod eval;
pub mod evaluate;
pub mod explain;
pub mod figures;
pub mod frame_sets;
pub mod measure;
pub mod observe;
mod opened;
pub mod passes;
pub mod plan;
pub mod prepare;
pub mod record;
pub mod recorded;
pub mod reward;
pub mod run;
pub mod scenes;
pub mod schedule;
pub mod score;
pub mod select;
pub mod sft;
pub mod stats;
pub mod step;
pub mod study;
pub mod tiny;
pub mod train;
pub mod update;
