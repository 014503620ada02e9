//! Attention of few rows: keys and values stream by once for all heads that share them, and are
//! converted in registers.

use super::{
    flash::{SLACK, relative_to},
    lanes::Lanes,
    numbers::{Numbers, locate},
    problem::{Partials, Problem, Task},
    products::{KEYS, Products, fetch},
};
use crate::backend::cpu::simd::math;

/// Rows that share a pass over keys or values.
const SIDE: usize = 4;

/// Most rows of a task that [`task`] is better at.
pub(super) const fn most_rows(lanes: usize) -> usize {
    lanes / 2
}

/// Floats of scratch that [`task`] needs.
pub(super) fn scratch<S: Lanes>(p: &Problem<'_>, rows: usize) -> usize {
    let (dk, dv) = (
        p.dk.next_multiple_of(2 * S::LANES),
        p.dv.next_multiple_of(S::LANES),
    );
    rows * (dk + dv + KEYS + S::LANES + 1)
}

/// Rows of a step.
struct Step {
    first: usize,
    n: usize,
    k: [*const u8; KEYS],
    v: [*const u8; KEYS],
    /// Some key is on no page.
    lost: bool,
}

impl Step {
    #[inline(always)]
    unsafe fn new(p: &Problem<'_>, task: &Task, first: usize) -> Step {
        let n = KEYS.min(task.keys.1.saturating_sub(first));
        let mut step = Step {
            first,
            n,
            k: [std::ptr::null(); KEYS],
            v: [std::ptr::null(); KEYS],
            lost: false,
        };
        let sequence = task.queries.sequence;
        // SAFETY: keys of the task.
        unsafe {
            let k = locate(&p.k, sequence, task.head, first, &mut step.k[..n]);
            let v = locate(&p.v, sequence, task.head, first, &mut step.v[..n]);
            step.lost = !(k && v);
        }
        step
    }
}

/// Rows of one task, in scratch memory.
#[derive(Clone, Copy)]
struct Lines {
    q: *mut f32,
    /// Floats between rows of q, of sums.
    dk: usize,
    dv: usize,
    sums: *mut f32,
    scores: *mut f32,
    top: *mut f32,
    /// One vector per row.
    total: *mut f32,
}

/// Scores of all rows against the keys of a step. Asks for the `bytes` of each of the rows `next`
/// meanwhile.
#[inline(always)]
unsafe fn all_scores<S: Lanes, A: Products<S>, N: Numbers, const R: usize, const G: usize>(
    p: &Problem<'_>,
    l: Lines,
    r0: usize,
    rows: usize,
    step: &Step,
    next: &[*const u8],
    bytes: usize,
) {
    // SAFETY: rows beyond the last repeat it, and so do keys; see `scores`.
    unsafe {
        let (mut q, mut s) = ([l.q.cast_const(); R], [l.scores; R]);
        for r in 0..R {
            let row = (r0 + r).min(rows - 1);
            q[r] = l.q.add(row * l.dk).cast_const();
            s[r] = l.scores.add(row * KEYS);
        }
        let mut j = 0;
        while j < step.n {
            let mut k = [std::ptr::null(); G];
            let mut to = s;
            for g in 0..G {
                k[g] = step.k[(j + g).min(step.n - 1)];
                if let Some(&row) = next.get(j + g) {
                    fetch(row, bytes);
                }
            }
            for to in &mut to {
                *to = to.add(j);
            }
            A::scores::<N, R, G>(q, k, p.dk, to);
            j += G;
        }
    }
}

/// Adds the values of a step to the sums of all rows. Asks for the `bytes` of each of the rows
/// `next` meanwhile.
#[inline(always)]
unsafe fn all_values<S: Lanes, A: Products<S>, N: Numbers, const R: usize, const C: usize>(
    p: &Problem<'_>,
    l: Lines,
    r0: usize,
    rows: usize,
    step: &Step,
    next: &[*const u8],
    bytes: usize,
) {
    // SAFETY: rows beyond the last repeat it: their sums are computed alike.
    unsafe {
        let (mut w, mut sums) = ([l.scores.cast_const(); R], [l.sums; R]);
        for r in 0..R {
            let row = (r0 + r).min(rows - 1);
            w[r] = l.scores.add(row * KEYS).cast_const();
            sums[r] = l.sums.add(row * l.dv);
        }
        let v = &step.v[..step.n];
        let (mut i, mut next) = (0, next);
        while i + C * S::LANES <= p.dv {
            A::weigh::<N, R, C>(w, v, i, S::LANES, sums, next, bytes);
            next = &[];
            i += C * S::LANES;
        }
        while i < p.dv {
            let n = (p.dv - i).min(S::LANES);
            A::weigh::<N, R, 1>(w, v, i, n, sums, next, bytes);
            next = &[];
            i += S::LANES;
        }
    }
}

