//! 8-bit activations times quantized weights, many rows: weights are unpacked once per tile into
//! a panel of bytes in groups of four k, and a register tile of integer dot products runs over
//! all rows of x. Every format runs at the speed of the tile.

use super::{codes::Codes, f32_gemm::chunk, q8_rows::RowsPtr};
use crate::backend::cpu::simd::{Avx2, Avx512, Simd, cells::transpose8};
use std::arch::x86_64::*;

/// k per panel: the panel of 32 columns and its scales stay in the first cache levels.
pub(super) const KC: usize = 512;

/// Scales (and minima) of a panel of `columns`: at most two for every 32 codes.
pub(super) const fn panel_scales(columns: usize) -> usize {
    KC / 16 * columns
}

/// Floats per 32 codes and column in a panel's scales.
const fn floats<F: Codes>() -> usize {
    F::SUBS + F::ZERO_LOG2.is_none() as usize
}

/// Unpacks `len` values (whole blocks, at most [`KC`]) from each of `n` rows at `w` into
/// `panel[len / 32][8][columns][4]` and `scales[len / 32][1 or 2][columns]`, minima after the
/// scales. Columns beyond `n` are zero.
///
/// # Safety
/// The rows exist; the buffers have room for [`KC`] and [`panel_scales`]; the CPU has the
/// features of `S` and AVX2, FMA and F16C.
#[inline(always)]
pub(super) unsafe fn pack<S: Simd, F: Codes>(
    w: *const u8,
    stride: usize,
    n: usize,
    len: usize,
    panel: *mut u8,
    scales: *mut f32,
) {
    let columns = 2 * S::LANES;
    let (block_len, block_bytes) = (F::FORMAT.block_len(), F::FORMAT.block_bytes());
    let per_block = block_len / 32;
    let row_floats = floats::<F>() * columns;
    // SAFETY: columns < n read whole blocks of their row; all stores are inside the buffers.
    unsafe {
        let flip = if F::SIGNED && S::DOT_U8 { -128 } else { 0 };
        let flip = _mm256_set1_epi8(flip);
        for c0 in (0..columns).step_by(8) {
            let valid = n.saturating_sub(c0).min(8);
            for b in 0..len / block_len {
                for r in 0..8 {
                    let (mut scale, mut min) = ([0f32; 16], [0f32; 16]);
                    if r < valid {
                        let block = w.add((c0 + r) * stride + b * block_bytes);
                        F::scales(block, scale.as_mut_ptr(), min.as_mut_ptr());
                    }
                    for i in 0..per_block {
                        let out = scales.add((b * per_block + i) * row_floats + c0 + r);
                        for s in 0..F::SUBS {
                            *out.add(s * columns) = scale[(i * F::SUBS + s) & 15];
                        }
                        if F::ZERO_LOG2.is_none() {
                            *out.add(F::SUBS * columns) = min[i & 15];
                        }
                    }
                }
                for i in 0..per_block {
                    let mut rows = [_mm256_setzero_si256(); 8];
                    for r in 0..valid {
                        let block = w.add((c0 + r) * stride + b * block_bytes);
                        rows[r] = _mm256_xor_si256(F::codes(block, i), flip);
                    }
                    let cells = transpose8(rows);
                    let out = panel.add((b * per_block + i) * 32 * columns + 4 * c0);
                    for g in 0..8 {
                        _mm256_storeu_si256(out.add(g * 4 * columns).cast(), cells[g]);
                    }
                }
            }
        }
    }
}

/// What the tile kernel must know of a format: formats of one class share their code.
trait Class {
    const SUBS: usize = 1;
    const MINS: bool = false;
    const SIGNED: bool = false;
}
/// One scale per 32 codes and a zero point.
struct Scaled;
impl Class for Scaled {}
/// One scale and one minimum per 32 codes.
struct Affine;
impl Class for Affine {
    const MINS: bool = true;
}
/// Two scales per 32 codes and a zero point.
struct Halves;
impl Class for Halves {
    const SUBS: usize = 2;
}
/// One scale per 32 signed codes.
struct Signed;
impl Class for Signed {
    const SIGNED: bool = true;
}

