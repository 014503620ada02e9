//! The `gristmill` command.
//!
//! One file per subcommand; each has an `Args` and a `run`. Results go to standard output, all
//! else to standard error. The exit code is 0 for success, 1 for a failure and 2 for a wrong
//! command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod gguf;
mod tokenize;
mod tokenizer;

/// Compute kernels for model inference: what this machine has, whether it is right, how fast it is.
#[derive(Parser)]
#[command(name = "gristmill", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Tokenize(tokenize::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Tokenize(args) => tokenize::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
