//! `gristmill bench-model`: how fast a model reads and writes.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::engine::ModelArgs;
use crate::engine::model::Model;

/// Measure tokens per second of a model: reading a prompt, then writing one token at a time.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the prompt.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pp: u32,
    /// Tokens to generate, from an empty context.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    tg: u32,
    /// Runs of each, of which the median counts; one more goes before to warm up.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// One line of JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    let session = args.model.open()?;
    let (context, vocab) = (session.config.context, session.config.vocab);
    // Generation starts from one token.
    let capacity = args.pp.max(args.tg.saturating_add(1));
    ensure!(
        capacity <= context,
        "context overflow: {capacity} positions exceed this model's context of {context}"
    );
    let mut model = session.load(capacity, 1, false)?;
    let load = start.elapsed().as_secs_f64();
    let prompt: Vec<u32> = (0..args.pp).map(|i| i.wrapping_mul(7919) % vocab).collect();
    let pp = f64::from(args.pp) / median(args.repeat, || read(&mut model, &prompt))?;
    let tg = f64::from(args.tg) / median(args.repeat, || write(&mut model, args.tg))?;

    let (id, precision) = (
        session.device.info().id.to_string(),
        session.precision.name(),
    );
    if args.json {
        let line = serde_json::json!({
            "pp": pp, "tg": tg, "load": load, "device": id, "precision": precision
        });
        crate::print_line(line)?;
    } else {
        let file = session.gguf.path().display();
        crate::print_line(format_args!("{file} on {id} at {precision}"))?;
        crate::print_line(format_args!("pp{:<6} {pp:10.1} tokens/s", args.pp))?;
        crate::print_line(format_args!("tg{:<6} {tg:10.1} tokens/s", args.tg))?;
        crate::print_line(format_args!("load     {load:10.2} s"))?;
    }
    Ok(())
}

/// Median seconds of `repeat` runs after one that does not count.
fn median(repeat: u32, mut run: impl FnMut() -> Result<f64>) -> Result<f64> {
    run()?;
    let mut seconds = (0..repeat).map(|_| run()).collect::<Result<Vec<_>>>()?;
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

fn read(model: &mut Model, prompt: &[u32]) -> Result<f64> {
    model.reset();
    let start = Instant::now();
    model.prefill(prompt)?;
    model.finish()?;
    Ok(start.elapsed().as_secs_f64())
}

/// As `generate` does it: the id of each token is read before the next.
fn write(model: &mut Model, tokens: u32) -> Result<f64> {
    model.reset();
    model.prefill(&[0])?;
    model.best()?;
    let start = Instant::now();
    for _ in 0..tokens {
        model.decode()?;
        model.best()?;
    }
    Ok(start.elapsed().as_secs_f64())
}
