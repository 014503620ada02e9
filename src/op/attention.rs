//! [`Attention`]: scaled dot-product attention over a dense or paged KV cache.

use super::{
    Arg, Arguments, OpKind, Precision, Rules,
    check::{Checker, product},
    epilogue::precision_setter,
    map_opt,
};
use crate::{
    element::{DType, Element},
    error::Result,
    layout::TensorDesc,
    quant::QuantFormat,
};

/// Where keys and values are.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Kv<T> {
    /// k`[B, Hkv, Skv, Dk]`, v`[B, Hkv, Skv, Dv]`, any strides. v may be a view of k: absorbed
    /// MLA keeps one latent of 576 columns whose first 512 are the values.
    Dense {
        /// Keys.
        k: T,
        /// Values.
        v: T,
    },
    /// Pools of pages k`[pages, Hkv, page, Dk]`, v`[pages, Hkv, page, Dv]`; `table[B, P]` (i32 or
    /// u32) holds the page numbers of each sequence in order. Key j of sequence b is row
    /// `j % page` of page `table[b, j / page]`. Keys on a page number outside the pool are
    /// hidden.
    Paged {
        /// Pool of key pages.
        k: T,
        /// Pool of value pages.
        v: T,
        /// Page numbers.
        table: T,
    },
}

impl<T> Kv<T> {
    /// The same cache over operands of another kind; `role` is how the op uses the cache itself.
    pub(super) fn try_map<'a, U, E>(
        &'a self,
        kv: [Arg; 2],
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Kv<U>, E> {
        Ok(match self {
            Kv::Dense { k, v } => Kv::Dense {
                k: f(kv[0], k)?,
                v: f(kv[1], v)?,
            },
            Kv::Paged { k, v, table } => Kv::Paged {
                k: f(kv[0], k)?,
                v: f(kv[1], v)?,
                table: f(Arg::input("table"), table)?,
            },
        })
    }

    /// Keys, or the pool of key pages.
    pub fn k(&self) -> &T {
        match self {
            Kv::Dense { k, .. } | Kv::Paged { k, .. } => k,
        }
    }

    /// Values, or the pool of value pages.
    pub fn v(&self) -> &T {
        match self {
            Kv::Dense { v, .. } | Kv::Paged { v, .. } => v,
        }
    }
}

impl Kv<TensorDesc> {
    /// Sequences that the cache holds.
    pub fn batch(&self) -> u32 {
        match self {
            Kv::Dense { k, .. } => k.dim(0),
            Kv::Paged { table, .. } => table.dim(0),
        }
    }

    /// Most keys that one sequence may have.
    pub fn capacity(&self) -> u64 {
        match self {
            Kv::Dense { k, .. } => k.dim(2) as u64,
            Kv::Paged { k, table, .. } => k.dim(2) as u64 * table.dim(1) as u64,
        }
    }

    pub(super) fn check(&self, c: Checker) -> Result<()> {
        let (k, v) = (self.k(), self.v());
        for (arg, d) in [("k", k), ("v", v)] {
            c.rank(arg, d, 4)?;
            let ok = matches!(
                d.element,
                Element::Plain(DType::F32 | DType::F16 | DType::BF16)
                    | Element::Quant(QuantFormat::Q8_0)
            );
            c.require(ok, arg, || {
                format!("is {d}; expected f32, f16, bf16 or q8_0")
            })?;
        }
        c.require(k.shape()[..3] == v.shape()[..3], "v", || {
            format!("is {v} and k is {k}; all axes but the last must agree")
        })?;
        if let Kv::Paged { table, .. } = self {
            c.index("table", table)?;
            c.rank("table", table, 2)?;
        }
        Ok(())
    }
}

/// One number that is known to the host, or lives on the device so that a captured step can be
/// replayed with another value.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Scalar<T> {
    /// Known when the op is encoded.
    Host(u32),
    /// i32 or u32 with one element, read when the op runs.
    Device(T),
}

impl<T: Clone> From<&T> for Scalar<T> {
    fn from(t: &T) -> Self {
        Scalar::Device(t.clone())
    }
}

/// How queries and keys are split into sequences.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Seqs<T> {
    /// Every sequence has Sq queries and `kv_len` keys: at most the cache's capacity, to which a
    /// number on the device is clamped.
    Uniform {
        /// Keys per sequence.
        kv_len: Scalar<T>,
    },
    /// Queries of all sequences are packed along Sq of a q with B = 1: sequence b owns queries
    /// `q_starts[b]..q_starts[b + 1]` and has `kv_lens[b]` keys.
    Ragged {
        /// i32 or u32 `[B + 1]`, rising from 0.
        q_starts: T,
        /// i32 or u32 `[B]`.
        kv_lens: T,
    },
}

