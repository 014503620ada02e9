//! Attention of few rows whose keys and values are converted in registers.

use super::{
    decode::{Few, Lines, Step, careful, finish, soften},
    lanes::Lanes,
    numbers::Numbers,
    problem::{Problem, Task},
    products::{Coming, KEYS, Products},
};
use std::marker::PhantomData;

/// Rows that share a pass over keys or values.
const SIDE: usize = 4;

/// Most rows of a task, of the widest vectors.
const MOST: usize = super::decode::most_rows(16);

/// Products by `A` of numbers `N`, with groups of `G1` keys for one row, `G2` for two, `G4` for
/// [`SIDE`].
pub(super) struct Streams<A, N, const G1: usize, const G2: usize, const G4: usize> {
    /// Of the scores of each row.
    factors: [f32; MOST],
    by: PhantomData<(A, N)>,
}

/// Scores of all rows against the keys of a step. Asks for what is `ahead` of them meanwhile.
#[inline(always)]
unsafe fn all_scores<S: Lanes, A: Products<S>, N: Numbers, const R: usize, const G: usize>(
    p: &Problem<'_>,
    l: Lines,
    r0: usize,
    step: &Step<KEYS>,
    factors: &[f32; MOST],
    ahead: Option<&Coming<'_>>,
) {
    // SAFETY: rows beyond the last repeat it, and so do keys; see `scores`.
    unsafe {
        let (mut q, mut s) = ([l.q.cast_const(); R], [l.scores; R]);
        let mut own = [1.0; R];
        for r in 0..R {
            let row = (r0 + r).min(l.rows - 1);
            own[r] = factors[row];
            q[r] = l.q.add(row * l.dk).cast_const();
            s[r] = l.scores.add(row * KEYS);
        }
        let mut j = 0;
        while j < step.n {
            let mut k = [std::ptr::null(); G];
            let mut to = s;
            for g in 0..G {
                k[g] = step.k[(j + g).min(step.n - 1)];
            }
            for to in &mut to {
                *to = to.add(j);
            }
            A::scores::<N, R, G>(q, k, p.dk, own, to, ahead.map(|a| (a, j)));
            j += G;
        }
    }
}

/// Adds the values of a step to the sums of all rows. Asks for what is `ahead` of them meanwhile.
#[inline(always)]
unsafe fn all_values<S: Lanes, A: Products<S>, N: Numbers, const R: usize, const C: usize>(
    p: &Problem<'_>,
    l: Lines,
    r0: usize,
    step: &Step<KEYS>,
    factors: &[f32; MOST],
    ahead: Option<&Coming<'_>>,
) {
    // SAFETY: rows beyond the last repeat it: their sums are computed alike.
    unsafe {
        let (mut w, mut sums) = ([l.scores.cast_const(); R], [l.sums; R]);
        let mut own = [1.0; R];
        for r in 0..R {
            let row = (r0 + r).min(l.rows - 1);
            own[r] = factors[row];
            w[r] = l.scores.add(row * KEYS).cast_const();
            sums[r] = l.sums.add(row * l.dv);
        }
        let v = &step.v[..step.n];
        let mut i = 0;
        while i + C * S::LANES <= p.dv {
            A::weigh::<N, R, C>(w, v, i, S::LANES, own, sums, ahead);
            i += C * S::LANES;
        }
        while i < p.dv {
            let n = (p.dv - i).min(S::LANES);
            A::weigh::<N, R, 1>(w, v, i, n, own, sums, ahead);
            i += S::LANES;
        }
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

// SAFETY (whole impl): the trait's contract, with the CPU features of `A`.
impl<S: Lanes, A: Products<S>, N: Numbers, const G1: usize, const G2: usize, const G4: usize>
    Few<S, KEYS> for Streams<A, N, G1, G2, G4>
{
    fn scratch(_: &Problem<'_>) -> usize {
        0
    }

    #[inline(always)]
    unsafe fn begin(p: &Problem<'_>, l: Lines, _: *mut f32) -> Option<Self> {
        let mut factors = [1.0; MOST];
        for r in 0..l.rows {
            // SAFETY: a row of queries.
            factors[r] = unsafe { A::pack_query(l.q.add(r * l.dk), p.dk) };
        }
        Some(Streams {
            factors,
            by: PhantomData,
        })
    }

    #[inline(always)]
    unsafe fn step(
        &mut self,
        p: &Problem<'_>,
        task: &Task,
        l: Lines,
        step: &Step<KEYS>,
        hidden: &Step<KEYS>,
        next: &Step<KEYS>,
    ) {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let factors = &self.factors;
            let coming = Coming::new(&step.k, &next.k);
            let mut ahead = Some(&coming);
            let mut r0 = 0;
            while r0 < l.rows {
                match l.rows - r0 {
                    1 => all_scores::<S, A, N, 1, G1>(p, l, r0, step, factors, ahead),
                    2 => all_scores::<S, A, N, 2, G2>(p, l, r0, step, factors, ahead),
                    _ => all_scores::<S, A, N, SIDE, G4>(p, l, r0, step, factors, ahead),
                }
                ahead = None;
                r0 += SIDE;
            }
            let mut zero = false;
            for r in 0..l.rows {
                finish::<S, KEYS>(p, task, r, hidden, l.scores.add(r * KEYS));
                zero |= soften::<S>(l, r, step.n);
            }
            if zero && !finite::<S, N>(&step.v[..step.n], p.dv) {
                for r in 0..l.rows {
                    careful::<S, N, KEYS>(p, l, r, hidden);
                }
                return;
            }
            let mut factors = [1.0; MOST];
            for r in 0..l.rows {
                factors[r] = A::pack_weights(l.scores.add(r * KEYS));
            }
            let factors = &factors;
            let coming = Coming::new(&step.v, &next.v);
            let mut ahead = Some(&coming);
            let mut r0 = 0;
            while r0 < l.rows {
                match l.rows - r0 {
                    1 => all_values::<S, A, N, 1, 4>(p, l, r0, step, factors, ahead),
                    2 => all_values::<S, A, N, 2, 4>(p, l, r0, step, factors, ahead),
                    _ if S::LANES == 16 => {
                        all_values::<S, A, N, SIDE, 4>(p, l, r0, step, factors, ahead);
                    }
                    _ => all_values::<S, A, N, SIDE, 2>(p, l, r0, step, factors, ahead),
                }
                ahead = None;
                r0 += SIDE;
            }
        }
    }

    #[inline(always)]
    unsafe fn end(self, _: &Problem<'_>, l: Lines) -> bool {
        if !A::MAY_FAIL {
            return true;
        }
        // SAFETY: sums and totals of the rows.
        unsafe {
            let mut wild = S::zero();
            for r in 0..l.rows {
                wild = S::fma(S::load(l.total.add(r * S::LANES)), S::zero(), wild);
                for d in (0..l.dv).step_by(S::LANES) {
                    wild = S::fma(S::load(l.sums.add(r * l.dv + d)), S::zero(), wild);
                }
            }
            !S::sum(wild).is_nan()
        }
    }
}
