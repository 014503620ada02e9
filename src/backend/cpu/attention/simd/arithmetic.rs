//! The products of attention with queries in the lanes of vectors, and the vectors that they are
//! made of.

use super::{
    block::{KEYS, Span},
    lanes::Lanes,
    numbers::Numbers,
};

/// The two products of attention. `k`, `v`, `q` and the weights are in a layout of its own, within
/// the floats that f32 would take: keys `[KEYS][dk]`, values
/// `[panels of LANES columns][KEYS][LANES]`, queries `[dk][NR]` and weights `[KEYS][NR]` vectors.
///
/// # Safety
/// The memory of every method is as large as said, keys come in even numbers, and the CPU has the
/// features of `S` and of the implementing type, AVX2, FMA and F16C.
pub(super) trait Arithmetic<S: Lanes> {
    /// Least dk.
    #[cfg(target_arch = "x86_64")]
    const LEAST: usize = 1;
    /// Before and after a task.
    #[inline(always)]
    unsafe fn begin() {}
    /// See [`Arithmetic::begin`].
    #[inline(always)]
    unsafe fn end() {}
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
    /// After the values of keys up to `n` were loaded.
    #[inline(always)]
    unsafe fn settle_values(v: *mut f32, n: usize, dv: usize) {
        let _ = (v, n, dv);
    }
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
