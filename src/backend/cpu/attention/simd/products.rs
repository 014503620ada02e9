//! The products of attention of few rows.

use super::{arithmetic::Exact, lanes::Lanes, numbers::Numbers};
use crate::backend::cpu::simd::cells;

/// Keys per step: few, so that reading keys and reading values alternate often enough for both to
/// be on their way at any time.
pub(super) const KEYS: usize = 16;

/// Rows that are asked for while those of a step are read.
#[derive(Clone, Copy)]
pub(super) struct Coming<'a> {
    /// Of the next step, for the second level of cache: the first has room for too few requests on
    /// their way.
    far: &'a [*const u8; KEYS],
    /// Half a step on, for the first level, where they come to from the second.
    near: [*const u8; KEYS],
}

impl<'a> Coming<'a> {
    #[inline(always)]
    pub fn new(rows: &[*const u8; KEYS], next: &'a [*const u8; KEYS]) -> Coming<'a> {
        let (mut near, half) = (*next, KEYS / 2);
        near[..half].copy_from_slice(&rows[half..]);
        near[half..].copy_from_slice(&next[..half]);
        Coming { far: next, near }
    }

    /// Asks for numbers `i..i + n` while those of row `j` are read.
    #[inline(always)]
    pub fn fetch<N: Numbers>(&self, j: usize, i: usize, n: usize) {
        let (far, near) = (self.far[j % KEYS], self.near[j % KEYS]);
        let mut at = N::bytes(i);
        while at < N::bytes(i + n) {
            cells::prefetch(far.wrapping_add(at), false);
            cells::prefetch(near.wrapping_add(at), true);
            at += 64;
        }
    }
}

/// The two products of attention for few rows. Queries and weights are in a layout of its own,
/// within the floats that f32 would take.
///
/// # Safety
/// The rows and the memory of every method are as large as said; the CPU has the features of `S`
/// and of the implementing type, AVX2, FMA and F16C.
pub(super) trait Products<S: Lanes> {
    /// Sums that are not finite may be so for want of range, rather than for the numbers' sake.
    const MAY_FAIL: bool = false;
    /// A row of queries, in place; zeros follow it up to a multiple of two vectors. The factor of
    /// its scores.
    unsafe fn pack_query(q: *mut f32, dk: usize) -> f32;
    /// Weights of [`KEYS`] keys, in place. The factor of their sums.
    unsafe fn pack_weights(w: *mut f32) -> f32;
    /// Products of `R` rows of q and `G` keys; `R * G = LANES`. `G` scores of each row. Asks for
    /// what is `ahead` meanwhile, where the first of the keys has that number in its step.
    unsafe fn scores<N: Numbers, const R: usize, const G: usize>(
        q: [*const f32; R],
        k: [*const u8; G],
        dk: usize,
        factors: [f32; R],
        s: [*mut f32; R],
        ahead: Option<(&Coming<'_>, usize)>,
    );
    /// `sums += weights . values` of `R` rows and `C` vectors of columns from `i` on; `n` columns
    /// in the last vector. Asks for the same columns of what is `ahead` meanwhile.
    unsafe fn weigh<N: Numbers, const R: usize, const C: usize>(
        w: [*const f32; R],
        v: &[*const u8],
        i: usize,
        n: usize,
        factors: [f32; R],
        sums: [*mut f32; R],
        ahead: Option<&Coming<'_>>,
    );
}

impl<S: Lanes> Products<S> for Exact {
    #[inline(always)]
    unsafe fn pack_query(_: *mut f32, _: usize) -> f32 {
        1.0
    }

    #[inline(always)]
    unsafe fn pack_weights(_: *mut f32) -> f32 {
        1.0
    }

    #[inline(always)]
    unsafe fn scores<N: Numbers, const R: usize, const G: usize>(
        q: [*const f32; R],
        k: [*const u8; G],
        dk: usize,
        _: [f32; R],
        s: [*mut f32; R],
        ahead: Option<(&Coming<'_>, usize)>,
    ) {
        // SAFETY: dk numbers of each row; `LANES` is at most 16; G scores of each row.
        unsafe {
            let mut acc = [S::zero(); 16];
            let mut i = 0;
            while i + 2 * S::LANES <= dk {
                for j in 0..G {
                    if let Some((ahead, first)) = ahead {
                        ahead.fetch::<N>(first + j, i, 2 * S::LANES);
                    }
                    let k = N::load_two::<S>(k[j], i);
                    for r in 0..R {
                        let x = S::load(q[r].add(i));
                        acc[r * G + j] = S::fma(k[0], x, acc[r * G + j]);
                    }
                    for r in 0..R {
                        let x = S::load(q[r].add(i + S::LANES));
                        acc[r * G + j] = S::fma(k[1], x, acc[r * G + j]);
                    }
                }
                i += 2 * S::LANES;
            }
            while i + S::LANES <= dk {
                let mut x = [S::zero(); R];
                for r in 0..R {
                    x[r] = S::load(q[r].add(i));
                }
                for j in 0..G {
                    let k = N::load::<S>(k[j], i);
                    for r in 0..R {
                        acc[r * G + j] = S::fma(k, x[r], acc[r * G + j]);
                    }
                }
                i += S::LANES;
            }
            if i < dk {
                for j in 0..G {
                    let k = N::load_n::<S>(k[j], i, dk - i);
                    for r in 0..R {
                        acc[r * G + j] = S::fma(k, S::load(q[r].add(i)), acc[r * G + j]);
                    }
                }
            }
            let mut sums = [0f32; 16];
            S::store(sums.as_mut_ptr(), S::sums(&acc[..S::LANES]));
            for r in 0..R {
                std::ptr::copy_nonoverlapping(sums.as_ptr().add(r * G), s[r], G);
            }
        }
    }

    #[inline(always)]
    unsafe fn weigh<N: Numbers, const R: usize, const C: usize>(
        w: [*const f32; R],
        v: &[*const u8],
        i: usize,
        n: usize,
        _: [f32; R],
        sums: [*mut f32; R],
        ahead: Option<&Coming<'_>>,
    ) {
        // SAFETY: columns of the values, weights of the keys, sums of the rows.
        unsafe {
            let mut acc = [[S::zero(); C]; R];
            for r in 0..R {
                for c in 0..C {
                    acc[r][c] = S::load(sums[r].add(i + c * S::LANES));
                }
            }
            for (j, &v) in v.iter().enumerate() {
                if let Some(ahead) = ahead {
                    ahead.fetch::<N>(j, i, C * S::LANES);
                }
                let mut x = [S::zero(); C];
                for c in 0..C {
                    x[c] = if C == 1 && n < S::LANES {
                        N::load_n::<S>(v, i, n)
                    } else {
                        N::load::<S>(v, i + c * S::LANES)
                    };
                }
                for r in 0..R {
                    let w = S::splat(*w[r].add(j));
                    for c in 0..C {
                        acc[r][c] = S::fma(w, x[c], acc[r][c]);
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    S::store(sums[r].add(i + c * S::LANES), acc[r][c]);
                }
            }
        }
    }
}
