//! Hyper-parameters of a model, from the metadata of its GGUF file.

use anyhow::{Context, Result, bail, ensure};
use gristmill::{Act, RopeKind};

use crate::gguf::Gguf;

/// Families of decoder-only transformers that this engine knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arch {
    /// Llama 2 and 3, Mistral, SmolLM, and the models that share their graph.
    Llama,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Gemma 3, text part.
    Gemma3,
}

/// Sliding-window attention on some layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Keys that a query sees, its own position included.
    pub len: u32,
    /// Which layers have it.
    pub layers: Vec<bool>,
    /// Base of the rope frequencies on the layers with a window.
    pub theta: f32,
}

/// What distinguishes one model from another of its family.
#[derive(Clone, Debug)]
pub struct Config {
    /// Transformer blocks.
    pub layers: u32,
    /// Longest sequence that the model was made for.
    pub context: u32,
    /// Length of the residual stream's rows.
    pub width: u32,
    /// Length of the feed-forward network's rows.
    pub ffn: u32,
    /// Tokens.
    pub vocab: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Length of a query or key.
    pub key_dim: u32,
    /// Length of a value.
    pub value_dim: u32,
    /// Guard of the norms.
    pub eps: f32,
    /// Pairing of rotated numbers.
    pub rope: RopeKind,
    /// Numbers of each head that rotate.
    pub n_rot: u32,
    /// Base of the rope frequencies.
    pub theta: f32,
    /// Divisor of the rope frequencies on layers without a window (linear scaling).
    pub rope_divisor: f32,
    /// Factor on attention scores.
    pub score_scale: f32,
    /// Layers with a sliding window, if any.
    pub window: Option<Window>,
    /// Factor on embeddings, where it is not 1.
    pub embedding_scale: Option<f32>,
    /// Activation of the gated feed-forward network.
    pub act: Act,
}

/// Gemma 3 27B, told by its depth as in llama.cpp, scales scores by `width / heads` in place of
/// the head's length (`query_pre_attn_scalar` of its configuration).
const GEMMA3_27B_LAYERS: u32 = 62;

