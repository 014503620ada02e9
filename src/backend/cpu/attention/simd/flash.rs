//! Attention with queries in the lanes of vectors (after Dao et al. 2022): one task is a tile of
//! rows and a range of keys. Keys and values are converted once per task, a tile at a time, and
//! stay in the order in which they lie: their numbers are broadcast. Softmax has no step across
//! lanes. What is multiplied, and in which type, is an [`Arithmetic`].

use super::{
    lanes::Lanes,
    problem::{Numbers, Partials, Problem, Task, locate},
};
use crate::backend::cpu::simd::math;

/// Keys per step.
pub(super) const KEYS: usize = 96;
/// How far (in powers of two) scores may rise above those that weights are relative to before
/// sums are scaled down.
pub(super) const SLACK: f32 = 8.0;

/// Numbers of a head that are multiplied at a time, so that those of the queries stay near.
pub(super) const DEPTH: usize = 128;

/// The two products of attention. `k`, `v`, `q` and the weights are in a layout of its own, within
/// the floats that f32 would take: keys `[KEYS][dk]`, values
/// `[panels of LANES columns][KEYS][LANES]`, queries `[dk][NR]` and weights `[KEYS][NR]` vectors.
///
/// # Safety
/// The memory of every method is as large as said, keys come in even numbers, and the CPU has the
/// features of `S` and of the implementing type, AVX2, FMA and F16C.
pub(super) trait Arithmetic<S: Lanes> {
    /// f32 queries to the layout of [`Arithmetic::scores`], in place.
    unsafe fn pack_queries(q: *mut f32, dk: usize, lanes: usize);
    /// One key; zeros for null.
    unsafe fn load_key<N: Numbers>(row: *const u8, dk: usize, to: *mut f32);
    /// The values of keys `j` and `j + 1`; zeros for null. Adds lanes that are NaN to `wild` where
    /// a number is not finite.
    unsafe fn load_values<N: Numbers>(
        rows: [*const u8; 2],
        j: usize,
        dv: usize,
        to: *mut f32,
        wild: &mut S::F,
    );
    /// Scores of `MR` keys against the queries of a block. Raises `top`.
    unsafe fn scores<const MR: usize, const NR: usize>(
        k: *const f32,
        q: *const f32,
        dk: usize,
        part: std::ops::Range<usize>,
        s: *mut f32,
        top: &mut [S::F; NR],
    );
    /// Weights of keys `j` and `j + 1` to the layout of [`Arithmetic::weigh`].
    unsafe fn pack_weights<const NR: usize>(w: [[S::F; NR]; 2], j: usize, to: *mut f32);
    /// `sums[MR][NR] (*= factor) += values . weights` of columns `d..d + MR`.
    unsafe fn weigh<const MR: usize, const NR: usize>(
        v: *const f32,
        w: *const f32,
        span: Span,
        d: usize,
        sums: *mut f32,
        factor: Option<&[S::F; NR]>,
    );
    /// Values of keys `j` and `j + 1` in column `d`, and their weights in vector `c`.
    unsafe fn pair<const NR: usize>(
        v: *const f32,
        w: *const f32,
        j: usize,
        d: usize,
        c: usize,
    ) -> [(f32, S::F); 2];
}

/// f32 throughout.
pub(super) struct Exact;

