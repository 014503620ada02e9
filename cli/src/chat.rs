//! The chat template of an instruction-tuned model.

use anyhow::{Context, Result};
use minijinja::{Environment, Error, ErrorKind, context};

use crate::gguf::Gguf;

const KEY: &str = "tokenizer.chat_template";

/// What the model must read so that it answers `prompt`: its own chat template (a Jinja program
/// in the metadata) around one message of the user. `None` for a model without a template.
///
/// # Errors
/// The template is not valid, or refuses.
pub fn render(gguf: &Gguf, prompt: &str) -> Result<Option<String>> {
    if !gguf.has(KEY) {
        return Ok(None);
    }
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |why: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, why))
    });
    let special = |key: &str| -> Result<String> {
        let tokens = gguf.strings("tokenizer.ggml.tokens")?;
        Ok(match gguf.has(key) {
            true => tokens
                .get(gguf.usize(key)?)
                .copied()
                .unwrap_or_default()
                .to_owned(),
            false => String::new(),
        })
    };
    let rendered = env
        .render_str(
            gguf.str(KEY)?,
            context! {
                messages => [context! { role => "user", content => prompt }],
                add_generation_prompt => true,
                bos_token => special("tokenizer.ggml.bos_token_id")?,
                eos_token => special("tokenizer.ggml.eos_token_id")?,
            },
        )
        .with_context(|| format!("{KEY} of {}; --raw does without it", gguf.path().display()))?;
    Ok(Some(rendered))
}
