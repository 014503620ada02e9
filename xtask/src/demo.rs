//! `cargo xtask demo`: a real model answers, and the device that computed it is verified.

use crate::model::{self, Name};
use anyhow::{Result, ensure};
use std::process::Command;

/// Fetch a small real model, let it answer on the best device, and verify that device.
#[derive(clap::Args)]
pub struct Args {
    /// The question.
    #[arg(long, default_value = "What is a gristmill? Answer in two sentences.")]
    prompt: String,
    /// The device (default: GRISTMILL_DEVICE, else the best).
    #[arg(long)]
    device: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let device: &[&str] = match &args.device {
        Some(d) => &["--device", d],
        None => &[],
    };
    match model::locate(Name::Smollm2, None) {
        Ok(path) => {
            let path = path.to_string_lossy();
            let fixed = [
                "generate",
                "--model",
                &path,
                "--max-tokens",
                "96",
                "--prompt",
            ];
            gristmill(&[&fixed[..], &[args.prompt.as_str()], device].concat())?;
        }
        Err(e) => {
            eprintln!("{e:#}");
            eprintln!("Without the model, the kernels show themselves:");
            cargo(&["run", "--release", "--quiet", "--example", "quickstart"])?;
        }
    }
    eprintln!("Every kernel of this device against the f64 reference, smoke tier:");
    gristmill(&[&["verify", "--tier", "smoke"][..], device].concat())
}

/// Write docs/support.md and the README's table from the conformance suite.
#[derive(clap::Args)]
pub struct SupportArgs {
    /// The devices, with commas.
    #[arg(long, default_value = "cpu,wgpu")]
    devices: String,
    /// How much of the suite.
    #[arg(long, default_value = "smoke")]
    tier: String,
}

/// Runs `cargo xtask support`.
pub fn support(args: &SupportArgs) -> Result<()> {
    gristmill(&["support", "--devices", &args.devices, "--tier", &args.tier])
}

/// Runs the command line of this workspace.
fn gristmill(args: &[&str]) -> Result<()> {
    let fixed = [
        "run",
        "--release",
        "--quiet",
        "--package",
        "gristmill-cli",
        "--",
    ];
    cargo(&[&fixed[..], args].concat())
}

/// Runs cargo with inherited output.
pub fn cargo(args: &[&str]) -> Result<()> {
    cargo_with(args, &[])
}

/// Runs cargo with inherited output and more environment.
pub fn cargo_with(args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Mesa complains on standard error where a headless machine lacks it.
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    }
    let status = command.args(args).envs(env.iter().copied()).status()?;
    ensure!(
        status.success(),
        "cargo {} failed: {status}",
        args.join(" ")
    );
    Ok(())
}
