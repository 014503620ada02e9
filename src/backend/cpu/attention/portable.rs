//! Attention with an online softmax (Milakov & Gimelshein 2018, Dao et al. 2022): keys and values
//! become f32 a block at a time and meet all queries of a tile, which are those of all heads that
//! share the KV head. Long caches are cut into parts whose results are merged in order.

use super::seqs::{Cache, Seq, sequences};
use crate::{
    backend::cpu::{
        isa::{Isa, fma, multiversion},
        math,
        matmul::tile,
        rows::{Ctx, Env},
        view::{Dst, Src},
    },
    device::Quality,
    element::DType,
    error::{Refusal, Result},
    layout::TensorDesc,
    op::{Act, Attention, BinOp, Op},
    tensor::Tensor,
};
use std::{ops::Range, sync::Mutex};

/// Keys per block.
const KEYS: usize = 128;
/// Query rows per tile.
const TILE: usize = 32;
/// Keys per part of a cut cache.
const PART: usize = 512;
/// Caches are cut while there are fewer tiles than this.
const FEW: usize = 64;

pub(super) fn fits(_: &Env, _: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    Ok(Quality::Portable)
}

#[inline(always)]
fn add_values_body<const FMA: bool>(weights: &[f32], values: &[f32], acc: &mut [f32]) {
    let width = acc.len();
    let (fours, rest) = weights.as_chunks::<4>();
    let (head, tail) = values.split_at(fours.len() * 4 * width);
    for (w, v) in fours.iter().zip(head.chunks_exact(4 * width)) {
        let (a, v) = v.split_at(width);
        let (b, v) = v.split_at(width);
        let (c, d) = v.split_at(width);
        for ((((acc, &a), &b), &c), &d) in acc.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            let sum = fma::<FMA>(w[1], b, w[0] * a) + fma::<FMA>(w[3], d, w[2] * c);
            *acc += sum;
        }
    }
    for (&w, v) in rest.iter().zip(tail.chunks_exact(width)) {
        for (acc, &v) in acc.iter_mut().zip(v) {
            *acc = fma::<FMA>(w, v, *acc);
        }
    }
}
multiversion! {
    /// acc += weights . values, a matrix of as many rows as there are weights.
    fn add_values = add_values_body(weights: &[f32], values: &[f32], acc: &mut [f32])
}

/// Running softmax of some query rows: largest score, sum of weights, weighted values.
struct State {
    top: Vec<f32>,
    sum: Vec<f64>,
    acc: Vec<f32>,
}

impl State {
    fn new(rows: usize, width: usize) -> State {
        State {
            top: vec![f32::NEG_INFINITY; rows],
            sum: vec![0.0; rows],
            acc: vec![0.0; rows * width],
        }
    }

    /// Raises the largest score of a row to at least `top`; returns what scores are compared to.
    fn raise(&mut self, isa: Isa, row: usize, top: f32) -> f32 {
        let width = self.acc.len() / self.top.len();
        let old = self.top[row];
        if top > old {
            self.top[row] = top;
            if old != f32::NEG_INFINITY {
                let factor = f64::from(old - top).exp();
                self.sum[row] *= factor;
                let acc = &mut self.acc[row * width..(row + 1) * width];
                math::affine(isa, factor as f32, 0.0, acc);
            }
        }
        // With nothing but -inf so far, weights are e^-inf = 0 against any number.
        if self.top[row] == f32::NEG_INFINITY {
            0.0
        } else {
            self.top[row]
        }
    }

    /// Adds another state of the same rows.
    fn merge(&mut self, isa: Isa, mut other: State) {
        let width = self.acc.len() / self.top.len();
        for row in 0..self.top.len() {
            let top = self.raise(isa, row, other.top[row]);
            other.raise(isa, row, top);
            // A row without weights so far may hold a NaN, which stays.
            self.sum[row] += other.sum[row];
            let range = row * width..(row + 1) * width;
            math::binary(
                isa,
                BinOp::Add,
                &mut self.acc[range.clone()],
                &other.acc[range],
            );
        }
    }
}

/// Queries `queries` of a sequence in all heads of KV head `head`, over keys `keys`.
#[derive(Clone, Debug)]
struct Tile {
    seq: usize,
    head: usize,
    queries: Range<usize>,
    keys: Range<usize>,
    /// Number among the parts of the same queries, and how many there are.
    part: usize,
    parts: usize,
}

