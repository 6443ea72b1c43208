//! The program as its users meet it: every command on real files, most of them in a process of their own.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails; the lint spares only its #[test] functions")]

mod algorithms;
mod analyze;
mod attention;
mod bench;
mod benchmarks;
mod compare;
mod cuda;
mod curate;
mod curve;
mod data;
mod evaluate;
mod explain;
mod picks;
mod resume;
mod score;
mod setup;
mod training;
mod user_errors;