impl<S: Lanes> Arithmetic<S> for Exact {
    #[inline(always)]
    unsafe fn pack_queries(_: *mut f32, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn load_key<N: Numbers>(row: *const u8, dk: usize, to: *mut f32) {
        // SAFETY: dk numbers of the row.
        unsafe {
            let mut i = 0;
            while i < dk {
                let left = (dk - i).min(S::LANES);
                if row.is_null() {
                    S::store_n(to.add(i), left, S::zero());
                } else if left == S::LANES {
                    S::store(to.add(i), N::load::<S>(row, i));
                } else {
                    S::store_n(to.add(i), left, N::load_n::<S>(row, i, left));
                }
                i += left;
            }
        }
    }

    #[inline(always)]
    unsafe fn load_values<N: Numbers>(
        rows: [*const u8; 2],
        j: usize,
        dv: usize,
        to: *mut f32,
        wild: &mut S::F,
    ) {
        // SAFETY: dv numbers of the rows; whole vectors fit the panels.
        unsafe {
            for (r, row) in rows.into_iter().enumerate() {
                let mut i = 0;
                while i < dv {
                    let x = some::<S, N>(row, i, dv);
                    *wild = S::fma(x, S::zero(), *wild);
                    S::store(to.add(i * KEYS + (j + r) * S::LANES), x);
                    i += S::LANES;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn scores<const MR: usize, const NR: usize>(
        k: *const f32,
        q: *const f32,
        dk: usize,
        part: std::ops::Range<usize>,
        s: *mut f32,
        top: &mut [S::F; NR],
    ) {
        // SAFETY: the loops stay inside the keys, the queries and the scores.
        unsafe {
            let mut acc = first::<S, MR, NR>(s, part.start);
            for i in part.start..part.end {
                let mut b = [S::zero(); NR];
                for c in 0..NR {
                    b[c] = S::load(q.add((i * NR + c) * S::LANES));
                }
                for r in 0..MR {
                    let a = S::splat(*k.add(r * dk + i));
                    for c in 0..NR {
                        acc[r][c] = S::fma(a, b[c], acc[r][c]);
                    }
                }
            }
            last::<S, MR, NR>(s, &acc, top);
        }
    }

    #[inline(always)]
    unsafe fn pack_weights<const NR: usize>(w: [[S::F; NR]; 2], j: usize, to: *mut f32) {
        // SAFETY: weights of two keys.
        unsafe {
            for r in 0..2 {
                for c in 0..NR {
                    S::store(to.add(((j + r) * NR + c) * S::LANES), w[r][c]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn weigh<const MR: usize, const NR: usize>(
        v: *const f32,
        w: *const f32,
        span: Span,
        d: usize,
        sums: *mut f32,
        factor: Option<&[S::F; NR]>,
    ) {
        // SAFETY: the loops stay inside the values, the weights and the sums.
        unsafe {
            let v = v.add(d / S::LANES * KEYS * S::LANES + d % S::LANES);
            let mut acc = scaled::<S, MR, NR>(sums, factor);
            for j in span.from..span.to {
                let mut b = [S::zero(); NR];
                for c in 0..NR {
                    b[c] = S::load(w.add((j * NR + c) * S::LANES));
                }
                for r in 0..MR {
                    let a = S::splat(*v.add(j * S::LANES + r));
                    for c in 0..NR {
                        acc[r][c] = S::fma(a, b[c], acc[r][c]);
                    }
                }
            }
            put::<S, MR, NR>(sums, &acc);
        }
    }

    #[inline(always)]
    unsafe fn pair<const NR: usize>(
        v: *const f32,
        w: *const f32,
        j: usize,
        d: usize,
        c: usize,
    ) -> [(f32, S::F); 2] {
        // SAFETY: numbers of the tile.
        unsafe {
            let one = |j: usize| {
                (
                    *v.add((d / S::LANES * KEYS + j) * S::LANES + d % S::LANES),
                    S::load(w.add((j * NR + c) * S::LANES)),
                )
            };
            [one(j), one(j + 1)]
        }
    }
}

/// `LANES` numbers of a row of `len` from `i` on, the rest zero; zeros for null.
#[inline(always)]
pub(super) unsafe fn some<S: Lanes, N: Numbers>(row: *const u8, i: usize, len: usize) -> S::F {
    // SAFETY: i < len, which the row has.
    unsafe {
        if row.is_null() || i >= len {
            S::zero()
        } else if i + S::LANES <= len {
            N::load::<S>(row, i)
        } else {
            N::load_n::<S>(row, i, len - i)
        }
    }
}

/// Scores so far, which are none at the start.
#[inline(always)]
pub(super) unsafe fn first<S: Lanes, const MR: usize, const NR: usize>(
    s: *const f32,
    start: usize,
) -> [[S::F; NR]; MR] {
    // SAFETY: scores of MR keys.
    unsafe {
        if start == 0 {
            return [[S::zero(); NR]; MR];
        }
        scaled::<S, MR, NR>(s, None)
    }
}

/// Stores scores and raises `top`.
#[inline(always)]
pub(super) unsafe fn last<S: Lanes, const MR: usize, const NR: usize>(
    s: *mut f32,
    acc: &[[S::F; NR]; MR],
    top: &mut [S::F; NR],
) {
    // SAFETY: scores of MR keys.
    unsafe {
        put::<S, MR, NR>(s, acc);
        for r in 0..MR {
            for c in 0..NR {
                top[c] = S::max(acc[r][c], top[c]);
            }
        }
    }
}

/// Vectors times `factor`, where there is one.
#[inline(always)]
pub(super) unsafe fn scaled<S: Lanes, const MR: usize, const NR: usize>(
    from: *const f32,
    factor: Option<&[S::F; NR]>,
) -> [[S::F; NR]; MR] {
    // SAFETY: MR * NR vectors.
    unsafe {
        let mut acc = [[S::zero(); NR]; MR];
        for r in 0..MR {
            for c in 0..NR {
                acc[r][c] = S::load(from.add((r * NR + c) * S::LANES));
                if let Some(factor) = factor {
                    acc[r][c] = S::mul(acc[r][c], factor[c]);
                }
            }
        }
        acc
    }
}

/// Stores vectors.
#[inline(always)]
pub(super) unsafe fn put<S: Lanes, const MR: usize, const NR: usize>(
    to: *mut f32,
    acc: &[[S::F; NR]; MR],
) {
    // SAFETY: MR * NR vectors.
    unsafe {
        for r in 0..MR {
            for c in 0..NR {
                S::store(to.add((r * NR + c) * S::LANES), acc[r][c]);
            }
        }
    }
}

/// Where the parts of a task lie in scratch memory: `NR` vectors of rows are a block.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Rows per block.
    pub lanes: usize,
    pub blocks: usize,
    /// Floats of a block's queries, sums, and all that it keeps.
    pub queries: usize,
    pub sums: usize,
    pub block: usize,
}

impl Layout {
    pub fn new(rows: usize, lanes: usize, queries: usize, dv: usize) -> Layout {
        Layout {
            lanes,
            blocks: rows.div_ceil(lanes),
            queries: queries * lanes,
            sums: dv * lanes,
            block: (queries + dv + 4) * lanes,
        }
    }
}

/// Rows of one block, their softmax and sums.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Queries.
    pub q: *mut f32,
    /// `[dv][lanes]`.
    pub sums: *mut f32,
    /// What weights are relative to, in powers of two.
    pub top: *mut f32,
    /// Sums of weights.
    pub total: *mut f32,
    /// Positions relative to the task's first.
    pub places: *mut f32,
    /// Slopes of the position bias.
    pub slopes: *mut f32,
}

impl Block {
    /// # Safety
    /// `memory` has all blocks of the layout.
    pub unsafe fn of(l: Layout, memory: *mut f32, i: usize) -> Block {
        // SAFETY: inside the block.
        unsafe {
            let q = memory.add(i * l.block);
            let sums = q.add(l.queries);
            let top = sums.add(l.sums);
            Block {
                q,
                sums,
                top,
                total: top.add(l.lanes),
                places: top.add(2 * l.lanes),
                slopes: top.add(3 * l.lanes),
            }
        }
    }

    /// Ready for the first keys; the queries are loaded by others.
    ///
    /// # Safety
    /// The block lies in memory; the CPU has the features of `S`.
    #[inline(always)]
    pub unsafe fn clear<S: Lanes>(self, p: &Problem<'_>, task: &Task, l: Layout, i: usize) {
        // SAFETY: inside the block.
        unsafe {
            let mut at = 0;
            while at < l.sums {
                S::store(self.sums.add(at), S::zero());
                at += S::LANES;
            }
            let mut at = 0;
            while at < l.lanes {
                S::store(self.top.add(at), S::splat(f32::NEG_INFINITY));
                S::store(self.total.add(at), S::zero());
                at += S::LANES;
            }
            p.lane_places(task, i * l.lanes, l.lanes, self.slopes, self.places);
        }
    }
}

/// The keys of one step: `n` from `first` on, and which of them are on no page.
pub(super) struct Step {
    pub first: usize,
    pub n: usize,
    pub lost: Option<[bool; KEYS]>,
}

/// Keys of a step, counted from its first, that a block needs.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub from: usize,
    pub to: usize,
    /// All rows see all of them.
    pub whole: bool,
}

impl Step {
    /// What rows `r0..r1` of the task need, in multiples of `step` keys.
    pub fn span(&self, p: &Problem<'_>, task: &Task, r0: usize, r1: usize, step: usize) -> Span {
        // Position of a row, counted from the first key of this step.
        let at = |r: usize| task.queries.position + (r / p.group) as i64 - self.first as i64;
        let n = self.n as i64;
        let (mut to, mut from) = (n, 0);
        let mut whole = self.lost.is_none() && self.n.is_multiple_of(step);
        if p.causal {
            to = (at(r1 - 1) + 1).clamp(0, n);
            whole &= at(r0) + 1 >= to && (to as usize).is_multiple_of(step);
        }
        if let Some(w) = p.window {
            from = (at(r0) - w + 1).clamp(0, n);
            whole &= at(r1 - 1) - w < from && (from as usize).is_multiple_of(step);
        }
        Span {
            from: from as usize / step * step,
            to: (to as usize).next_multiple_of(step),
            whole,
        }
    }
}

/// Scores that are more than products, or that not all rows see: softcap, position bias, mask,
/// range; in powers of two. Raises `top`.
///
/// # Safety
/// `s` and `mask` (when the op has one) have `[KEYS][NR]` vectors; the CPU has the features of
/// `S`.
#[inline(always)]
pub(super) unsafe fn finish<S: Lanes, const NR: usize>(
    p: &Problem<'_>,
    task: &Task,
    b: Block,
    step: &Step,
    span: Span,
    s: *mut f32,
    mask: *const f32,
    top: &mut [S::F; NR],
) {
    // SAFETY: keys of the span, lanes of the block.
    unsafe {
        let low = S::splat(f32::NEG_INFINITY);
        let relative = (task.queries.position - step.first as i64) as f32;
        let end = S::splat(step.n as f32 - 1.0);
        let terms = p.has_terms();
        for c in 0..NR {
            let at = c * S::LANES;
            let here = S::add(S::splat(relative), S::load(b.places.add(at)));
            let last = if p.causal { S::min(here, end) } else { end };
            let first = match p.window {
                Some(w) => S::sub(here, S::splat((w - 1) as f32)),
                None => S::splat(-1.0),
            };
            let slope = if p.alibi.is_some() {
                S::load(b.slopes.add(at))
            } else {
                S::zero()
            };
            for j in span.from..span.to {
                let key = S::splat(j as f32);
                let to = s.add(j * NR * S::LANES + at);
                let mut x = S::load(to);
                if terms {
                    if let Some(cap) = p.softcap {
                        let t = math::tanh::<S>(S::mul(x, S::splat(1.0 / cap)));
                        x = S::mul(t, S::splat(cap));
                    }
                    if p.alibi.is_some() {
                        x = S::fma(slope, S::sub(key, here), x);
                    }
                    if p.mask.is_some() {
                        let m = S::load(mask.add(j * NR * S::LANES + at));
                        x = S::where_le(m, low, low, S::add(x, m));
                    }
                    x = S::mul(x, S::splat(std::f32::consts::LOG2_E));
                }
                x = S::where_le(key, last, x, low);
                x = S::where_le(first, key, x, low);
                if step.lost.is_some_and(|lost| lost[j]) {
                    x = low;
                }
                S::store(to, x);
                top[c] = S::max(x, top[c]);
            }
        }
    }
}

/// The largest scores of some keys become what weights are relative to, where they rise far
/// enough above it. True when the sums must be multiplied with `factor`.
///
/// # Safety
/// The block lies in memory; the CPU has the features of `S`.
#[inline(always)]
pub(super) unsafe fn raise<S: Lanes, const NR: usize>(
    b: Block,
    top: &[S::F; NR],
    factor: &mut [S::F; NR],
) -> bool {
    // SAFETY: lanes of the block.
    unsafe {
        let mut rises = false;
        for c in 0..NR {
            let old = S::load(b.top.add(c * S::LANES));
            rises |= S::any_gt(top[c], S::add(old, S::splat(SLACK)));
        }
        if rises {
            for c in 0..NR {
                let at = c * S::LANES;
                let old = S::load(b.top.add(at));
                let new = S::max(top[c], old);
                factor[c] = S::exp2(S::sub(old, relative_to::<S>(new)));
                S::store(b.top.add(at), new);
                let total = S::load(b.total.add(at));
                S::store(b.total.add(at), S::mul(total, factor[c]));
            }
        }
        rises
    }
}

/// `top`, or zero where nothing has been seen: weights are 2^-inf = 0 against any number.
#[inline(always)]
pub(super) unsafe fn relative_to<S: Lanes>(top: S::F) -> S::F {
    // SAFETY: the caller has the features of `S`.
    unsafe { S::where_le(top, S::splat(f32::NEG_INFINITY), S::zero(), top) }
}

/// Scores to weights in place; their sums go to the totals.
#[inline(always)]
unsafe fn soften<S: Lanes, A: Arithmetic<S>, const NR: usize>(b: Block, span: Span, s: *mut f32) {
    // SAFETY: keys of the span, lanes of the block; packed weights lie before the next scores.
    unsafe {
        let mut top = [S::zero(); NR];
        let mut total = [S::zero(); NR];
        for c in 0..NR {
            top[c] = relative_to::<S>(S::load(b.top.add(c * S::LANES)));
            total[c] = S::load(b.total.add(c * S::LANES));
        }
        for j in (span.from..span.to).step_by(2) {
            let mut w = [[S::zero(); NR]; 2];
            for r in 0..2 {
                for c in 0..NR {
                    let score = S::load(s.add(((j + r) * NR + c) * S::LANES));
                    w[r][c] = S::exp2(S::sub(score, top[c]));
                    total[c] = S::add(total[c], w[r][c]);
                }
            }
            A::pack_weights::<NR>(w, j, s);
        }
        for c in 0..NR {
            S::store(b.total.add(c * S::LANES), total[c]);
        }
    }
}

/// [`Arithmetic::weigh`] of all values where some are not finite: a key of weight 0 must not speak
/// as 0 * NaN.
#[inline(always)]
unsafe fn weigh_wild<S: Lanes, A: Arithmetic<S>, const NR: usize>(
    v: *const f32,
    w: *const f32,
    span: Span,
    dv: usize,
    sums: *mut f32,
    factor: Option<&[S::F; NR]>,
) {
    // SAFETY: the loops stay inside the values, the weights and the sums.
    unsafe {
        for d in 0..dv {
            for c in 0..NR {
                let to = sums.add((d * NR + c) * S::LANES);
                let mut sum = S::load(to);
                if let Some(factor) = factor {
                    sum = S::mul(sum, factor[c]);
                }
                for j in (span.from..span.to).step_by(2) {
                    for (v, w) in A::pair::<NR>(v, w, j, d, c) {
                        sum = S::add(sum, S::where_nonzero(w, S::mul(w, S::splat(v))));
                    }
                }
                S::store(to, sum);
            }
        }
    }
}

/// Loads one step; true when some value is not finite.
#[inline(always)]
unsafe fn load<S: Lanes, A: Arithmetic<S>, N: Numbers, const MR: usize>(
    p: &Problem<'_>,
    task: &Task,
    step: &mut Step,
    k: *mut f32,
    v: *mut f32,
) -> bool {
    let sequence = task.queries.sequence;
    // Up to whole groups of MR are written.
    let (n, padded) = (step.n, step.n.next_multiple_of(MR));
    let mut rows = [std::ptr::null::<u8>(); KEYS];
    // SAFETY: n keys exist; whole groups fit.
    unsafe {
        let all = locate(&p.k, sequence, task.head, step.first, &mut rows[..n]);
        for (j, row) in rows[..padded].iter().enumerate() {
            A::load_key::<N>(*row, p.dk, k.add(j * p.dk));
        }
        let mut lost = [false; KEYS];
        for (lost, row) in lost.iter_mut().zip(&rows[..n]) {
            *lost = row.is_null();
        }
        let both = locate(&p.v, sequence, task.head, step.first, &mut rows[..n]);
        for (lost, row) in lost.iter_mut().zip(&rows[..n]) {
            *lost |= row.is_null();
        }
        step.lost = (!all || !both).then_some(lost);
        let mut wild = S::zero();
        for j in (0..padded).step_by(2) {
            A::load_values::<N>([rows[j], rows[j + 1]], j, p.dv, v, &mut wild);
        }
        S::sum(wild).is_nan()
    }
}

/// Floats of scratch that [`task`] needs.
pub(super) fn scratch<S: Lanes>(p: &Problem<'_>, rows: usize, mr: usize, nr: usize) -> usize {
    let l = Layout::new(rows, nr * S::LANES, p.dk, p.dv.next_multiple_of(mr));
    let step = p.dk + p.dv.next_multiple_of(S::LANES) + 2 * l.lanes;
    // A row of an odd number of halves ends in half a float more.
    l.blocks * l.block + KEYS * step + 16
}

/// Computes one task: `MR` keys or columns of values by `NR` vectors of rows at a time. `MR` is
/// even and divides `LANES` and [`KEYS`].
///
/// # Safety
/// The operands are alive, `memory` has [`scratch`] floats, no other task has the same rows, and
/// the CPU has the features of `S`, `A` and AVX2, FMA and F16C.
#[inline(always)]
pub(super) unsafe fn task<
    S: Lanes,
    A: Arithmetic<S>,
    N: Numbers,
    const MR: usize,
    const NR: usize,
>(
    p: &Problem<'_>,
    task: &Task,
    memory: *mut f32,
    partials: Partials,
) {
    let (dk, dv) = (p.dk, p.dv);
    let rows = task.queries.len * p.group;
    let l = Layout::new(rows, NR * S::LANES, dk, dv.next_multiple_of(MR));
    // SAFETY: the parts add up to `scratch`; rows and keys exist.
    unsafe {
        let k = memory.add(l.blocks * l.block);
        let v = k.add(KEYS * dk);
        let s = v.add(KEYS * dv.next_multiple_of(S::LANES));
        let masks = s.add(KEYS * l.lanes);
        for i in 0..l.blocks {
            let b = Block::of(l, memory, i);
            b.clear::<S>(p, task, l, i);
            p.load_queries(task, i * l.lanes, rows, l.lanes, b.q);
            A::pack_queries(b.q, dk, l.lanes);
        }
        let mut key = task.keys.0;
        while key < task.keys.1 {
            let mut step = Step {
                first: key,
                n: KEYS.min(task.keys.1 - key),
                lost: None,
            };
            let wild = load::<S, A, N, MR>(p, task, &mut step, k, v);
            for i in 0..l.blocks {
                let b = Block::of(l, memory, i);
                let (r0, r1) = (i * l.lanes, rows.min((i + 1) * l.lanes));
                let span = step.span(p, task, r0, r1, MR);
                if span.from >= span.to {
                    continue;
                }
                if let Some(mask) = p.mask {
                    let n = step.n;
                    if !p.load_mask(mask, task, r0, rows, l.lanes, key, n, masks) {
                        continue;
                    }
                }
                let low = [S::splat(f32::NEG_INFINITY); NR];
                let mut top = low;
                for d in (0..dk).step_by(DEPTH) {
                    top = low;
                    for j in (span.from..span.to).step_by(MR) {
                        let (k, s) = (k.add(j * dk), s.add(j * l.lanes));
                        let part = d..dk.min(d + DEPTH);
                        A::scores::<MR, NR>(k, b.q, dk, part, s, &mut top);
                    }
                }
                if !span.whole || p.has_terms() {
                    top = low;
                    finish::<S, NR>(p, task, b, &step, span, s, masks, &mut top);
                }
                let mut factor = [S::zero(); NR];
                let factor = raise::<S, NR>(b, &top, &mut factor).then_some(&factor);
                soften::<S, A, NR>(b, span, s);
                if wild {
                    weigh_wild::<S, A, NR>(v, s, span, dv, b.sums, factor);
                    continue;
                }
                for d in (0..dv).step_by(MR) {
                    A::weigh::<MR, NR>(v, s, span, d, b.sums.add(d * l.lanes), factor);
                }
            }
            key += step.n;
        }
        for i in 0..l.blocks {
            let b = Block::of(l, memory, i);
            let (r0, lanes) = (i * l.lanes, l.lanes);
            p.store_lanes(task, r0, rows, lanes, b.sums, b.top, b.total, partials);
        }
    }
}