/// From products to scores in powers of two of row `r`: softcap, position bias, mask, range.
#[inline(always)]
unsafe fn finish<S: Lanes>(p: &Problem<'_>, task: &Task, r: usize, step: &Step, line: *mut f32) {
    let position = task.queries.position + (r / p.group) as i64;
    let (key, n) = (step.first, step.n);
    // SAFETY: a line has KEYS scores; masks and slopes have an element for each.
    unsafe {
        let low = S::splat(f32::NEG_INFINITY);
        if p.has_terms() {
            let mask = p.mask.map(|m| (m, p.offset(m.strides, task, r) + key));
            let slope = p.alibi.map(|s| *s.add(p.place(task, r).0));
            let mut j = 0;
            while j < n {
                let lanes = (n - j).min(S::LANES);
                let mut x = S::load(line.add(j));
                if let Some(cap) = p.softcap {
                    let t = math::tanh::<S>(S::mul(x, S::splat(1.0 / cap)));
                    x = S::mul(t, S::splat(cap));
                }
                if let Some(slope) = slope {
                    let mut at = [0f32; 16];
                    for (i, at) in at.iter_mut().enumerate() {
                        *at = ((key + j + i) as i64 - position) as f32;
                    }
                    x = S::fma(S::splat(slope), S::load(at.as_ptr()), x);
                }
                if let Some((mask, at)) = mask {
                    if mask.boolean {
                        let mut hidden = [0f32; 16];
                        for (i, h) in hidden.iter_mut().enumerate().take(lanes) {
                            if *mask.data.start.add(at + j + i) == 0 {
                                *h = f32::NEG_INFINITY;
                            }
                        }
                        let m = S::load(hidden.as_ptr());
                        x = S::where_le(m, low, low, x);
                    } else {
                        let m = mask.data.load::<S>(at + j, lanes);
                        x = S::where_le(m, low, low, S::add(x, m));
                    }
                }
                x = S::mul(x, S::splat(std::f32::consts::LOG2_E));
                S::store(line.add(j), x);
                j += S::LANES;
            }
        }
        let mut to = n;
        if p.causal {
            to = (position + 1 - key as i64).clamp(0, n as i64) as usize;
        }
        let mut from = 0;
        if let Some(w) = p.window {
            from = (position - w + 1 - key as i64).clamp(0, n as i64) as usize;
        }
        for j in (0..from).chain(to..n.next_multiple_of(S::LANES)) {
            *line.add(j) = f32::NEG_INFINITY;
        }
        if step.lost {
            for j in 0..n {
                if step.k[j].is_null() || step.v[j].is_null() {
                    *line.add(j) = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// Scores to weights; denominator and sums follow a rise of the largest score. True when some
/// weight is 0.
#[inline(always)]
unsafe fn soften<S: Lanes>(l: Lines, r: usize, n: usize) -> bool {
    // SAFETY: a row of the task.
    unsafe {
        let line = l.scores.add(r * KEYS);
        let old = *l.top.add(r);
        let limit = S::splat(old + SLACK);
        let mut rises = false;
        let mut j = 0;
        while j < n {
            rises |= S::any_gt(S::load(line.add(j)), limit);
            j += S::LANES;
        }
        let total_at = l.total.add(r * S::LANES);
        if rises {
            let mut most = S::splat(f32::NEG_INFINITY);
            let mut j = 0;
            while j < n {
                most = S::max(S::load(line.add(j)), most);
                j += S::LANES;
            }
            let most = S::max_lane(most);
            *l.top.add(r) = most;
            let factor = S::exp2(S::splat(old - most));
            S::store(total_at, S::mul(S::load(total_at), factor));
            let mut d = 0;
            while d < l.dv {
                let to = l.sums.add(r * l.dv + d);
                S::store(to, S::mul(S::load(to), factor));
                d += S::LANES;
            }
        }
        let top = relative_to::<S>(S::splat(*l.top.add(r)));
        let (mut total, mut least) = (S::load(total_at), S::splat(f32::INFINITY));
        let mut j = 0;
        while j < n {
            let w = S::exp2(S::sub(S::load(line.add(j)), top));
            S::store(line.add(j), w);
            total = S::add(total, w);
            least = S::min(w, least);
            j += S::LANES;
        }
        S::store(total_at, total);
        S::any_gt(S::splat(f32::MIN_POSITIVE), least)
    }
}

/// True when all values of a step are finite.
#[inline(always)]
unsafe fn finite<S: Lanes, N: Numbers>(v: &[*const u8], dv: usize) -> bool {
    // SAFETY: rows of values.
    unsafe {
        let mut wild = S::zero();
        for &v in v {
            let mut i = 0;
            while i < dv {
                let n = (dv - i).min(S::LANES);
                wild = S::fma(N::load_n::<S>(v, i, n), S::zero(), wild);
                i += S::LANES;
            }
        }
        !S::sum(wild).is_nan()
    }
}

/// Adds the values of keys whose weight is not 0.
#[inline(always)]
unsafe fn careful<S: Lanes, N: Numbers>(p: &Problem<'_>, l: Lines, r: usize, step: &Step) {
    // SAFETY: a row of the task, keys of the step.
    unsafe {
        for j in 0..step.n {
            let w = *l.scores.add(r * KEYS + j);
            if w == 0.0 || step.v[j].is_null() {
                continue;
            }
            let mut i = 0;
            while i < p.dv {
                let n = (p.dv - i).min(S::LANES);
                let to = l.sums.add(r * l.dv + i);
                let v = N::load_n::<S>(step.v[j], i, n);
                S::store(to, S::fma(v, S::splat(w), S::load(to)));
                i += S::LANES;
            }
        }
    }
}

/// Computes one task of few rows.
///
/// # Safety
/// The operands are alive, `memory` has [`scratch`] floats, no other task has the same rows, and
/// the CPU has the features of `S` and AVX2, FMA and F16C.
#[inline(always)]
pub(super) unsafe fn task<
    S: Lanes,
    A: Products<S>,
    N: Numbers,
    const G1: usize,
    const G2: usize,
    const G4: usize,
>(
    p: &Problem<'_>,
    task: &Task,
    memory: *mut f32,
    partials: Partials,
) {
    let rows = task.queries.len * p.group;
    let l = {
        let (dk, dv) = (
            p.dk.next_multiple_of(2 * S::LANES),
            p.dv.next_multiple_of(S::LANES),
        );
        // SAFETY: the parts add up to `scratch`.
        unsafe {
            let sums = memory.add(rows * dk);
            let scores = sums.add(rows * dv);
            let total = scores.add(rows * KEYS);
            Lines {
                q: memory,
                dk,
                dv,
                sums,
                scores,
                total,
                top: total.add(rows * S::LANES),
            }
        }
    };
    let lead = |t: &crate::TensorDesc, d: usize| {
        let e = t.element;
        d / e.block_len() * e.block_bytes()
    };
    let k_bytes = lead(p.k.view.desc(), p.dk);
    let v_bytes = lead(p.v.view.desc(), p.dv);
    // SAFETY: rows and keys exist.
    unsafe {
        for r in 0..rows {
            let at = p.offset(p.q.strides, task, r);
            let mut d = 0;
            while d < p.dk {
                let n = (p.dk - d).min(S::LANES);
                let v = p.q.data.load::<S>(at + d, n);
                let v = S::mul(v, S::splat(p.query_factor()));
                S::store(l.q.add(r * l.dk + d), S::first_n(n, v, S::zero()));
                d += S::LANES;
            }
            while d < l.dk {
                S::store(l.q.add(r * l.dk + d), S::zero());
                d += S::LANES;
            }
            A::pack_query(l.q.add(r * l.dk), p.dk);
            let mut d = 0;
            while d < l.dv {
                S::store(l.sums.add(r * l.dv + d), S::zero());
                d += S::LANES;
            }
            *l.top.add(r) = f32::NEG_INFINITY;
            S::store(l.total.add(r * S::LANES), S::zero());
        }
        let mut step = Step::new(p, task, task.keys.0);
        let mut next = Step::new(p, task, step.first + step.n);
        while step.n > 0 {
            let after = Step::new(p, task, next.first + next.n);
            if step.lost {
                // Where a key is on no page, any that is stands in for it: its score is hidden.
                let k = step.k[..step.n].iter().find(|k| !k.is_null()).copied();
                let v = step.v[..step.n].iter().find(|v| !v.is_null()).copied();
                if let (Some(k), Some(v)) = (k, v) {
                    let mut full = Step {
                        lost: false,
                        ..step
                    };
                    for row in full.k.iter_mut().filter(|r| r.is_null()) {
                        *row = k;
                    }
                    for row in full.v.iter_mut().filter(|r| r.is_null()) {
                        *row = v;
                    }
                    one::<S, A, N, G1, G2, G4>(p, task, l, &full, &step, &after, k_bytes, v_bytes);
                }
            } else {
                one::<S, A, N, G1, G2, G4>(p, task, l, &step, &step, &after, k_bytes, v_bytes);
            }
            step = next;
            next = after;
        }
        for r in 0..rows {
            let (sums, top) = (l.sums.add(r * l.dv), *l.top.add(r));
            let total = S::sum(S::load(l.total.add(r * S::LANES)));
            match task.partial {
                None => p.store::<S>(task, r, sums, p.share(task, r, top, total)),
                Some(at) => {
                    let to = partials.start.add((at + r) * partials.step());
                    std::ptr::copy_nonoverlapping(sums, to, p.dv);
                    partials.finish(at + r, top, total);
                }
            }
        }
    }
}

/// One step; `hidden` tells which keys are on no page, `step` has rows for all. Asks for the rows
/// of `after` meanwhile.
#[inline(always)]
unsafe fn one<
    S: Lanes,
    A: Products<S>,
    N: Numbers,
    const G1: usize,
    const G2: usize,
    const G4: usize,
>(
    p: &Problem<'_>,
    task: &Task,
    l: Lines,
    step: &Step,
    hidden: &Step,
    after: &Step,
    k_bytes: usize,
    v_bytes: usize,
) {
    let rows = task.queries.len * p.group;
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        let mut ahead = &after.k[..after.n];
        let mut r0 = 0;
        while r0 < rows {
            let n = k_bytes;
            match rows - r0 {
                1 => all_scores::<S, A, N, 1, G1>(p, l, r0, rows, step, ahead, n),
                2 => all_scores::<S, A, N, 2, G2>(p, l, r0, rows, step, ahead, n),
                _ => all_scores::<S, A, N, SIDE, G4>(p, l, r0, rows, step, ahead, n),
            }
            ahead = &[];
            r0 += SIDE;
        }
        let mut zero = false;
        for r in 0..rows {
            finish::<S>(p, task, r, hidden, l.scores.add(r * KEYS));
            zero |= soften::<S>(l, r, step.n);
        }
        if zero && !finite::<S, N>(&step.v[..step.n], p.dv) {
            for r in 0..rows {
                careful::<S, N>(p, l, r, hidden);
            }
            return;
        }
        for r in 0..rows {
            A::pack_weights(l.scores.add(r * KEYS));
        }
        let mut ahead = &after.v[..after.n];
        let mut r0 = 0;
        while r0 < rows {
            let n = v_bytes;
            match rows - r0 {
                1 => all_values::<S, A, N, 1, 4>(p, l, r0, rows, step, ahead, n),
                2 => all_values::<S, A, N, 2, 4>(p, l, r0, rows, step, ahead, n),
                _ if S::LANES == 16 => {
                    all_values::<S, A, N, SIDE, 4>(p, l, r0, rows, step, ahead, n);
                }
                _ => all_values::<S, A, N, SIDE, 2>(p, l, r0, rows, step, ahead, n),
            }
            ahead = &[];
            r0 += SIDE;
        }
    }
}
