//! `cargo xtask test`: which devices there are, and every test on them.

use crate::demo::cargo;
use anyhow::Result;

/// Show which devices there are, and run every test on them.
#[derive(clap::Args)]
pub struct Args {
    /// Arguments for the test binaries, such as a part of a test's name.
    #[arg(trailing_var_arg = true)]
    rest: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let rest: Vec<&str> = args.rest.iter().map(String::as_str).collect();
    let tests = ["test", "--workspace", "--all-features", "--"];
    // The devices are printed by the same build that the tests use.
    cargo(&["build", "--workspace", "--all-features"])?;
    cargo(&[
        "run",
        "--quiet",
        "--all-features",
        "--package",
        "gristmill-cli",
        "--",
        "devices",
    ])?;
    cargo(&[&tests[..], &rest].concat())
}
