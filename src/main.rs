//! The binary `blip2`: parse, dispatch, exit code. Everything else is in the library.
#![expect(unsafe_code, reason = "the environment is changed, once, before there are threads")]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // SAFETY: this is the first statement of the process's only thread.
    unsafe { blip2::runtime::disable_vendor_telemetry() };
    blip2::cli::Cli::parse().run()
}
