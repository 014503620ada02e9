//! One piece of work that everybody does.

use gristmill::{DType, Element, QuantFormat};

/// Weights are rotated over copies of at least this many bytes when few rows are multiplied.
pub const COLD_WEIGHTS: u64 = 160 << 20;
/// The same for the key-value caches of a decoding step.
pub const COLD_KV: u64 = 96 << 20;
/// Up to this many rows of x, a matrix product reads its weights from memory.
pub const FEW_ROWS: u32 = 16;

/// A piece of work.
#[derive(Clone, Debug, PartialEq)]
pub enum Case {
    /// y[M, N] = x[M, K] . w[N, K]^T, f32 in and out (int8: i8 in, i32 out).
    MatMul {
        w: Element,
        m: u32,
        n: u32,
        k: u32,
        /// Weights in a layout of the library's own, made once.
        packed: bool,
    },
    /// Attention with f32 queries.
    Attention {
        kv: Element,
        /// bf16 and f16 arithmetic is allowed.
        half: bool,
        b: u32,
        heads: u32,
        kv_heads: u32,
        dk: u32,
        dv: u32,
        sq: u32,
        skv: u32,
        causal: bool,
    },
    /// Rows of K numbers to floats.
    Dequantize {
        w: QuantFormat,
        y: DType,
        rows: u32,
        k: u32,
    },
    /// A prompt of 512 tokens, or 128 tokens one by one.
    Model { file: &'static str, prompt: bool },
    /// Loading a model, prepacking included.
    Load { file: &'static str },
}

impl Case {
    /// What to say to a peer, after `open`; `None` where no peer has the like.
    pub fn words(&self, threads: usize, models: &std::path::Path) -> Option<String> {
        let kind = |e: &Element| e.to_string();
        Some(match self {
            Case::MatMul { w, m, n, k, .. } => format!("mm {threads} {} {m} {n} {k}", kind(w)),
            Case::Attention {
                kv,
                b,
                heads,
                kv_heads,
                dk,
                dv,
                sq,
                skv,
                causal,
                ..
            } => format!(
                "attn {threads} {} {b} {heads} {kv_heads} {dk} {dv} {sq} {skv} {}",
                kind(kv),
                u8::from(*causal)
            ),
            Case::Dequantize { w, y, rows, k } => {
                format!("dequant {threads} {} {y} {rows} {k}", w.name())
            }
            Case::Model { file, prompt } => {
                let what = if *prompt { "pp512" } else { "tg128" };
                format!("model {threads} {what} {}", models.join(file).display())
            }
            Case::Load { .. } => return None,
        })
    }

    /// Arithmetic operations; 0 for whole models.
    pub fn flops(&self) -> f64 {
        match self {
            Case::MatMul { m, n, k, .. } => 2.0 * f64::from(*m) * f64::from(*n) * f64::from(*k),
            Case::Attention {
                b,
                heads,
                dk,
                dv,
                sq,
                skv,
                causal,
                ..
            } => {
                let pairs = f64::from(*sq) * f64::from(*skv);
                // Half of the square and half of the diagonal.
                let seen = match *causal && sq == skv {
                    true => (pairs + f64::from(*sq)) / 2.0,
                    false => pairs,
                };
                2.0 * f64::from(b * heads) * seen * f64::from(dk + dv)
            }
            Case::Dequantize { rows, k, .. } => f64::from(*rows) * f64::from(*k),
            Case::Model { .. } | Case::Load { .. } => 0.0,
        }
    }

    /// Bytes that must come from memory (weights, keys and values) or, for dequantization, go to it.
    pub fn bytes(&self) -> f64 {
        match self {
            Case::MatMul { w, n, k, .. } => size(*w, *k) * f64::from(*n),
            Case::Attention {
                kv,
                b,
                kv_heads,
                dk,
                dv,
                skv,
                ..
            } => {
                // Values that are a part of the keys are read once.
                let row = match shares_values(*dk, *dv, *kv_heads) {
                    true => size(*kv, *dk),
                    false => size(*kv, *dk) + size(*kv, *dv),
                };
                row * f64::from(b * kv_heads) * f64::from(*skv)
            }
            Case::Dequantize { y, rows, k, .. } => {
                f64::from(*rows) * f64::from(*k) * y.size() as f64
            }
            Case::Model { .. } | Case::Load { .. } => 0.0,
        }
    }

    /// Is it bound by memory rather than by arithmetic?
    pub fn few_rows(&self) -> bool {
        match self {
            Case::MatMul { m, .. } => *m <= FEW_ROWS,
            Case::Attention { sq, .. } => *sq == 1,
            Case::Dequantize { .. } => true,
            Case::Model { prompt, .. } => !prompt,
            Case::Load { .. } => true,
        }
    }
}

/// Absorbed MLA: the values are the first columns of the one latent.
pub fn shares_values(dk: u32, dv: u32, kv_heads: u32) -> bool {
    kv_heads == 1 && dk == 576 && dv == 512
}

/// Bytes of `n` numbers.
fn size(e: Element, n: u32) -> f64 {
    f64::from(n) / e.block_len() as f64 * e.block_bytes() as f64
}
