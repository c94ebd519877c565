//! The binary `blip2`: parse, dispatch, exit code. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    blip2::cli::Cli::parse().run()
}
