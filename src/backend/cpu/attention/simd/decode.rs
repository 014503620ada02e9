//! Attention of few rows: keys and values stream by once for all heads that share them.

use super::{
    flash::{SLACK, relative_to},
    lanes::Lanes,
    numbers::{Numbers, locate},
    problem::{Partials, Problem, Task},
};
use crate::backend::cpu::simd::{Scratch, math};

/// Most rows of a task that [`task`] is better at.
pub(super) const fn most_rows(lanes: usize) -> usize {
    lanes / 2
}

/// Floats of scratch that [`task`] needs, [`Few::scratch`] aside: whole cache lines.
fn scratch<S: Lanes, const K: usize>(p: &Problem<'_>, rows: usize) -> usize {
    let (dk, dv) = (
        p.dk.next_multiple_of(2 * S::LANES),
        p.dv.next_multiple_of(S::LANES),
    );
    (rows * (dk + dv + K + S::LANES + 1)).next_multiple_of(16)
}

/// Rows of a step of at most `K` keys; the last of them stand behind the others, too.
#[derive(Clone, Copy)]
pub(super) struct Step<const K: usize> {
    pub first: usize,
    pub n: usize,
    pub k: [*const u8; K],
    pub v: [*const u8; K],
    /// Some key is on no page.
    pub lost: bool,
}

impl<const K: usize> Step<K> {
    const NONE: Step<K> = Step {
        first: 0,
        n: 0,
        k: [std::ptr::null(); K],
        v: [std::ptr::null(); K],
        lost: false,
    };

    /// Keys of the task from `first` on.
    #[inline(always)]
    unsafe fn fill(&mut self, p: &Problem<'_>, task: &Task, first: usize) {
        let n = K.min(task.keys.1.saturating_sub(first));
        (self.first, self.n, self.lost) = (first, n, false);
        if n == 0 {
            return;
        }
        let sequence = task.queries.sequence;
        // SAFETY: keys of the task.
        unsafe {
            let k = locate(&p.k, sequence, task.head, first, &mut self.k[..n]);
            let v = locate(&p.v, sequence, task.head, first, &mut self.v[..n]);
            self.lost = !(k && v);
        }
        for i in n..K {
            (self.k[i], self.v[i]) = (self.k[n - 1], self.v[n - 1]);
        }
    }
}

/// Rows of one task, in scratch memory.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    pub rows: usize,
    /// Queries, `dk` floats each, zeros behind those of the head.
    pub q: *mut f32,
    pub dk: usize,
    /// Sums of weights by values, `dv` floats each.
    pub sums: *mut f32,
    pub dv: usize,
    /// Scores, then weights, `keys` floats each.
    pub scores: *mut f32,
    pub keys: usize,
    /// The largest score of each row, in powers of two.
    pub top: *mut f32,
    /// The denominator of each row, one vector.
    pub total: *mut f32,
}

