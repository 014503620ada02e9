//! gristmill's kernels beside those of others, interleaved in one run: `cargo xtask peers`.

mod case;
mod measure;
mod ours;
mod peer;
mod pin;
mod report;
mod rows;

use anyhow::{Context, Result, bail};
use clap::Parser;
use gristmill::conformance::matches;
use std::{path::PathBuf, process::ExitCode};

/// Measure gristmill's kernels and those of others in one run, with the machine's limits.
#[derive(Parser)]
#[command(name = "gristmill-peers")]
pub struct Args {
    /// Only rows whose name contains this, or matches it as a pattern with `*` and `?`; may be
    /// given several times.
    #[arg(long)]
    filter: Vec<String>,
    /// Leave out these rows.
    #[arg(long)]
    skip: Vec<String>,
    /// Seconds that the whole run may take, about.
    #[arg(long, default_value_t = 540.0, value_parser = positive)]
    budget: f64,
    /// Seconds of one turn.
    #[arg(long, default_value_t = 0.02, value_parser = positive)]
    turn: f64,
    /// Most rounds in which everybody has a turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only our own side and the limits.
    #[arg(long)]
    alone: bool,
    /// Only these peers (ggml, rust, candle, torch, openblas).
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Only our own side, as JSON lines `group`, `peer`, `dtype`, `M`, `N`, `K`, `ms`, ...
    #[arg(long)]
    lines: bool,
    /// Where the results go as JSON.
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    /// Write the results as a page.
    #[arg(long, value_name = "FILE.md")]
    markdown: Option<PathBuf>,
    /// Take results from a file of `--json` in place of measuring.
    #[arg(long, value_name = "FILE.json")]
    from: Option<PathBuf>,
    /// Print the names of the rows and end.
    #[arg(long)]
    list: bool,
    /// Where the peers are built.
    #[arg(long, env = "PEERS_DIR")]
    peers_dir: Option<PathBuf>,
    /// Where the model files are.
    #[arg(long, env = "GRISTMILL_MODELS")]
    models: Option<PathBuf>,
}

fn positive(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(n) if n > 0.0 && n.is_finite() => Ok(n),
        _ => Err("a number above 0 is expected".to_owned()),
    }
}

fn cache(part: &str) -> PathBuf {
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    home.join(".cache").join(part)
}

fn run(args: &Args) -> Result<()> {
    let mut rows = rows::rows();
    rows.retain(|r| {
        let any = |list: &[String]| list.iter().any(|p| matches(p, &r.name));
        (args.filter.is_empty() || any(&args.filter)) && !any(&args.skip)
    });
    if args.list {
        rows.iter().for_each(|r| println!("{}", r.name));
        return Ok(());
    }
    let report = match &args.from {
        Some(path) => {
            let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
            serde_json::from_slice(&bytes)?
        }
        None => {
            if rows.is_empty() {
                bail!("no row passes the filters");
            }
            measure::run(args, &rows)?
        }
    };
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &args.markdown {
        std::fs::write(path, report::markdown(&report)?)
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