/// out = softmax(mask(q . k^T * scale)) . v: q`[B, Hq, Sq, Dk]`, k and v in a [`Kv`],
/// out`[B, Hq, Sq, Dv]`; Hq is a multiple of Hkv and query head h reads KV head
/// `h / (Hq / Hkv)`.
///
/// Score of query i and key j, in this order: `s = scale * dot(q_i, k_j)`; with a softcap
/// `s = cap * tanh(s / cap)`; with ALiBi `s += slope_h * (j - p_i)`; plus an additive mask. The
/// position of query i is `p_i = kv_len - Sq + i` (the last query sees the last key). Key j is
/// hidden when `j >= kv_len`, when causal and `j > p_i`, when a window is set and
/// `p_i - j >= window`, or by a boolean mask. Sinks add `exp(sink_h)` to the denominator. A row
/// whose keys are all hidden is 0.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(
    feature = "serde",
    serde(bound = "T: serde::Serialize + for<'a> serde::Deserialize<'a>")
)]
pub struct Attention<T> {
    /// Queries `[B, Hq, Sq, Dk]`.
    pub q: T,
    /// Keys and values.
    pub kv: Kv<T>,
    /// Result `[B, Hq, Sq, Dv]`.
    pub out: T,
    /// Factor on the scores, usually `1 / sqrt(Dk)`.
    pub scale: f32,
    /// Sequence lengths.
    pub seqs: Seqs<T>,
    /// Hide keys after the query.
    #[cfg_attr(feature = "serde", serde(default))]
    pub causal: bool,
    /// Number of keys, the query's own position included, that a query sees backwards.
    #[cfg_attr(feature = "serde", serde(default = "none"))]
    pub window: Option<u32>,
    /// Soft limit of the scores.
    #[cfg_attr(feature = "serde", serde(default = "none"))]
    pub softcap: Option<f32>,
    /// f32 `[Hq]`: slopes of the linear position bias (Press et al. 2022).
    #[cfg_attr(feature = "serde", serde(default = "none"))]
    pub alibi: Option<T>,
    /// f32 `[Hq]`: learned logits that absorb attention (gpt-oss).
    #[cfg_attr(feature = "serde", serde(default = "none"))]
    pub sinks: Option<T>,
    /// Floats to add, or u8 where 0 hides a key; broadcasts to `[B, Hq, Sq, capacity]`. Uniform
    /// sequences only.
    #[cfg_attr(feature = "serde", serde(default = "none"))]
    pub mask: Option<T>,
    /// Least precise arithmetic accepted.
    #[cfg_attr(feature = "serde", serde(default))]
    pub precision: Precision,
}

#[cfg(feature = "serde")]
fn none<T>() -> Option<T> {
    None
}

impl<T: Clone> Attention<T> {
    /// Attention over the first `kv_len` keys, not causal, with the given score scale.
    pub fn new(q: &T, kv: Kv<T>, kv_len: impl Into<Scalar<T>>, scale: f32, out: &T) -> Self {
        let seqs = Seqs::Uniform {
            kv_len: kv_len.into(),
        };
        Attention {
            q: q.clone(),
            kv,
            out: out.clone(),
            scale,
            seqs,
            causal: false,
            window: None,
            softcap: None,
            alibi: None,
            sinks: None,
            mask: None,
            precision: Precision::default(),
        }
    }

    /// Over dense keys and values.
    pub fn dense(q: &T, k: &T, v: &T, kv_len: impl Into<Scalar<T>>, scale: f32, out: &T) -> Self {
        let kv = Kv::Dense {
            k: k.clone(),
            v: v.clone(),
        };
        Attention::new(q, kv, kv_len, scale, out)
    }

    /// Packed sequences of different lengths.
    #[must_use]
    pub fn ragged(mut self, q_starts: &T, kv_lens: &T) -> Self {
        self.seqs = Seqs::Ragged {
            q_starts: q_starts.clone(),
            kv_lens: kv_lens.clone(),
        };
        self
    }

    /// Hides keys after the query.
    #[must_use]
    pub fn causal(mut self) -> Self {
        self.causal = true;
        self
    }

    /// Hides keys `window` or more positions before the query.
    #[must_use]
    pub fn window(mut self, window: u32) -> Self {
        self.window = Some(window);
        self
    }

    /// Soft limit of the scores.
    #[must_use]
    pub fn softcap(mut self, cap: f32) -> Self {
        self.softcap = Some(cap);
        self
    }

    /// Slopes of the linear position bias.
    #[must_use]
    pub fn alibi(mut self, slopes: &T) -> Self {
        self.alibi = Some(slopes.clone());
        self
    }

    /// Sink logits.
    #[must_use]
    pub fn sinks(mut self, sinks: &T) -> Self {
        self.sinks = Some(sinks.clone());
        self
    }

