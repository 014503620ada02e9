//! The `gristmill` command.
//!
//! One file per subcommand; each has an `Args` and a `run`. Results go to standard output, all
//! else to standard error. The exit code is 0 for success, 1 for a failure and 2 for a wrong
//! command line.

use std::fmt::Display;
use std::io::{Write, stdout};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod bench_model;
mod chat;
mod device;
mod devices;
mod engine;
mod generate;
mod gguf;
mod logits;
mod replay;
mod support;
mod tokenize;
mod tokenizer;
mod verify;

/// Compute kernels for model inference: what this machine has, whether it is right, how fast it is.
#[derive(Parser)]
#[command(name = "gristmill", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Args),
    BenchModel(bench_model::Args),
    Devices(devices::Args),
    Generate(generate::Args),
    Logits(logits::Args),
    Replay(replay::Args),
    Support(support::Args),
    Tokenize(tokenize::Args),
    Verify(verify::Args),
}

fn main() -> ExitCode {
    let warnings = env_logger::Env::default().default_filter_or("warn");
    env_logger::Builder::from_env(warnings)
        .format_timestamp(None)
        .init();
    let done = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::BenchModel(args) => bench_model::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Support(args) => support::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Verify(args) => verify::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// One line of results. A closed pipe is an error like any other, not a panic.
fn print_line(line: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(stdout(), "{line}")?)
}
