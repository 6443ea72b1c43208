//! The program `trainer`.

use std::process::ExitCode;

use clap::Parser;
use trainer::cli::{Cli, dispatch};
use trainer::error::{exit_code, one_line};

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}
