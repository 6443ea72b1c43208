//! The program `trainer`.

use std::io::{Write, stderr};
use std::panic;
use std::process::ExitCode;

use clap::Parser;
use trainer::cli::{Cli, dispatch};
use trainer::error::{exit_code, one_line};

fn main() -> ExitCode {
    // libtorch's own failures, running out of memory first of all, come as panics with a C++ trace: one line is enough.
    panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("unknown").replace("\\n", "\n");
        let line = text.lines().next().unwrap_or_default();
        // `eprintln` would panic again if nobody listens.
        let _ = writeln!(stderr(), "error: internal: {line}; a run can be gone on with by --resume");
    }));
    match dispatch(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}
