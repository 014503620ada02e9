//! The tokenizer that a GGUF file carries in its metadata.
//!
//! `tokenizer.ggml.model` says the algorithm: `gpt2` is byte-level BPE with a
//! merge table and a pre-tokenizer named by `tokenizer.ggml.pre`; `llama` is
//! SentencePiece BPE, whose merges follow from the scores of the pieces.

use anyhow::{Result, anyhow, bail, ensure};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{NFC, Replace};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::gguf::Gguf;

/// `LLAMA_TOKEN_TYPE_CONTROL`, `_USER_DEFINED`: matched whole, before anything else.
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

#[derive(Clone, Copy, PartialEq)]
enum Algorithm {
    ByteLevel,
    SentencePiece,
}

/// Text to token ids and back, as the model was trained with.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    algorithm: Algorithm,
    bos: Option<u32>,
    stop: Vec<u32>,
    control: Vec<bool>,
}

impl Tokenizer {
    /// Builds the tokenizer described by the metadata of `gguf`.
    ///
    /// # Errors
    /// The metadata names an algorithm or a pre-tokenizer that is not known
    /// here, or contradicts itself.
    pub fn new(gguf: &Gguf) -> Result<Self> {
        let tokens = gguf.strings("tokenizer.ggml.tokens")?;
        ensure!(
            u32::try_from(tokens.len()).is_ok(),
            "a vocabulary of {} tokens",
            tokens.len()
        );
        let types = if gguf.has("tokenizer.ggml.token_type") {
            gguf.floats("tokenizer.ggml.token_type")?
        } else {
            vec![1.0; tokens.len()]
        };
        ensure!(
            types.len() == tokens.len(),
            "the vocabulary has {} tokens but {} token types",
            tokens.len(),
            types.len()
        );
        let mut vocab = Vocab::with_capacity(tokens.len());
        for (id, token) in (0u32..).zip(&tokens) {
            vocab.entry((*token).to_owned()).or_insert(id);
        }

        let (mut inner, algorithm) = match gguf.str("tokenizer.ggml.model")? {
            "gpt2" => (byte_level(gguf, vocab)?, Algorithm::ByteLevel),
            "llama" => (
                sentence_piece(gguf, &tokens, vocab)?,
                Algorithm::SentencePiece,
            ),
            other => bail!(
                "the tokenizer model {other} is not supported (gpt2 and llama are); \
                 `logits --tokens` needs no tokenizer"
            ),
        };
        let whole = tokens.iter().zip(&types).filter(|(t, _)| !t.is_empty());
        let whole = whole.filter_map(|(token, &kind)| match kind {
            CONTROL => Some(AddedToken::from(*token, true)),
            USER_DEFINED => Some(AddedToken::from(*token, false)),
            _ => None,
        });
        // Text is matched as it was written; the normalizer never sees these.
        inner
            .add_tokens(whole.map(|t| t.normalized(false)))
            .map_err(library)?;

        let id = |key: &str| -> Result<Option<u32>> {
            if !gguf.has(key) {
                return Ok(None);
            }
            let id = gguf.usize(key)?;
            ensure!(
                id < tokens.len(),
                "{key} is {id}, outside the vocabulary of {}",
                tokens.len()
            );
            Ok(Some(id as u32))
        };
        let bos = id("tokenizer.ggml.bos_token_id")?;
        let mut stop: Vec<u32> = [
            id("tokenizer.ggml.eos_token_id")?,
            id("tokenizer.ggml.eot_token_id")?,
        ]
        .into_iter()
        .flatten()
        .collect();
        for name in ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<end_of_turn>"] {
            if let Some(id) = inner.token_to_id(name)
                && types[id as usize] == CONTROL
                && !stop.contains(&id)
            {
                stop.push(id);
            }
        }
        let adds_bos = if gguf.has("tokenizer.ggml.add_bos_token") {
            gguf.bool("tokenizer.ggml.add_bos_token")?
        } else {
            algorithm == Algorithm::SentencePiece
        };
        let control = types.iter().map(|&t| t == CONTROL).collect();
        Ok(Self {
            inner,
            algorithm,
            bos: bos.filter(|_| adds_bos),
            stop,
            control,
        })
    }

    /// The ids of `text`. Special tokens written out in it become themselves;
    /// none is added.
    ///
    /// # Errors
    /// The text has a character that the vocabulary cannot say.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self
            .inner
            .encode_fast(text, false)
            .map_err(library)?
            .get_ids()
            .to_vec())
    }

    /// The token that every prompt starts with, if this model wants one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Whether generation ends at `id`.
    pub fn is_stop(&self, id: u32) -> bool {
        self.stop.contains(&id)
    }

    /// The bytes of text that `id` stands for: none for control tokens. A
    /// character may be spread over several tokens.
    pub fn bytes(&self, id: u32) -> Vec<u8> {
        if self.control.get(id as usize) != Some(&false) {
            return Vec::new();
        }
        let piece = self.inner.id_to_token(id).unwrap_or_default();
        match self.algorithm {
            Algorithm::ByteLevel => {
                let bytes: Option<Vec<u8>> = piece.chars().map(byte_of).collect();
                // Tokens that were added to the vocabulary as plain text.
                bytes.unwrap_or_else(|| piece.into_bytes())
            }
            Algorithm::SentencePiece => {
                let byte = piece.strip_prefix("<0x").and_then(|p| p.strip_suffix('>'));
                match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    Some(byte) => vec![byte],
                    None => piece.replace('\u{2581}', " ").into_bytes(),
                }
            }
        }
    }
}

