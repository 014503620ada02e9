//! What every attention kernel needs to know of its operands: which queries and keys belong
//! together, which keys a query sees, and where a key lies.

use crate::{
    backend::cpu::view::Src,
    error::Result,
    op::{Attention, Kv, Scalar, Seqs},
    tensor::Tensor,
};
use std::ops::Range;

/// Queries that share keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seq {
    /// Number of the sequence in the cache (row of the page table).
    pub kv: usize,
    /// Index of the first axis of q and out.
    pub batch: usize,
    /// First query, along Sq.
    pub first: usize,
    /// Number of queries.
    pub queries: usize,
    /// Number of keys, at most the cache's capacity.
    pub keys: usize,
}

impl Seq {
    /// Position of query `i` of the sequence; negative when there are fewer keys than queries.
    pub fn position(&self, i: usize) -> i64 {
        self.keys as i64 - self.queries as i64 + i as i64
    }

    /// Keys that query `i` sees as far as length, causality and window go.
    pub fn visible(&self, op: &Attention<Tensor>, i: usize) -> Range<usize> {
        let p = self.position(i);
        let end = if op.causal {
            (self.keys as i64).min(p + 1)
        } else {
            self.keys as i64
        };
        let start = match op.window {
            Some(w) => (p - i64::from(w) + 1).max(0),
            None => 0,
        };
        if start >= end {
            0..0
        } else {
            start as usize..end as usize
        }
    }
}

/// The sequences of an op, with lengths read from the device's tensors and cut to what is there,
/// and the queries along Sq that belong to none.
///
/// # Safety
/// Nobody writes the operands now.
pub(crate) unsafe fn sequences(op: &Attention<Tensor>) -> Result<(Vec<Seq>, Vec<usize>)> {
    let (q, k) = (op.q.desc(), op.kv.k().desc());
    let (batch, sq) = (q.dim(0) as usize, q.dim(2) as usize);
    let capacity = match &op.kv {
        Kv::Dense { .. } => u64::from(k.dim(2)),
        Kv::Paged { table, .. } => u64::from(k.dim(2)) * u64::from(table.desc().dim(1)),
    };
    let cut = |n: i64, max: u64| u64::try_from(n).unwrap_or(0).min(max) as usize;
    // SAFETY: the caller's condition.
    let integers = |t: &Tensor| -> Result<Vec<i64>> { Ok(unsafe { Src::of(t)?.integers() }) };
    Ok(match &op.seqs {
        Seqs::Uniform { kv_len } => {
            let n = match kv_len {
                Scalar::Host(n) => i64::from(*n),
                Scalar::Device(t) => integers(t)?.first().copied().unwrap_or(0),
            };
            let keys = cut(n, capacity);
            let all = (0..batch)
                .map(|b| Seq {
                    kv: b,
                    batch: b,
                    first: 0,
                    queries: sq,
                    keys,
                })
                .collect();
            (all, Vec::new())
        }
        Seqs::Ragged { q_starts, kv_lens } => {
            let (starts, lens) = (integers(q_starts)?, integers(kv_lens)?);
            let mut all = Vec::with_capacity(lens.len());
            let mut none: Vec<usize> = Vec::new();
            // Starts that fall would give a query to two sequences: they are raised.
            let mut done = 0;
            for (b, &len) in lens.iter().enumerate() {
                let at = |i: usize| cut(starts.get(i).copied().unwrap_or(0), sq as u64);
                let first = at(b).max(done);
                let end = at(b + 1).max(first);
                none.extend(done..first);
                done = end;
                if end > first {
                    all.push(Seq {
                        kv: b,
                        batch: 0,
                        first,
                        queries: end - first,
                        keys: cut(len, capacity),
                    });
                }
            }
            none.extend(done..sq);
            (all, none)
        }
    })
}

/// Where the rows of a cache lie.
#[derive(Debug)]
pub(crate) struct Cache<'a> {
    /// Keys or values, or the pool of their pages.
    pub view: Src<'a>,
    /// Page numbers of each sequence, and pages per sequence.
    table: Option<(Vec<i64>, usize)>,
    steps: [usize; 3],
    page: usize,
    pages: usize,
}

impl<'a> Cache<'a> {
    /// The keys and the values.
    ///
    /// # Safety
    /// Nobody writes the operands now.
    pub unsafe fn of(kv: &'a Kv<Tensor>) -> Result<[Cache<'a>; 2]> {
        let table = match kv {
            Kv::Dense { .. } => None,
            Kv::Paged { table, .. } => {
                let per_sequence = table.desc().dim(1) as usize;
                // SAFETY: the caller's condition.
                Some((unsafe { Src::of(table)?.integers() }, per_sequence))
            }
        };
        let one = |t: &'a Tensor, table| -> Result<Cache<'a>> {
            let view = Src::of(t)?;
            let d = view.desc();
            Ok(Cache {
                steps: [0, 1, 2].map(|a| d.stride_bytes(a) as usize),
                page: d.dim(2) as usize,
                pages: d.dim(0) as usize,
                view,
                table,
            })
        };
        Ok([one(kv.k(), table.clone())?, one(kv.v(), table)?])
    }

    /// Bytes between neighbouring rows (within a page).
    pub fn step(&self) -> usize {
        self.steps[2]
    }

    /// Byte offset of key `j` of a sequence in a KV head, and how many keys from it on follow at
    /// [`Cache::step`]; `None` for the offset when their page is not in the pool.
    #[inline]
    pub fn run(&self, sequence: usize, head: usize, j: usize) -> (Option<usize>, usize) {
        let (block, row, left) = match &self.table {
            None => (Some(sequence), j, self.page - j),
            Some((table, per_sequence)) => {
                let row = j % self.page;
                let number = table[sequence * per_sequence + j / self.page];
                let number = usize::try_from(number).ok().filter(|&n| n < self.pages);
                (number, row, self.page - row)
            }
        };
        let offset = block.map(|b| b * self.steps[0] + head * self.steps[1] + row * self.steps[2]);
        (offset, left)
    }
}