/// A way to compute attention of few rows, `K` keys at a time.
///
/// # Safety
/// The task's operands are alive, the lines are its own, the CPU has the features of `S` and of
/// the implementing type, AVX2, FMA and F16C.
pub(super) trait Few<S: Lanes, const K: usize>: Sized {
    /// Floats of scratch.
    fn scratch(p: &Problem<'_>) -> usize;
    /// Takes the queries of `l`, which may be overwritten. `None` where they are not for it.
    unsafe fn begin(p: &Problem<'_>, l: Lines, memory: *mut f32) -> Option<Self>;
    /// Scores, weights and sums of a step. `hidden` tells which keys are on no page, `step` has
    /// rows for all. Asks for rows of the `next` step meanwhile, which has none after the last.
    unsafe fn step(
        &mut self,
        p: &Problem<'_>,
        task: &Task,
        l: Lines,
        step: &Step<K>,
        hidden: &Step<K>,
        next: &Step<K>,
    );
    /// Leaves the sums of `l` in the order of the values. False where they do not hold.
    unsafe fn end(self, p: &Problem<'_>, l: Lines) -> bool;
}

/// From products to scores in powers of two of row `r`: softcap, position bias, mask, range.
#[inline(always)]
pub(super) unsafe fn finish<S: Lanes, const K: usize>(
    p: &Problem<'_>,
    task: &Task,
    r: usize,
    step: &Step<K>,
    line: *mut f32,
) {
    let position = task.queries.position + (r / p.group) as i64;
    let (key, n) = (step.first, step.n);
    // SAFETY: a line has K scores; masks and slopes have an element for each.
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
pub(super) unsafe fn soften<S: Lanes>(l: Lines, r: usize, n: usize) -> bool {
    // SAFETY: a row of the task.
    unsafe {
        let line = l.scores.add(r * l.keys);
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

/// Adds the values of keys whose weight is not 0.
#[inline(always)]
pub(super) unsafe fn careful<S: Lanes, N: Numbers, const K: usize>(
    p: &Problem<'_>,
    l: Lines,
    r: usize,
    step: &Step<K>,
) {
    // SAFETY: a row of the task, keys of the step.
    unsafe {
        for j in 0..step.n {
            let w = *l.scores.add(r * l.keys + j);
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

/// Computes one task of few rows. False, and nothing is done, where its numbers are not for `W`.
///
/// # Safety
/// The operands are alive, no other task has the same rows, and the CPU has the features of `S` and
/// of `W`, AVX2, FMA and F16C.
#[inline(always)]
pub(super) unsafe fn task<S: Lanes, W: Few<S, K>, const K: usize>(
    p: &Problem<'_>,
    task: &Task,
    memory: &mut Scratch,
    partials: Partials,
) -> bool {
    let rows = task.queries.len * p.group;
    let own = scratch::<S, K>(p, rows);
    let memory = memory.take(own + W::scratch(p));
    let l = {
        let (dk, dv) = (
            p.dk.next_multiple_of(2 * S::LANES),
            p.dv.next_multiple_of(S::LANES),
        );
        // SAFETY: the parts add up to `scratch`.
        unsafe {
            let sums = memory.add(rows * dk);
            let scores = sums.add(rows * dv);
            let total = scores.add(rows * K);
            Lines {
                rows,
                q: memory,
                dk,
                sums,
                dv,
                scores,
                keys: K,
                total,
                top: total.add(rows * S::LANES),
            }
        }
    };
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
            let mut d = 0;
            while d < l.dv {
                S::store(l.sums.add(r * l.dv + d), S::zero());
                d += S::LANES;
            }
            *l.top.add(r) = f32::NEG_INFINITY;
            S::store(l.total.add(r * S::LANES), S::zero());
        }
        let Some(mut way) = W::begin(p, l, memory.add(own)) else {
            return false;
        };
        // This step and the next, by turns.
        let mut steps = [Step::<K>::NONE; 2];
        steps[0].fill(p, task, task.keys.0);
        // Where there is no next, rows that are there already cost the least to ask for.
        steps[1] = steps[0];
        let mut turn = 0;
        while steps[turn].n > 0 {
            let first = steps[turn].first + steps[turn].n;
            steps[1 - turn].fill(p, task, first);
            let (step, next) = (&steps[turn], &steps[1 - turn]);
            if step.lost {
                // Where a key is on no page, any that is stands in for it: its score is hidden.
                let k = step.k[..step.n].iter().find(|k| !k.is_null()).copied();
                let v = step.v[..step.n].iter().find(|v| !v.is_null()).copied();
                if let (Some(k), Some(v)) = (k, v) {
                    let mut full = Step {
                        lost: false,
                        ..*step
                    };
                    for row in full.k.iter_mut().filter(|r| r.is_null()) {
                        *row = k;
                    }
                    for row in full.v.iter_mut().filter(|r| r.is_null()) {
                        *row = v;
                    }
                    way.step(p, task, l, &full, step, next);
                }
            } else {
                way.step(p, task, l, step, step, next);
            }
            turn = 1 - turn;
        }
        if !way.end(p, l) {
            return false;
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
    true
}