struct Job<'a> {
    isa: Isa,
    op: &'a Attention<Tensor>,
    q: Src<'a>,
    out: Dst<'a>,
    k: Cache<'a>,
    v: Cache<'a>,
    mask: Option<Src<'a>>,
    alibi: Vec<f32>,
    sinks: Vec<f32>,
    seqs: Vec<Seq>,
    /// Query heads per KV head.
    group: usize,
    dk: usize,
    dv: usize,
}

pub(super) unsafe fn attention(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Attention(op) = op else { return Ok(()) };
    // SAFETY: nobody writes the operands of a running op.
    let job = unsafe {
        let (seqs, orphans) = sequences(op)?;
        let [k, v] = Cache::of(&op.kv)?;
        let (q, out) = (Src::of(&op.q)?, Dst::of(&op.out)?);
        let vec = |t: &Option<Tensor>| -> Result<Vec<f32>> {
            Ok(Src::opt(t)?.map_or(Vec::new(), |s| s.to_vec()))
        };
        let capacity = match &op.kv {
            crate::op::Kv::Dense { k, .. } => k.desc().dim(2),
            crate::op::Kv::Paged { k, table, .. } => {
                k.desc().dim(2).saturating_mul(table.desc().dim(1))
            }
        };
        let mask = match &op.mask {
            Some(mask) => {
                let d = q.desc();
                Some(Src::of(mask)?.broadcast(&[d.dim(0), d.dim(1), d.dim(2), capacity])?)
            }
            None => None,
        };
        let job = Job {
            isa: ctx.env.isa,
            op,
            alibi: vec(&op.alibi)?,
            sinks: vec(&op.sinks)?,
            group: (q.desc().dim(1) / k.view.desc().dim(1)) as usize,
            dk: q.len(),
            dv: v.view.len(),
            q,
            out,
            k,
            v,
            mask,
            seqs,
        };
        for i in orphans {
            job.zero(i);
        }
        job
    };
    let tiles = job.tiles();
    let work: usize = tiles.iter().map(|t| t.queries.len() * t.keys.len()).sum();
    let work = work as u64 * ((job.dk + job.dv + 16) * job.group) as u64 / 8;
    let parts: Vec<Mutex<Option<State>>> = tiles.iter().map(|_| Mutex::default()).collect();
    let one_by_one = |i: usize| {
        let mut scratch = Scratch::default();
        // SAFETY: the queue checked the op; tiles write different rows.
        unsafe {
            let state = job.tile(&tiles[i], &mut scratch);
            if tiles[i].parts == 1 {
                job.store(&tiles[i], state);
            } else if let Ok(mut slot) = parts[i].lock() {
                *slot = Some(state);
            }
        }
    };
    if work < 8000 {
        (0..tiles.len()).for_each(one_by_one);
    } else {
        ctx.pool.each(tiles.len(), one_by_one);
    }
    // Parts of one tile lie next to each other, in order.
    let mut i = 0;
    while i < tiles.len() {
        let n = tiles[i].parts;
        if n > 1 {
            let take = |slot: &Mutex<Option<State>>| slot.lock().ok().and_then(|mut s| s.take());
            let mut states = parts[i..i + n].iter().filter_map(take);
            if let Some(mut state) = states.next() {
                states.for_each(|other| state.merge(ctx.env.isa, other));
                // SAFETY: as above; this thread is alone.
                unsafe { job.store(&tiles[i], state) };
            }
        }
        i += n;
    }
    Ok(())
}

#[derive(Default)]
struct Scratch {
    q: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
    mask: Vec<f32>,
    hidden: Vec<bool>,
}

