//! Maintenance commands of the workspace: `cargo xtask COMMAND`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod demo;
mod model;
mod nvrtc;
mod peers;
mod ptx;
mod test;

/// Maintenance commands of the gristmill workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch a small real model, let it answer on the best device, and verify that device.
    Demo(demo::Args),
    /// Fetch a small real model and print where it is.
    Model(model::Args),
    /// Measure the kernels beside those of other libraries.
    Peers(peers::Args),
    /// Build kernels/ptx from kernels/*.cu, or check that it is current and assembles everywhere.
    Ptx(ptx::Args),
    /// Write docs/support.md and the README's table from the conformance suite.
    Support(demo::SupportArgs),
    /// Show which devices there are, and run every test on them.
    Test(test::Args),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Model(args) => model::run(&args),
        Command::Peers(args) => peers::run(&args),
        Command::Ptx(args) => ptx::run(&args),
        Command::Support(args) => demo::support(&args),
        Command::Test(args) => test::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
