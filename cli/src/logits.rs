//! `gristmill logits`: the logits of every position of a token sequence.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use safetensors::tensor::{Dtype, TensorView};

use crate::engine::ModelArgs;

/// Write the logits of every position of a token sequence to a safetensors file.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids, as they are: nothing is added.
    #[arg(long, value_delimiter = ',', required = true)]
    tokens: Vec<u32>,
    /// The file to write: tensor `logits`, f32 [positions, vocabulary].
    #[arg(long, value_name = "F.safetensors")]
    out: PathBuf,
    /// One line of JSON about the run.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let session = args.model.open()?;
    let positions = u32::try_from(args.tokens.len())?;
    ensure!(
        positions <= session.config.context,
        "context overflow: {positions} tokens exceed this model's context of {}",
        session.config.context
    );
    if let Some(bad) = args.tokens.iter().find(|&&t| t >= session.config.vocab) {
        anyhow::bail!(
            "token id {bad} is outside the vocabulary of {}",
            session.config.vocab
        );
    }
    let mut model = session.load(positions, 1, true)?;
    let start = Instant::now();
    let mut logits: Vec<f32> = Vec::new();
    model.logits(&args.tokens, &mut |rows| logits.extend(rows))?;
    let seconds = start.elapsed().as_secs_f64();

    let shape = vec![args.tokens.len(), session.config.vocab as usize];
    let bytes: Vec<u8> = match cfg!(target_endian = "little") {
        true => bytemuck::cast_slice(&logits).to_vec(),
        false => logits.iter().flat_map(|l| l.to_le_bytes()).collect(),
    };
    let about = HashMap::from([
        ("device".to_owned(), session.device.info().id.to_string()),
        ("precision".to_owned(), session.precision.name().to_owned()),
    ]);
    let view = TensorView::new(Dtype::F32, shape.clone(), &bytes)?;
    safetensors::serialize_to_file([("logits", view)], Some(about), &args.out)
        .with_context(|| format!("cannot write {}", args.out.display()))?;

    let rate = f64::from(positions) / seconds;
    if args.json {
        let line = serde_json::json!({
            "out": args.out,
            "shape": shape,
            "device": session.device.info().id.to_string(),
            "precision": session.precision.name(),
            "tokens_per_second": rate,
        });
        crate::print_line(line)?;
    } else {
        eprintln!(
            "{}: f32 [{}, {}], {rate:.1} tokens/s on {} at {}",
            args.out.display(),
            shape[0],
            shape[1],
            session.device.info().id,
            session.precision.name()
        );
    }
    Ok(())
}