/// `c[MR][columns] += x[MR][len] . panel`, or `=` when `first`.
///
/// # Safety
/// `x` has `MR` rows of `len`; the panel is from [`pack`]; the CPU has the features of `S`.
#[inline(always)]
unsafe fn tile<S: Simd, C: Class, const MR: usize>(
    x: RowsPtr,
    panel: *const u8,
    scales: *const f32,
    len: usize,
    zero_log2: u32,
    c: *mut f32,
    first: bool,
) {
    let columns = 2 * S::LANES;
    let row_floats = (C::SUBS + C::MINS as usize) * columns;
    let signed = C::SIGNED;
    // SAFETY: the loops stay inside the MR rows, the panel, its scales and c.
    unsafe {
        let mut acc = [[S::zero(); 2]; MR];
        if !first {
            for r in 0..MR {
                acc[r][0] = S::load(c.add(r * columns));
                acc[r][1] = S::load(c.add(r * columns + S::LANES));
            }
        }
        for b in 0..len / 32 {
            let panel = panel.add(b * 32 * columns);
            let scales = scales.add(b * row_floats);
            for sub in 0..C::SUBS {
                let mut dots = [[S::izero(); 2]; MR];
                if !signed && !C::MINS {
                    for r in 0..MR {
                        let n = if C::SUBS == 1 {
                            x.n32.add(r * (x.k / 32) + b)
                        } else {
                            x.n16.add(r * (x.k / 16) + 2 * b + sub)
                        };
                        let n = S::isplat(n.cast());
                        let zero = S::shl(n, zero_log2);
                        dots[r] = [zero; 2];
                    }
                }
                for g in sub * (8 / C::SUBS)..(sub + 1) * (8 / C::SUBS) {
                    let w0 = S::iload(panel.add(g * 4 * columns));
                    let w1 = S::iload(panel.add(g * 4 * columns + 4 * S::LANES));
                    for r in 0..MR {
                        let v = S::isplat(x.codes.add(r * x.k + 32 * b + 4 * g).cast());
                        if signed {
                            dots[r][0] = S::dot_signed(dots[r][0], w0, v);
                            dots[r][1] = S::dot_signed(dots[r][1], w1, v);
                        } else {
                            dots[r][0] = S::dot(dots[r][0], w0, v);
                            dots[r][1] = S::dot(dots[r][1], w1, v);
                        }
                    }
                }
                let s0 = S::load(scales.add(sub * columns));
                let s1 = S::load(scales.add(sub * columns + S::LANES));
                for r in 0..MR {
                    let d = S::splat(*x.d.add(r * (x.k / 32) + b));
                    acc[r][0] = S::fma(S::mul(S::to_f32(dots[r][0]), s0), d, acc[r][0]);
                    acc[r][1] = S::fma(S::mul(S::to_f32(dots[r][1]), s1), d, acc[r][1]);
                }
            }
            if C::MINS {
                let m0 = S::load(scales.add(C::SUBS * columns));
                let m1 = S::load(scales.add(C::SUBS * columns + S::LANES));
                for r in 0..MR {
                    let s = S::splat(*x.s.add(r * (x.k / 32) + b));
                    acc[r][0] = S::fma(m0, s, acc[r][0]);
                    acc[r][1] = S::fma(m1, s, acc[r][1]);
                }
            }
        }
        for r in 0..MR {
            S::store(c.add(r * columns), acc[r][0]);
            S::store(c.add(r * columns + S::LANES), acc[r][1]);
        }
    }
}

/// A panel times all rows of x.
#[derive(Clone, Copy)]
struct Product {
    x: RowsPtr,
    m: usize,
    panel: *const u8,
    scales: *const f32,
    len: usize,
    zero_log2: u32,
    c: *mut f32,
    first: bool,
}

impl Product {
    #[inline(always)]
    unsafe fn run<S: Simd, C: Class>(self) {
        let Product {
            m,
            panel,
            scales,
            len,
            zero_log2: z,
            first,
            ..
        } = self;
        let mut m0 = 0;
        // SAFETY: m0 + rows <= m; the caller's contract is the callee's.
        unsafe {
            while m0 < m {
                let rows = chunk(m - m0, S::Q8_ROWS);
                let (x, c) = (self.x.at(m0, 0), self.c.add(m0 * 2 * S::LANES));
                match rows {
                    1 => tile::<S, C, 1>(x, panel, scales, len, z, c, first),
                    2 => tile::<S, C, 2>(x, panel, scales, len, z, c, first),
                    3 => tile::<S, C, 3>(x, panel, scales, len, z, c, first),
                    5 if S::Q8_ROWS > 4 => tile::<S, C, 5>(x, panel, scales, len, z, c, first),
                    6 if S::Q8_ROWS > 4 => tile::<S, C, 6>(x, panel, scales, len, z, c, first),
                    _ => tile::<S, C, 4>(x, panel, scales, len, z, c, first),
                }
                m0 += rows;
            }
        }
    }

    #[inline(always)]
    unsafe fn class<S: Simd, F: Codes>(self) {
        // SAFETY: the caller's contract is the callee's; LANES tell the instruction set.
        unsafe {
            match (S::LANES == Avx512::LANES, F::SUBS, F::ZERO_LOG2.is_none()) {
                (true, 2, _) => self.avx512::<Halves>(),
                (true, _, true) => self.avx512::<Affine>(),
                (true, _, false) => self.avx512::<Scaled>(),
                (false, 2, _) => self.avx2::<Halves>(),
                (false, _, true) => self.avx2::<Affine>(),
                (false, _, false) if F::SIGNED => self.avx2::<Signed>(),
                (false, _, false) => self.avx2::<Scaled>(),
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<C: Class>(self) {
        // SAFETY: the caller's contract is the callee's.
        unsafe { self.run::<Avx2, C>() }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn avx512<C: Class>(self) {
        // SAFETY: the caller's contract is the callee's.
        unsafe { self.run::<Avx512, C>() }
    }
}

/// `c[m][columns] = x[m][k] . w[n][k]^T` for `n <= columns` rows of w.
///
/// # Safety
/// As for [`pack`] and [`tile`]; `panel` has `KC` bytes per column, `c` has `m` rows.
#[inline(always)]
pub(super) unsafe fn columns<S: Simd, F: Codes>(
    x: RowsPtr,
    m: usize,
    w: *const u8,
    stride: usize,
    n: usize,
    k: usize,
    panel: *mut u8,
    scales: *mut f32,
    c: *mut f32,
) {
    // SAFETY: k0 + len <= k.
    unsafe {
        for k0 in (0..k).step_by(KC) {
            let len = KC.min(k - k0);
            let w = w.add(k0 / F::FORMAT.block_len() * F::FORMAT.block_bytes());
            pack::<S, F>(w, stride, n, len, panel, scales);
            let (x, first) = (x.at(0, k0), k0 == 0);
            let zero_log2 = F::ZERO_LOG2.unwrap_or(0);
            Product {
                x,
                m,
                panel,
                scales,
                len,
                zero_log2,
                c,
                first,
            }
            .class::<S, F>();
        }
    }
}
