//! `cargo xtask peers`: our kernels beside those of others.

use crate::demo::cargo;
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

/// Build the peers, the command and our side, and measure them in one run.
#[derive(clap::Args)]
pub struct Args {
    /// Use the peers as they are: build none.
    #[arg(long)]
    no_setup: bool,
    /// Options of the measurement; `--help` shows them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if !args.no_setup {
        let done = Command::new("bash").arg("peers/setup.sh").status();
        ensure!(
            done.context("bash")?.success(),
            "peers/setup.sh failed (--no-setup measures with the peers that are there)"
        );
    }
    let both = ["--package", "gristmill-peers", "--package", "gristmill-cli"];
    cargo(&[&["build", "--release", "--bins"], &both[..]].concat())?;
    // Real-time priority where the system allows it.
    let real_time = Command::new("chrt")
        .args(["-f", "10", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    let program = "target/release/gristmill-peers";
    let mut command = match real_time {
        true => {
            let mut chrt = Command::new("chrt");
            chrt.args(["-f", "10", program]);
            chrt
        }
        false => {
            eprintln!("no real-time priority here: other processes will disturb the numbers");
            Command::new(program)
        }
    };
    let done = command.args(&args.rest).status().context(program)?;
    ensure!(done.success(), "{program} failed");
    Ok(())
}