impl Config {
    /// Reads the hyper-parameters of `gguf`.
    ///
    /// # Errors
    /// The architecture is another one, a key is missing or of the wrong type, or the numbers
    /// contradict each other.
    pub fn new(gguf: &Gguf) -> Result<Self> {
        let name = gguf.str("general.architecture")?;
        let arch = match name {
            "llama" => Arch::Llama,
            "qwen2" => Arch::Qwen2,
            "gemma3" => Arch::Gemma3,
            other => bail!(
                "{}: the architecture {other} is not supported (llama, qwen2 and gemma3 are)",
                gguf.path().display()
            ),
        };
        let key = |what: &str| format!("{name}.{what}");
        let number = |what: &str| -> Result<u32> {
            let n = gguf.usize(&key(what))?;
            let n = u32::try_from(n).ok().filter(|n| (1..1 << 24).contains(n));
            n.with_context(|| format!("{name}.{what} is not a usable size"))
        };
        let number_or = |what: &str, default: u32| match gguf.has(&key(what)) {
            true => number(what),
            false => Ok(default),
        };
        let float_or = |what: &str, default: f32| match gguf.has(&key(what)) {
            true => Ok(gguf.float(&key(what))? as f32),
            false => Ok::<f32, anyhow::Error>(default),
        };

        let width = number("embedding_length")?;
        let heads = number("attention.head_count")?;
        let kv_heads = number_or("attention.head_count_kv", heads)?;
        let key_dim = number_or("attention.key_length", width / heads)?;
        let value_dim = number_or("attention.value_length", width / heads)?;
        let n_rot = number_or("rope.dimension_count", key_dim)?;
        let eps = gguf.float(&key("attention.layer_norm_rms_epsilon"))? as f32;
        let layers = number("block_count")?;
        ensure!(
            heads.is_multiple_of(kv_heads),
            "{heads} query heads cannot share {kv_heads} key heads"
        );
        let ffn = number("feed_forward_length")?;
        let longest = u64::from(heads) * u64::from(key_dim.max(value_dim));
        ensure!(
            longest < 1 << 24,
            "{heads} heads of {key_dim} and {value_dim} numbers are beyond reason"
        );
        ensure!(
            n_rot.is_multiple_of(2) && n_rot <= key_dim,
            "{n_rot} of {key_dim} numbers per head cannot rotate"
        );
        ensure!(
            eps.is_finite() && eps >= 0.0,
            "the epsilon of the norms is {eps}"
        );
        if gguf.has(&key("expert_count")) {
            let experts = gguf.usize(&key("expert_count"))?;
            ensure!(
                experts == 0,
                "a mixture of {experts} experts is not supported by this engine"
            );
        }
        for what in ["final_logit_softcapping", "attn_logit_softcapping"] {
            let cap = float_or(what, 0.0)?;
            ensure!(cap == 0.0, "{name}.{what} = {cap} is not supported");
        }
        let rope_divisor = match gguf.has(&key("rope.scaling.type")) {
            false => 1.0,
            true => match gguf.str(&key("rope.scaling.type"))? {
                "none" => 1.0,
                "linear" => float_or("rope.scaling.factor", 1.0)?,
                other => bail!("rope scaling {other} is not supported (none and linear are)"),
            },
        };

        let embedding = gguf
            .tensor("token_embd.weight")
            .context("the tensor token_embd.weight is missing")?;
        let vocab = match embedding.shape[..] {
            [rows, columns] if columns == width as usize => u32::try_from(rows)?,
            _ => bail!(
                "token_embd.weight is {:?}, not [vocabulary, {width}]",
                embedding.shape
            ),
        };

        let gemma = arch == Arch::Gemma3;
        let scored = if gemma && layers == GEMMA3_27B_LAYERS {
            width / heads
        } else {
            key_dim
        };
        Ok(Self {
            layers,
            context: number("context_length")?,
            width,
            ffn,
            vocab,
            heads,
            kv_heads,
            key_dim,
            value_dim,
            eps,
            rope: match arch {
                // Converters permute the projections of llama so that pairs are neighbours.
                Arch::Llama => RopeKind::Interleaved,
                Arch::Qwen2 | Arch::Gemma3 => RopeKind::HalfSplit,
            },
            n_rot,
            theta: float_or("rope.freq_base", if gemma { 1e6 } else { 1e4 })?,
            rope_divisor,
            score_scale: (scored as f32).sqrt().recip(),
            window: match gemma && gguf.has(&key("attention.sliding_window")) {
                true => Some(Window {
                    len: number("attention.sliding_window")?,
                    layers: windowed(gguf, &key("attention.sliding_window_pattern"), layers)?,
                    theta: float_or("rope.freq_base_swa", 1e4)?,
                }),
                false => None,
            },
            embedding_scale: gemma.then(|| (width as f32).sqrt()),
            act: if gemma { Act::GeluTanh } else { Act::Silu },
        })
    }

    /// The window of `layer`, if it has one.
    pub fn window_of(&self, layer: u32) -> Option<&Window> {
        self.window
            .as_ref()
            .filter(|w| w.layers.get(layer as usize) == Some(&true))
    }
}

/// Which layers have a window: the metadata lists them, or says every how many layers one, the
/// last of its group, sees everything (6 where it says nothing).
fn windowed(gguf: &Gguf, key: &str, layers: u32) -> Result<Vec<bool>> {
    if let Ok(listed) = gguf.floats(key) {
        ensure!(
            listed.len() == layers as usize,
            "{key} lists {} layers of {layers}",
            listed.len()
        );
        return Ok(listed.iter().map(|&v| v != 0.0).collect());
    }
    let every = match gguf.has(key) {
        true => gguf.usize(key)?,
        false => 6,
    };
    ensure!(every > 0, "{key} is 0");
    Ok((1..=layers as usize)
        .map(|layer| !layer.is_multiple_of(every))
        .collect())
}
