//! Attention with queries in the lanes of vectors (after Dao et al. 2022): one task is a tile of
//! rows and a range of keys. Keys and values are converted once per task, a tile at a time, and
//! stay in the order in which they lie: their numbers are broadcast. Softmax has no step across
//! lanes. What is multiplied, and in which type, is an [`Arithmetic`].

use super::{
    arithmetic::Arithmetic,
    block::{Block, KEYS, Layout, Span, Step},
    lanes::Lanes,
    numbers::{Numbers, locate},
    problem::{Partials, Problem, Task},
};
use crate::backend::cpu::simd::math;

/// How far (in powers of two) scores may rise above those that weights are relative to before
/// sums are scaled down.
pub(super) const SLACK: f32 = 8.0;

/// Numbers of a head that are multiplied at a time, so that those of the queries stay near.
const DEPTH: usize = 128;

/// Scores that are more than products, or that not all rows see: softcap, position bias, mask,
/// range; in powers of two. Raises `top`.
///
/// # Safety
/// `s` and `mask` (when the op has one) have `[KEYS][NR]` vectors; the CPU has the features of
/// `S`.
#[inline(always)]
unsafe fn finish<S: Lanes, const NR: usize>(
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
unsafe fn raise<S: Lanes, const NR: usize>(
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
        A::settle_values(v, padded, p.dv);
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
        A::begin();
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
        A::end();
        for i in 0..l.blocks {
            let b = Block::of(l, memory, i);
            let (r0, lanes) = (i * l.lanes, l.lanes);
            p.store_lanes(task, r0, rows, lanes, b.sums, b.top, b.total, partials);
        }
    }
}
