//! The command line: clap types, one file per command, exit codes. Only here and in `main` is clap named.

mod bench;
mod probe;
mod runtime_args;
mod score;
mod seconds;
mod serve;
mod server_args;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::launch::LaunchError;

const EXIT_CODES: &str = "\
Exit codes:
  0  all went well
  1  an answer could not be given, `verify` found a wrong golden answer, or the service that was probed is not ready
  2  wrong usage: an unknown flag, a value out of range, an image that cannot be read
  3  the model cannot be loaded: no bundle, a damaged one, no ONNX Runtime; `serve` found a wrong golden answer, or the port cannot be bound

Every flag can also be set by the environment variable in brackets. BLIP2_LOG sets the log filter (info, debug, …), or \
AZUREML_LOG_LEVEL its level.";

/// BLIP-2 on ONNX Runtime: asks images questions, on the command line and over HTTP.
#[derive(Debug, Parser)]
#[command(name = "blip2", version, after_long_help = EXIT_CODES, after_help = "See --help for exit codes.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer scoring requests over HTTP
    Serve(serve::ServeArgs),
    /// Score one image and print the answer as JSON
    Score(score::ScoreArgs),
    /// Check a bundle: file hashes, graph signatures, golden answers
    Verify(verify::VerifyArgs),
    /// Ask a running service whether it is ready, for a container's health check
    Probe(probe::ProbeArgs),
    /// Measure what a bundle gives on this machine
    Bench(bench::BenchArgs),
}

impl Cli {
    /// Runs the command. Errors go to standard error as one line.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Serve(args) => serve::run(&args),
            Command::Score(args) => score::run(&args),
            Command::Verify(args) => verify::run(&args),
            Command::Probe(args) => probe::run(&args),
            Command::Bench(args) => bench::run(&args),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("blip2: {}", one_line(&failure.error));
                ExitCode::from(failure.code)
            }
        }
    }
}

/// Most messages name their cause, with the remedy after it; the causes that are still unsaid follow.
fn one_line(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .fold(error.to_string(), |line, cause| if line.contains(&cause) { line } else { format!("{line}: {cause}") })
}

/// Why a command ended, and its exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl Failure {
    /// The command ran, and its result is bad.
    fn result(error: impl Into<anyhow::Error>) -> Self {
        Self { code: 1, error: error.into() }
    }

    /// The flags or their values cannot be used.
    fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { code: 2, error: error.into() }
    }

    /// The service or the model cannot start.
    fn start(error: impl Into<anyhow::Error>) -> Self {
        Self { code: 3, error: error.into() }
    }
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Golden(_) => Self::result(error),
            _ => Self::start(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;
    use crate::bundle::BundleError;

    #[test]
    fn a_cause_is_told_once_whether_or_not_the_message_names_it() {
        let source = io::Error::other("the disk is gone");
        let error = anyhow::Error::new(BundleError::Read { path: "model".into(), source });
        assert_eq!(one_line(&error), "cannot read model: the disk is gone; copy or export the bundle again");
        let error = Err::<(), _>(io::Error::other("taken")).context("cannot listen").unwrap_err();
        assert_eq!(one_line(&error), "cannot listen: taken");
    }
}
