//! `cargo xtask test`: which devices there are, and every test on them.

use crate::demo::{cargo, cargo_with};
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
    // A machine without a GPU or a software Vulkan driver passes with what it has, as the list
    // above says; where the driver belongs to the machine (CI), its absence is a failure.
    let strict = std::env::var_os("GRISTMILL_REQUIRE_WGPU").is_some();
    let env: &[(&str, &str)] = match strict {
        true => &[],
        false => &[("GRISTMILL_ALLOW_NO_GPU", "1")],
    };
    cargo_with(&[&tests[..], &rest].concat(), env)
}
