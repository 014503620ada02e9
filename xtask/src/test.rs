//! `cargo xtask test`: which devices there are, and every test on them.

use crate::demo::{cargo, cargo_with};
use anyhow::{Context, Result, ensure};
use std::process::Command;

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
    show_devices()?;
    // A machine without a GPU or a software Vulkan driver passes with what it has, as the list
    // above says; where the driver belongs to the machine (CI), its absence is a failure.
    let strict = std::env::var_os("GRISTMILL_REQUIRE_WGPU").is_some();
    let env: &[(&str, &str)] = match strict {
        true => &[],
        false => &[("GRISTMILL_ALLOW_NO_GPU", "1")],
    };
    cargo_with(&[&tests[..], &rest].concat(), env)
}

/// Runs the command line that the workspace's build has just made: `cargo run` of one package may
/// choose other features of what it depends on, and would build all of it again.
fn show_devices() -> Result<()> {
    let here = std::env::current_exe().context("finding the build folder")?;
    let name = format!("gristmill{}", std::env::consts::EXE_SUFFIX);
    let program = here
        .ancestors()
        .nth(2)
        .map(|target| target.join("debug").join(name))
        .filter(|program| program.is_file());
    let Some(program) = program else {
        let run = [
            "run",
            "--quiet",
            "--all-features",
            "--package",
            "gristmill-cli",
        ];
        return cargo(&[&run[..], &["--", "devices"]].concat());
    };
    let status = Command::new(&program)
        .arg("devices")
        .status()
        .with_context(|| format!("running {}", program.display()))?;
    ensure!(status.success(), "{} devices: {status}", program.display());
    Ok(())
}
