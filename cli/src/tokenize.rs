//! `gristmill tokenize`: the ids that `logits --tokens` takes.

use std::path::PathBuf;

use anyhow::Result;

use crate::gguf::Gguf;
use crate::tokenizer::Tokenizer;

/// Print the token ids of a text, comma separated.
#[derive(clap::Args)]
pub struct Args {
    /// The model file (GGUF) whose tokenizer to use.
    #[arg(long)]
    model: PathBuf,
    /// The text; special tokens written out in it become themselves.
    text: String,
    /// Start with the token that this model's prompts start with, if any.
    #[arg(long)]
    bos: bool,
    /// One line of JSON: `{"tokens": [..]}`.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let tokenizer = Tokenizer::new(&Gguf::open(&args.model)?)?;
    let mut ids: Vec<u32> = tokenizer.bos().filter(|_| args.bos).into_iter().collect();
    ids.extend(tokenizer.encode(&args.text)?);
    if args.json {
        return crate::print_line(serde_json::json!({ "tokens": ids }));
    }
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    crate::print_line(ids.join(","))
}