impl Job<'_> {
    fn tiles(&self) -> Vec<Tile> {
        let per_tile = (TILE / self.group).max(1);
        let heads = self.k.view.desc().dim(1) as usize;
        let count: usize = self
            .seqs
            .iter()
            .map(|s| s.queries.div_ceil(per_tile) * heads)
            .sum();
        let mut tiles = Vec::new();
        for (seq, s) in self.seqs.iter().enumerate() {
            for first in (0..s.queries).step_by(per_tile) {
                let queries = first..(first + per_tile).min(s.queries);
                // Later queries see later keys: the first and the last bound them all.
                let (a, b) = (
                    s.visible(self.op, queries.start),
                    s.visible(self.op, queries.end - 1),
                );
                let keys = if a.is_empty() { b } else { a.start..b.end };
                let parts = if count < FEW {
                    keys.len().div_ceil(PART).max(1)
                } else {
                    1
                };
                let step = keys.len().div_ceil(parts);
                for head in 0..heads {
                    for part in 0..parts {
                        let start = (keys.start + part * step).min(keys.end);
                        tiles.push(Tile {
                            seq,
                            head,
                            queries: queries.clone(),
                            keys: start..(start + step).min(keys.end),
                            part,
                            parts,
                        });
                    }
                }
            }
        }
        tiles
    }

    /// Byte offset of a query's row in q or out.
    fn row(&self, d: &TensorDesc, tile: &Tile, row: usize) -> usize {
        let s = &self.seqs[tile.seq];
        let (i, h) = self.query(tile, row);
        s.batch * d.stride_bytes(0) as usize
            + h * d.stride_bytes(1) as usize
            + (s.first + i) * d.stride_bytes(2) as usize
    }

    /// Query (of its sequence) and head of a tile's row.
    fn query(&self, tile: &Tile, row: usize) -> (usize, usize) {
        let i = tile.queries.start + row / self.group;
        (i, tile.head * self.group + row % self.group)
    }

    /// Zeros for query `i` along Sq, in all heads of the one batch.
    ///
    /// # Safety
    /// Nobody else touches the rows.
    unsafe fn zero(&self, i: usize) {
        let d = self.out.desc();
        let zeros = vec![0.0; self.dv];
        for h in 0..d.dim(1) as usize {
            let at = h * d.stride_bytes(1) as usize + i * d.stride_bytes(2) as usize;
            // SAFETY: a row of out; the caller's condition.
            unsafe { self.out.store(at, 0, &zeros) };
        }
    }

    /// # Safety
    /// The tile is one of the op, whose operands nobody writes now.
    unsafe fn tile(&self, tile: &Tile, s: &mut Scratch) -> State {
        let rows = tile.queries.len() * self.group;
        let mut state = State::new(rows, self.dv);
        s.q.resize(rows * self.dk, 0.0);
        for (row, q) in s.q.chunks_exact_mut(self.dk).enumerate() {
            // SAFETY: a row of q.
            unsafe { self.q.load(self.row(self.q.desc(), tile, row), 0, q) };
        }
        s.scores.resize(rows * KEYS, 0.0);
        s.mask.resize(KEYS, 0.0);
        let mut start = tile.keys.start;
        while start < tile.keys.end {
            let end = (start + KEYS).min(tile.keys.end);
            // SAFETY: keys of the tile's sequence, by the caller's condition.
            unsafe { self.block(tile, start..end, s, &mut state) };
            start = end;
        }
        state
    }

    /// Loads keys or values `keys`; marks those that are hidden.
    ///
    /// # Safety
    /// As [`Job::tile`].
    unsafe fn load(
        &self,
        cache: &Cache<'_>,
        tile: &Tile,
        keys: Range<usize>,
        width: usize,
        out: &mut Vec<f32>,
        hidden: &mut Vec<bool>,
    ) {
        out.resize(keys.len() * width, 0.0);
        hidden.clear();
        hidden.resize(keys.len(), false);
        let sequence = self.seqs[tile.seq].kv;
        let mut j = keys.start;
        while j < keys.end {
            let (offset, left) = cache.run(sequence, tile.head, j);
            let n = left.min(keys.end - j);
            let at = j - keys.start;
            let rows = &mut out[at * width..(at + n) * width];
            match offset {
                Some(offset) => {
                    for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                        // SAFETY: rows of the cache.
                        unsafe { cache.view.load(offset + i * cache.step(), 0, row) };
                    }
                }
                None => {
                    rows.fill(0.0);
                    hidden[at..at + n].fill(true);
                }
            }
            j += n;
        }
    }

    /// One block of keys against all rows of the tile.
    ///
    /// # Safety
    /// As [`Job::tile`].
    unsafe fn block(&self, tile: &Tile, keys: Range<usize>, s: &mut Scratch, state: &mut State) {
        let (isa, op) = (self.isa, self.op);
        let n = keys.len();
        // SAFETY: the caller's condition.
        unsafe {
            self.load(
                &self.k,
                tile,
                keys.clone(),
                self.dk,
                &mut s.keys,
                &mut s.hidden,
            );
            self.load(
                &self.v,
                tile,
                keys.clone(),
                self.dv,
                &mut s.values,
                &mut s.hidden,
            );
        }
        let any_hidden = s.hidden.contains(&true);
        let mut rows: [&[f32]; TILE] = [&[]; TILE];
        let total = state.top.len();
        // A group above the size of a tile goes in several turns.
        for first in (0..total).step_by(TILE) {
            let count = TILE.min(total - first);
            for (r, q) in rows
                .iter_mut()
                .zip(s.q.chunks_exact(self.dk).skip(first))
                .take(count)
            {
                *r = q;
            }
            let out = &mut s.scores[first * KEYS..];
            tile::products(isa, &rows[..count], &s.keys, self.dk, out, KEYS);
        }
        let seq = &self.seqs[tile.seq];
        for row in 0..total {
            let (i, head) = self.query(tile, row);
            let scores = &mut s.scores[row * KEYS..row * KEYS + n];
            math::affine(isa, op.scale, 0.0, scores);
            if let Some(cap) = op.softcap {
                math::affine(isa, 1.0 / cap, 0.0, scores);
                math::act(isa, Act::Tanh, scores);
                math::affine(isa, cap, 0.0, scores);
            }
            if let Some(&slope) = self.alibi.get(head) {
                let from = keys.start as i64 - seq.position(i);
                for (j, v) in scores.iter_mut().enumerate() {
                    *v += slope * (from + j as i64) as f32;
                }
            }
            if let Some(mask) = &self.mask {
                let d = mask.desc();
                let step = |a: usize| d.stride_bytes(a) as usize;
                let at = seq.batch * step(0) + head * step(1) + (seq.first + i) * step(2);
                let buf = &mut s.mask[..n];
                // SAFETY: a stretch of a row of the mask.
                unsafe { mask.load(at, keys.start, buf) };
                if d.plain() == Some(DType::U8) {
                    for (v, &keep) in scores.iter_mut().zip(buf.iter()) {
                        *v = if keep == 0.0 { f32::NEG_INFINITY } else { *v };
                    }
                } else {
                    math::binary(isa, BinOp::Add, scores, buf);
                }
            }
            if any_hidden {
                for (v, _) in scores.iter_mut().zip(&s.hidden).filter(|(_, h)| **h) {
                    *v = f32::NEG_INFINITY;
                }
            }
            let seen = seq.visible(op, i);
            let start = seen.start.clamp(keys.start, keys.end) - keys.start;
            let end = seen.end.clamp(keys.start, keys.end) - keys.start;
            if start >= end {
                continue;
            }
            let scores = &mut scores[start..end];
            let top = state.raise(isa, row, math::max(isa, scores));
            state.sum[row] += math::exp_sub(isa, scores, top);
            let acc = &mut state.acc[row * self.dv..(row + 1) * self.dv];
            let values = &s.values[start * self.dv..end * self.dv];
            if scores.contains(&0.0) {
                // A hidden key counts nothing even where its value is not a number.
                for (&w, v) in scores.iter().zip(values.chunks_exact(self.dv)) {
                    if w != 0.0 {
                        add_values(isa, &[w], v, acc);
                    }
                }
            } else {
                add_values(isa, scores, values, acc);
            }
        }
    }

    /// Divides by the sum of weights and stores.
    ///
    /// # Safety
    /// Nobody else touches the tile's rows of out.
    unsafe fn store(&self, tile: &Tile, mut state: State) {
        debug_assert_eq!(tile.part, 0);
        for row in 0..state.top.len() {
            let (_, head) = self.query(tile, row);
            let mut sum = state.sum[row];
            if let Some(&sink) = self.sinks.get(head)
                && sum != 0.0
            {
                let top = state.raise(self.isa, row, sink);
                sum = state.sum[row] + f64::from(sink - top).exp();
            }
            let acc = &mut state.acc[row * self.dv..(row + 1) * self.dv];
            if sum == 0.0 {
                acc.fill(0.0);
            } else {
                math::affine(self.isa, (1.0 / sum) as f32, 0.0, acc);
            }
            // SAFETY: a row of out; the caller's condition.
            unsafe { self.out.store(self.row(self.out.desc(), tile, row), 0, acc) };
        }
    }
}
