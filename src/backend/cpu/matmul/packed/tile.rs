//! 8-bit rows of x times packed weights: the one kernel of all layouts, for weights as they
//! stream from memory and for panels in cache.

use super::{
    class::{BLOCK, Layout, Scales, TILE, groups},
    lanes::Lanes,
};
use crate::backend::cpu::simd::stream;

/// Rows of x in 8 bits that are multiplied at once, `R` of them, from some k on.
#[derive(Clone, Copy)]
pub(super) struct Strip {
    /// `[k / 4][R][4]`.
    pub codes: *const i8,
    /// `[k / 32][R]`: scales.
    pub d: *const f32,
    /// `[k / 32 * SUBS][R]`: scale times sum of codes; for layouts with minima.
    pub s: *const f32,
    /// `[k / 32 * SUBS][R]`: where integer sums start, minus the zero point times the sum of
    /// codes; null: at 0.
    pub init: *const i32,
}

/// What a layout leaves to the format.
#[derive(Clone, Copy)]
pub(super) struct Params {
    /// Bytes behind the codes, zero point added.
    pub table: [u8; 16],
    /// The zero point.
    pub zero: f32,
    /// On the scale of a unit.
    pub factor: f32,
}

/// Rows of x that are multiplied at once.
pub(super) const ROWS: usize = 4;
/// The same where weights stream by: enough to decode them once. The sums of two tiles then live in
/// memory between blocks, which costs less than loads of x for one tile alone.
pub(super) const STREAM_ROWS: usize = 8;

/// `c[R][c_step] += x . w` for `C` tiles, `units` units each; tile `i` at `w[i]`, its 16 columns
/// of c at `c[i]`.
///
/// # Safety
/// They exist, and `R` rows of the strip over as many k; the CPU has the features of `L`.
#[inline(always)]
pub(super) unsafe fn tile<
    L: Lanes,
    K: Layout,
    const R: usize,
    const C: usize,
    const STREAM: bool,
>(
    mut w: [*const u8; C],
    x: Strip,
    units: usize,
    p: &Params,
    c: [*mut f32; C],
    c_step: usize,
) {
    let (blocks, subs) = (K::Scales::UNIT / BLOCK, K::Scales::SUBS);
    // SAFETY: the loops stay inside the units, the strip and c.
    unsafe {
        let table = L::table(p.table.as_ptr());
        let mut sums = [[L::zero(); C]; R];
        let mut b = 0;
        for _ in 0..units {
            let mut unit = [[L::zero(); 2]; C];
            for i in 0..C {
                unit[i] = K::Scales::unit::<L>(w[i], p.factor);
            }
            for block in 0..blocks {
                let mut at = [w[0]; C];
                for i in 0..C {
                    at[i] = w[i].add(K::Scales::HEAD + block * (BLOCK * TILE * K::BITS / 8));
                    if STREAM && block < K::Scales::HEAD / 64 {
                        stream(w[i].add(64 * block));
                    }
                }
                if subs == 1 {
                    let dots = dots::<L, K, R, C, STREAM, 0, 8>(at, x, b, 0, table);
                    for i in 0..C {
                        let scale = K::Scales::scale::<L>(w[i], unit[i], block, 0);
                        for r in 0..R {
                            let d = L::splat(*x.d.add(b * R + r));
                            let t = L::mul(L::to_f32(dots[r][i]), scale);
                            sums[r][i] = L::fma(t, d, sums[r][i]);
                        }
                    }
                } else {
                    // Integer sums as floats, scaled by the weights.
                    let mut t = [[L::zero(); C]; R];
                    let half = dots::<L, K, R, C, STREAM, 0, 4>(at, x, b, 0, table);
                    for i in 0..C {
                        let scale = K::Scales::scale::<L>(w[i], unit[i], block, 0);
                        for r in 0..R {
                            t[r][i] = L::mul(L::to_f32(half[r][i]), scale);
                        }
                    }
                    let half = dots::<L, K, R, C, STREAM, 4, 8>(at, x, b, 1, table);
                    for i in 0..C {
                        let scale = K::Scales::scale::<L>(w[i], unit[i], block, 1);
                        for r in 0..R {
                            let d = L::splat(*x.d.add(b * R + r));
                            let t = L::fma(L::to_f32(half[r][i]), scale, t[r][i]);
                            sums[r][i] = L::fma(t, d, sums[r][i]);
                        }
                    }
                }
                if K::Scales::MINS {
                    for sub in 0..subs {
                        for i in 0..C {
                            let min = K::Scales::min::<L>(w[i], unit[i], block, sub);
                            for r in 0..R {
                                let s = L::splat(*x.s.add((b * subs + sub) * R + r));
                                sums[r][i] = L::fnma(min, s, sums[r][i]);
                            }
                        }
                    }
                }
                b += 1;
            }
            for i in 0..C {
                w[i] = w[i].add(K::BYTES);
            }
        }
        for r in 0..R {
            for i in 0..C {
                let c = c[i].add(r * c_step);
                L::store(c, L::add(sums[r][i], L::load(c)));
            }
        }
    }
}

/// Integer sums of groups `FROM..TO` of block `b` of x, whose codes are at `at`; part `sub` of the
/// sums of the block.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
unsafe fn dots<
    L: Lanes,
    K: Layout,
    const R: usize,
    const C: usize,
    const STREAM: bool,
    const FROM: usize,
    const TO: usize,
>(
    at: [*const u8; C],
    x: Strip,
    b: usize,
    sub: usize,
    table: L::I,
) -> [[L::I; C]; R] {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        let mut dots = [[L::izero(); C]; R];
        if !(K::WIDE && !L::WIDE_AS_IS || x.init.is_null()) {
            for r in 0..R {
                let init = x.init.add((b * K::Scales::SUBS + sub) * R + r);
                dots[r] = [L::isplat(init.cast()); C];
            }
        }
        groups!(G, FROM, TO, {
            let mut codes = [table; C];
            for i in 0..C {
                if STREAM && G * K::BITS % 8 < K::BITS {
                    stream(at[i].add(G * K::BITS / 8 * 64));
                }
                codes[i] = K::code::<L, G>(at[i], table);
            }
            for r in 0..R {
                let v = L::isplat(x.codes.add(((b * 8 + G) * R + r) * 4).cast());
                for i in 0..C {
                    dots[r][i] = if K::WIDE {
                        L::dot_wide(dots[r][i], codes[i], v)
                    } else {
                        L::dot(dots[r][i], codes[i], v)
                    };
                }
            }
        });
        dots
    }
}
