//! `blip2 verify`: is this bundle whole, does it fit this build, and does this machine answer as the reference does?

use anyhow::anyhow;
use clap::Args;

use super::Failure;
use super::runtime_args::RuntimeArgs;
use crate::launch::{open, replay_goldens};
use crate::telemetry::{self, LogTarget};

/// The flags of `blip2 verify`, as typed.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    runtime: RuntimeArgs,
}

pub(super) fn run(args: &VerifyArgs) -> Result<(), Failure> {
    telemetry::start(LogTarget::Stderr);
    let (bundle, engine) = open(&args.runtime.settings())?.start()?;
    let manifest = bundle.manifest();
    println!("bundle      {} in {}", manifest.name, bundle.root().display());
    println!("files       {} with the sizes and hashes of the manifest", manifest.files.len());
    println!("signatures  all inputs and outputs of the three graphs as in the manifest");
    let goldens = replay_goldens(&bundle, &engine, None)?;
    if goldens.of == 0 {
        return Err(Failure::result(anyhow!(
            "{} holds no golden answers; run `python -m blip2_export verify` on it",
            bundle.root().display()
        )));
    }
    println!("golden      {} of {} answers equal the reference", goldens.right, goldens.of);
    Ok(())
}
