//! [`KvWrite`]: new keys and values into a cache.

use super::{Arg, Arguments, Kv, OpKind, Rules, check::Checker};
use crate::{error::Result, layout::TensorDesc};

/// Writes k`[B, Hkv, S, Dk]` and v`[B, Hkv, S, Dv]` into the cache of a later
/// [`Attention`](super::Attention), converting to its element type (q8_0 included).
///
/// `slots[B, S]` or, for B = 1, `[S]` (i32 or u32). Dense cache: row s of sequence b goes to
/// cache row `slots[b, s]` of sequence b. Paged cache: the slot is flat, `page number * page +
/// row`; the page table is not read. A slot outside the cache (such as -1) drops its row.
/// Two rows of one call must not name the same slot.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct KvWrite<T> {
    /// New keys.
    pub k: T,
    /// New values.
    pub v: T,
    /// The cache.
    pub kv: Kv<T>,
    /// Where each row goes.
    pub slots: T,
}

impl<T: Clone> KvWrite<T> {
    /// Writes into any cache.
    pub fn new(k: &T, v: &T, kv: Kv<T>, slots: &T) -> Self {
        KvWrite {
            k: k.clone(),
            v: v.clone(),
            kv,
            slots: slots.clone(),
        }
    }

    /// Writes into a dense cache.
    pub fn dense(k: &T, v: &T, k_cache: &T, v_cache: &T, slots: &T) -> Self {
        let kv = Kv::Dense {
            k: k_cache.clone(),
            v: v_cache.clone(),
        };
        KvWrite::new(k, v, kv, slots)
    }
}

impl<T> Arguments<T> for KvWrite<T> {
    const KIND: OpKind = OpKind::KvWrite;
    type With<U> = KvWrite<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<KvWrite<U>, E> {
        Ok(KvWrite {
            k: f(Arg::input("k"), &self.k)?,
            v: f(Arg::input("v"), &self.v)?,
            slots: f(Arg::input("slots"), &self.slots)?,
            kv: self
                .kv
                .try_map([Arg::inout("k_cache"), Arg::inout("v_cache")], f)?,
        })
    }
}

impl Rules for KvWrite<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::KvWrite);
        for (arg, d) in [("k", &self.k), ("v", &self.v)] {
            c.float(arg, d)?;
            c.rank(arg, d, 4)?;
        }
        self.kv.check(c)?;
        let (b, s) = (self.k.dim(0), self.k.dim(2));
        c.require(self.k.shape()[..3] == self.v.shape()[..3], "v", || {
            format!(
                "is {} and k is {}; all axes but the last must agree",
                self.v, self.k
            )
        })?;
        for (arg, new, cache) in [("k", &self.k, self.kv.k()), ("v", &self.v, self.kv.v())] {
            c.require(
                new.dim(1) == cache.dim(1) && new.dim(3) == cache.dim(3),
                arg,
                || format!("is {new} but the cache is {cache}: heads and head_dim must agree"),
            )?;
        }
        if matches!(self.kv, Kv::Dense { .. }) {
            c.require(self.kv.batch() == b, "k_cache", || {
                format!("holds {} sequences but k has {b}", self.kv.batch())
            })?;
        }
        c.index("slots", &self.slots)?;
        let ok = self.slots.shape() == [b, s] || (b == 1 && self.slots.shape() == [s]);
        c.require(ok, "slots", || {
            format!("is {}; expected [{b}, {s}]", self.slots)
        })
    }
    fn flops(&self) -> u64 {
        0
    }
    fn bytes(&self) -> Option<u64> {
        let stored = |new: &TensorDesc, cache: &TensorDesc| {
            new.elements() / cache.element.block_len() as u64 * cache.element.block_bytes() as u64
        };
        Some(
            self.k.data_bytes()
                + self.v.data_bytes()
                + self.slots.data_bytes()
                + stored(&self.k, self.kv.k())
                + stored(&self.v, self.kv.v()),
        )
    }
}