    /// Additive or boolean mask.
    #[must_use]
    pub fn mask(mut self, mask: &T) -> Self {
        self.mask = Some(mask.clone());
        self
    }

    precision_setter!();
}

impl<T> From<u32> for Scalar<T> {
    fn from(n: u32) -> Self {
        Scalar::Host(n)
    }
}

impl<T> Arguments<T> for Attention<T> {
    const KIND: OpKind = OpKind::Attention;
    type With<U> = Attention<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Attention<U>, E> {
        Ok(Attention {
            q: f(Arg::input("q"), &self.q)?,
            kv: self.kv.try_map([Arg::input("k"), Arg::input("v")], f)?,
            seqs: match &self.seqs {
                Seqs::Uniform { kv_len } => Seqs::Uniform {
                    kv_len: match kv_len {
                        Scalar::Host(n) => Scalar::Host(*n),
                        Scalar::Device(t) => Scalar::Device(f(Arg::input("kv_len"), t)?),
                    },
                },
                Seqs::Ragged { q_starts, kv_lens } => Seqs::Ragged {
                    q_starts: f(Arg::input("q_starts"), q_starts)?,
                    kv_lens: f(Arg::input("kv_lens"), kv_lens)?,
                },
            },
            alibi: map_opt(Arg::input("alibi"), &self.alibi, f)?,
            sinks: map_opt(Arg::input("sinks"), &self.sinks, f)?,
            mask: map_opt(Arg::input("mask"), &self.mask, f)?,
            out: f(Arg::output("out"), &self.out)?,
            scale: self.scale,
            causal: self.causal,
            window: self.window,
            softcap: self.softcap,
            precision: self.precision,
        })
    }
}

impl Attention<TensorDesc> {
    /// Keys per sequence as far as the host knows: `kv_len`, or the capacity.
    pub fn max_kv_len(&self) -> u64 {
        let capacity = self.kv.capacity();
        match &self.seqs {
            Seqs::Uniform {
                kv_len: Scalar::Host(n),
            } => capacity.min(*n as u64),
            _ => capacity,
        }
    }

    /// Query-key pairs that are not hidden by `causal` and `window`, per query head.
    fn pairs(&self) -> u64 {
        let (sq, kv) = (u128::from(self.q.dim(2)), u128::from(self.max_kv_len()));
        let window = self.window.map_or(kv, u128::from);
        // Query i stands at `t = p_i + 1`, for t in kv - Sq + 1 ..= kv; t <= 0 is before the keys.
        // Sums over those t > 0 of t and of min(t, window), each as a difference of sums from 1.
        let ramp = |m: u128| m * (m + 1) / 2;
        let capped = |m: u128| ramp(m.min(window)) + m.saturating_sub(window) * window;
        let before = kv.saturating_sub(sq);
        let near = capped(kv) - capped(before);
        let visible = if self.causal {
            near
        } else {
            // All keys but those that the window hides behind each query.
            sq * kv - (ramp(kv) - ramp(before) - near)
        };
        let visible = u64::try_from(visible).unwrap_or(u64::MAX);
        visible.saturating_mul(u64::from(self.q.dim(0)))
    }
}

