//! `gristmill generate`: text from a model.

use std::io::{Write, stdout};
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::chat;
use crate::engine::ModelArgs;
use crate::engine::model::Model;
use crate::engine::sampler::Sampler;
use crate::tokenizer::Tokenizer;

/// Continue a prompt. The text alone goes to standard output, as it comes.
///
/// A model that carries a chat template gets the prompt as a user's message and answers it.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What the model reads.
    #[arg(long)]
    prompt: String,
    /// Take the prompt as it is, without the model's chat template.
    #[arg(long)]
    raw: bool,
    /// Most tokens to generate.
    #[arg(long, default_value_t = 256)]
    max_tokens: u32,
    /// 0 always takes the likeliest token; otherwise one of the 64 likeliest is drawn, the more
    /// evenly the higher this is.
    #[arg(long, default_value_t = 0.0, value_parser = temperature)]
    temperature: f32,
    /// Start of the random numbers.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One line of JSON at the end in place of the text.
    #[arg(long)]
    json: bool,
}

fn temperature(s: &str) -> Result<f32, String> {
    match s.parse::<f32>() {
        Ok(t) if t.is_finite() && t >= 0.0 => Ok(t),
        _ => Err("a number of 0 or more is expected".to_owned()),
    }
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let session = args.model.open()?;
    let tokenizer = Tokenizer::new(&session.gguf)?;
    let chat = match args.raw {
        true => None,
        false => chat::render(&session.gguf, &args.prompt)?,
    };
    let mut prompt = tokenizer.encode(chat.as_deref().unwrap_or(&args.prompt))?;
    if let Some(bos) = tokenizer.bos()
        && prompt.first() != Some(&bos)
    {
        prompt.insert(0, bos);
    }
    ensure!(
        !prompt.is_empty(),
        "the prompt is empty, and this model has no token to start from"
    );
    let context = session.config.context;
    let room = u64::from(context).checked_sub(prompt.len() as u64);
    ensure!(
        room.is_some_and(|room| room >= u64::from(args.max_tokens)),
        "context overflow: {} tokens of prompt and {} to generate exceed this model's context of {context}",
        prompt.len(),
        args.max_tokens
    );
    let capacity = prompt.len() as u32 + args.max_tokens;
    let mut sampler = Sampler::new(args.temperature, args.seed);
    let mut model = session.load(capacity, sampler.candidates(session.config.vocab), false)?;

    let start = Instant::now();
    model.prefill(&prompt)?;
    model.finish()?;
    let prefill = prompt.len() as f64 / start.elapsed().as_secs_f64();

    let mut text = Text::new(!args.json);
    let mut tokens = Vec::new();
    let start = Instant::now();
    let mut stop = "length";
    let mut steps = 0u32;
    while tokens.len() < args.max_tokens as usize {
        let token = next(&mut model, &mut sampler)?;
        if tokenizer.is_stop(token) {
            stop = "end";
            break;
        }
        tokens.push(token);
        text.push(&tokenizer.bytes(token))?;
        if tokens.len() < args.max_tokens as usize {
            model.decode()?;
            steps += 1;
        }
    }
    model.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    let decode = (steps > 0).then(|| f64::from(steps) / seconds);
    let said = text.finish()?;

    let id = session.device.info().id.to_string();
    if args.json {
        let line = serde_json::json!({
            "text": said,
            "tokens": tokens,
            "stop": stop,
            "prompt_tokens": prompt.len(),
            "prefill_tokens_per_second": prefill,
            "decode_tokens_per_second": decode,
            "device": id,
            "precision": session.precision.name(),
        });
        crate::print_line(line)?;
    }
    eprintln!(
        "{id} at {}: prefill {} tokens, {prefill:.1} tokens/s; decode {steps} tokens, {:.1} tokens/s",
        session.precision.name(),
        prompt.len(),
        decode.unwrap_or(0.0)
    );
    Ok(())
}

/// The next token; it stands first among the model's candidates afterwards.
fn next(model: &mut Model, sampler: &mut Sampler) -> Result<u32> {
    if sampler.candidates(model.config().vocab) == 1 {
        return model.best();
    }
    let (ids, logits) = model.candidates()?;
    let token = ids[sampler.choose(&logits)];
    model.choose(token)?;
    Ok(token)
}

/// Bytes that become text as soon as they are whole characters.
struct Text {
    print: bool,
    whole: String,
    rest: Vec<u8>,
}

impl Text {
    fn new(print: bool) -> Self {
        Self {
            print,
            whole: String::new(),
            rest: Vec::new(),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.rest.extend(bytes);
        let mut fresh = String::new();
        loop {
            match std::str::from_utf8(&self.rest) {
                Ok(s) => {
                    fresh.push_str(s);
                    self.rest.clear();
                    break;
                }
                Err(e) => {
                    let (good, bad) = self.rest.split_at(e.valid_up_to());
                    fresh.push_str(&String::from_utf8_lossy(good));
                    let Some(wrong) = e.error_len() else {
                        // The start of a character whose rest may yet come.
                        self.rest = bad.to_vec();
                        break;
                    };
                    fresh.push(char::REPLACEMENT_CHARACTER);
                    self.rest = bad[wrong..].to_vec();
                }
            }
        }
        self.emit(&fresh)
    }

    fn emit(&mut self, fresh: &str) -> Result<()> {
        self.whole.push_str(fresh);
        if self.print && !fresh.is_empty() {
            let mut out = stdout().lock();
            out.write_all(fresh.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    }

    /// The whole text; on standard output, it ends its line.
    fn finish(mut self) -> Result<String> {
        if !self.rest.is_empty() {
            self.emit("\u{fffd}")?;
        }
        if self.print {
            writeln!(stdout())?;
        }
        Ok(self.whole)
    }
}

#[cfg(test)]
mod tests {
    use super::Text;

    #[test]
    fn characters_wait_for_their_last_byte() {
        let mut t = Text::new(false);
        t.push(b"a\xf0\x9f").unwrap();
        assert_eq!(t.whole, "a");
        t.push(b"\x98\x80b\xff").unwrap();
        assert_eq!(t.whole, "a😀b\u{fffd}");
        t.push(b"\xe6\x97").unwrap();
        assert_eq!(t.finish().unwrap(), "a😀b\u{fffd}\u{fffd}");
    }
}