/// The error of the tokenizer library, which is not an `anyhow` source.
fn library(e: Box<dyn std::error::Error + Send + Sync>) -> anyhow::Error {
    anyhow!("tokenizer: {e}")
}

/// Byte-level BPE writes each byte as one printable character: itself where it
/// is printable, else the next free character from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    let shown = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match c as u32 {
        b if b < 0x100 => shown(b).then_some(b as u8),
        c if c < 0x100 + 68 => (0..=255u32)
            .filter(|&b| !shown(b))
            .nth((c - 0x100) as usize)
            .map(|b| b as u8),
        _ => None,
    }
}

fn split(pattern: &str) -> Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(pattern.to_owned());
    Ok(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .map_err(library)?
        .into())
}

fn byte_level(gguf: &Gguf, vocab: Vocab) -> Result<tokenizers::Tokenizer> {
    let pre = if gguf.has("tokenizer.ggml.pre") {
        gguf.str("tokenizer.ggml.pre")?
    } else {
        "default"
    };
    // (first pre-tokenizer, whether text is composed to NFC, whether a word
    // that is a token is taken before any merge)
    let (first, nfc, whole_words) = match pre {
        "smollm" => (vec![Digits::new(true).into(), split(GPT2)?], false, false),
        "qwen2" | "deepseek-r1-qwen" => (vec![split(QWEN2)?], true, false),
        "llama-bpe" | "llama3" | "llama-v3" => (vec![split(LLAMA3)?], false, true),
        "gpt-2" | "gpt2" | "default" => (vec![split(GPT2)?], false, false),
        other => bail!(
            "the pre-tokenizer {other} is not supported (smollm, qwen2, deepseek-r1-qwen, llama-bpe and gpt-2 are); \
             `logits --tokens` needs no tokenizer"
        ),
    };

    let longest = vocab.keys().map(String::len).max().unwrap_or(0);
    let mut merges = Merges::new();
    for merge in gguf.strings("tokenizer.ggml.merges")? {
        let pair = merge
            .split_once(' ')
            .filter(|(a, b)| a.len() + b.len() <= longest);
        let (a, b) = pair.ok_or_else(|| {
            anyhow!("tokenizer.ggml.merges holds {merge:?}, which merges into no token")
        })?;
        merges.push((a.to_owned(), b.to_owned()));
    }
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(whole_words)
        .build()
        .map_err(library)?;
    let mut t = tokenizers::Tokenizer::new(bpe);
    if nfc {
        t.with_normalizer(Some(NFC)).map_err(library)?;
    }
    let mut steps = first;
    steps.push(ByteLevel::new(false, false, false).into());
    t.with_pre_tokenizer(Some(Sequence::new(steps)));
    Ok(t)
}

fn sentence_piece(gguf: &Gguf, tokens: &[&str], vocab: Vocab) -> Result<tokenizers::Tokenizer> {
    let scores = gguf.floats("tokenizer.ggml.scores")?;
    ensure!(
        scores.len() == tokens.len(),
        "the vocabulary has {} tokens but {} scores",
        tokens.len(),
        scores.len()
    );
    // SentencePiece joins the neighbours whose union scores best. As a merge
    // table: every way to split a piece into two pieces, best pieces first.
    let mut splits = Vec::new();
    for (piece, score) in tokens.iter().zip(&scores) {
        for (at, _) in piece.char_indices().skip(1) {
            let (a, b) = piece.split_at(at);
            if let (Some(&ia), Some(&ib)) = (vocab.get(a), vocab.get(b)) {
                splits.push((*score, ia, ib));
            }
        }
    }
    splits.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
    let merges: Merges = splits
        .into_iter()
        .map(|(_, a, b)| (tokens[a as usize].to_owned(), tokens[b as usize].to_owned()))
        .collect();

    let unknown = if gguf.has("tokenizer.ggml.unknown_token_id") {
        gguf.usize("tokenizer.ggml.unknown_token_id")?
    } else {
        0
    };
    let unknown = *tokens
        .get(unknown)
        .ok_or_else(|| anyhow!("tokenizer.ggml.unknown_token_id is outside the vocabulary"))?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .unk_token(unknown.to_owned())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .map_err(library)?;
    let mut t = tokenizers::Tokenizer::new(bpe);
    let spaces = Replace::new(" ", "\u{2581}").map_err(library)?;
    let prefix = !gguf.has("tokenizer.ggml.add_space_prefix")
        || gguf.bool("tokenizer.ggml.add_space_prefix")?;
    if prefix {
        let first = tokenizers::normalizers::Prepend::new("\u{2581}".to_owned());
        let both = tokenizers::normalizers::Sequence::new(vec![first.into(), spaces.into()]);
        t.with_normalizer(Some(both)).map_err(library)?;
    } else {
        t.with_normalizer(Some(spaces)).map_err(library)?;
    }
    Ok(t)
}