impl Rules for Attention<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::Attention);
        let (q, k, v) = (&self.q, self.kv.k(), self.kv.v());
        c.float("q", q)?;
        c.rank("q", q, 4)?;
        self.kv.check(c)?;
        c.float("out", &self.out)?;
        let (hq, hkv) = (q.dim(1), k.dim(1));
        c.require(hkv > 0 && hq.is_multiple_of(hkv) || hq == 0, "q", || {
            format!("has {hq} heads, not a multiple of the {hkv} KV heads")
        })?;
        c.require(k.dim(3) == q.dim(3), "k", || {
            format!("has head_dim {} but q has {}", k.dim(3), q.dim(3))
        })?;
        c.shape("out", &self.out, &[q.dim(0), hq, q.dim(2), v.dim(3)])?;
        let hidden = self.out.is_empty();
        if !hidden {
            c.reduces("q", q.dim(3))?;
            c.require(self.kv.capacity() > 0, "k", || {
                "the cache has no rows; a kv_len of 0 is legal, a capacity of 0 is not".to_owned()
            })?;
        }
        c.require(self.scale.is_finite(), "scale", || {
            format!("is {}; expected a finite number", self.scale)
        })?;
        if let Some(cap) = self.softcap {
            c.require(cap.is_finite() && cap > 0.0, "softcap", || {
                format!("is {cap}; expected a positive number, or none")
            })?;
        }
        c.require(self.window != Some(0), "window", || {
            "is 0; a window counts the query's own position, use 1 or more, or none".to_owned()
        })?;
        match &self.seqs {
            Seqs::Uniform { kv_len } => {
                c.require(self.kv.batch() == q.dim(0), "k", || {
                    format!("has {} sequences but q has {}", self.kv.batch(), q.dim(0))
                })?;
                match kv_len {
                    Scalar::Host(n) => {
                        c.require(u64::from(*n) <= self.kv.capacity(), "kv_len", || {
                            format!("is {n}, above the cache's {} rows", self.kv.capacity())
                        })?;
                    }
                    Scalar::Device(t) => {
                        c.index("kv_len", t)?;
                        c.require(t.elements() == 1, "kv_len", || {
                            format!("is {t}; expected one element")
                        })?;
                    }
                }
            }
            Seqs::Ragged { q_starts, kv_lens } => {
                c.index("q_starts", q_starts)?;
                c.index("kv_lens", kv_lens)?;
                c.require(q.dim(0) == 1, "q", || {
                    format!("is {q}; ragged queries are packed with B = 1")
                })?;
                let b = self.kv.batch();
                c.shape("kv_lens", kv_lens, &[b])?;
                c.shape("q_starts", q_starts, &[b.saturating_add(1)])?;
                c.require(self.mask.is_none(), "mask", || {
                    "has no meaning for ragged sequences".to_owned()
                })?;
            }
        }
        for (arg, t) in [("alibi", &self.alibi), ("sinks", &self.sinks)] {
            if let Some(t) = t {
                c.require(t.plain() == Some(DType::F32), arg, || {
                    format!("is {t}; expected f32")
                })?;
                c.shape(arg, t, &[hq])?;
            }
        }
        if let Some(mask) = &self.mask {
            let capacity = u32::try_from(self.kv.capacity())
                .map_err(|_| c.fail("k", "has more than 2^32 rows"))?;
            c.mask(mask, &[q.dim(0), hq, q.dim(2), capacity])?;
        }
        Ok(())
    }
    fn flops(&self) -> u64 {
        let width = self.q.dim(3) as u64 + self.kv.v().dim(3) as u64;
        product([2, self.pairs(), u64::from(self.q.dim(1)), width])
    }
    fn bytes(&self) -> Option<u64> {
        let row = |d: &TensorDesc| {
            d.dim(3) as u64 / d.element.block_len() as u64 * d.element.block_bytes() as u64
        };
        let (k, v) = (self.kv.k(), self.kv.v());
        let keys = product([
            u64::from(self.kv.batch()),
            u64::from(k.dim(1)),
            self.max_kv_len(),
            row(k) + row(v),
        ]);
        let mask = self.mask.as_ref().map_or(0, TensorDesc::data_bytes);
        Some(keys.saturating_add(self.q.data_bytes() + self.out.data_bytes() + mask))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Op;

    /// The closed form counts what the definition of the mask shows.
    #[test]
    fn visible_pairs() {
        for (sq, capacity, kv_len) in [(1, 9, 7), (3, 9, 7), (7, 9, 7), (9, 9, 4), (5, 5, 0)] {
            for window in [None, Some(1), Some(3), Some(50)] {
                for causal in [false, true] {
                    let d = |s| TensorDesc::new(DType::F32, &[2, 4, s, 8]).unwrap();
                    let k = d(capacity);
                    let mut op = Attention::dense(&d(sq), &k, &k, kv_len, 1.0, &d(sq));
                    (op.window, op.causal) = (window, causal);
                    let (n, m) = (i64::from(sq), i64::from(kv_len));
                    let visible = (0..n).flat_map(|i| (0..m).map(move |j| (m - n + i, j)));
                    let visible = visible.filter(|(p, j)| {
                        !(causal && j > p) && window.is_none_or(|w| p - j < i64::from(w))
                    });
                    let flops = 2 * 2 * 4 * (8 + 8) * visible.count() as u64;
                    assert_eq!(Op::from(op.clone()).flops(), flops, "{op:?}");
                }
            }
        }
    }

    /// Work counts of shapes that no memory holds neither overflow nor take long.
    #[test]
    fn counts_of_huge_shapes_saturate() {
        let d = TensorDesc::strided(DType::F16, &[1, 1, u32::MAX, 8], &[0, 0, 0, 1]).unwrap();
        let pool =
            TensorDesc::strided(DType::F16, &[1 << 20, 1, u32::MAX, 8], &[0, 0, 0, 1]).unwrap();
        let table = TensorDesc::strided(DType::I32, &[1, u32::MAX], &[0, 0]).unwrap();
        let kv = Kv::Paged {
            k: pool,
            v: pool,
            table,
        };
        let op = Op::from(Attention::new(&d, kv, u32::MAX, 1.0, &d).causal());
        op.check().unwrap();
        assert!(op.flops() > 1 << 60 && op.bytes() > 1 << 30);
    }
}
