//! f32 multiply-add kernels for weights of any type: a panel of columns is converted to f32 once
//! and shared by all rows of x; few rows of x are multiplied with the weights as they stream by.

#[cfg(target_arch = "x86_64")]
use super::codes::decode;
#[cfg(target_arch = "aarch64")]
use crate::backend::cpu::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd::{Avx2, Avx512};
use crate::backend::cpu::simd::{Eight, Elem, Simd, cells};
use crate::quant::QuantFormat;

/// k per panel.
pub(super) const KC: usize = 256;
/// Most rows of x that are multiplied without a panel.
pub(super) const MAX_M: usize = 4;
/// Rows of a tile.
const ROWS: usize = 6;
/// Bytes that rows are fetched ahead of their use.
pub(super) const AHEAD: usize = 2048;
/// Rows of w that are read side by side.
const SIDE: usize = 4;

/// Rows of the next tile when `left` remain and a tile holds `most`: the last two share evenly.
pub(super) const fn chunk(left: usize, most: usize) -> usize {
    if left >= 2 * most || left == most {
        most
    } else if left > most {
        left.div_ceil(2)
    } else {
        left
    }
}

/// Decodes `len` elements, whole blocks, of one row to f32.
///
/// # Safety
/// `w` and `out` hold that many.
#[cfg(target_arch = "aarch64")]
unsafe fn decode(format: QuantFormat, w: *const u8, len: usize, out: *mut f32) {
    let (block_len, block_bytes) = (format.block_len(), format.block_bytes());
    // SAFETY: the caller promises whole blocks at w and room at out.
    unsafe {
        for b in 0..len / block_len {
            let bytes = std::slice::from_raw_parts(w.add(b * block_bytes), block_bytes);
            let out = std::slice::from_raw_parts_mut(out.add(b * block_len), block_len);
            format.decode_block(bytes, out);
        }
    }
}

/// Rows of weights that can be had as f32.
///
/// # Safety
/// `w` points to the row's first byte and the row has `k0 + len` elements; the CPU has the
/// features of [`Eight`].
pub(in crate::backend::cpu) trait Source: Copy {
    /// The plain type that the kernels load themselves.
    type Direct: Elem;
    /// `len` elements from `k0` on, where they are if they can be read as they are, else decoded
    /// into `buffer`. `k0` and `len` are whole blocks.
    unsafe fn row(
        self,
        w: *const u8,
        k0: usize,
        len: usize,
        buffer: *mut f32,
    ) -> *const Self::Direct;
}

/// Rows of f32, f16 or bf16.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Plain<T>(pub std::marker::PhantomData<T>);

impl<T: Elem> Source for Plain<T> {
    type Direct = T;
    #[inline(always)]
    unsafe fn row(self, w: *const u8, k0: usize, _: usize, _: *mut f32) -> *const T {
        // SAFETY: the row has k0 elements.
        unsafe { w.cast::<T>().add(k0) }
    }
}

/// Rows of a quantized format.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Blocks(pub QuantFormat);

impl Source for Blocks {
    type Direct = f32;
    #[inline(always)]
    unsafe fn row(self, w: *const u8, k0: usize, len: usize, buffer: *mut f32) -> *const f32 {
        let format = self.0;
        // SAFETY: whole blocks of the row, and room for len in the buffer.
        unsafe {
            let w = w.add(k0 / format.block_len() * format.block_bytes());
            decode(format, w, len, buffer);
        }
        buffer
    }
}

/// Converts elements `k0..k0 + len` of the rows at `rows` to `panel[len][columns]`. Columns beyond
/// the rows, and those of null pointers, are zero.
///
/// # Safety
/// The rows exist, at most `columns`; `panel` has room; `buffer` has `8 len` floats; the CPU has
/// the features of `S` and of [`Eight`].
#[inline(always)]
pub(in crate::backend::cpu) unsafe fn pack<S: Simd, W: Source>(
    source: W,
    rows: &[*const u8],
    k0: usize,
    len: usize,
    panel: *mut f32,
    buffer: *mut f32,
) {
    let columns = 2 * S::LANES;
    // SAFETY: only rows that exist are read, k0..k0 + len of each; stores stay inside the panel.
    unsafe {
        for c0 in (0..columns).step_by(8) {
            let mut from = [std::ptr::null::<W::Direct>(); 8];
            for r in 0..rows.len().saturating_sub(c0).min(8) {
                if !rows[c0 + r].is_null() {
                    from[r] = source.row(rows[c0 + r], k0, len, buffer.add(r * len));
                }
            }
            let mut k = 0;
            while k < len {
                let step = (len - k).min(8);
                let mut rows = [cells::zero(); 8];
                for r in 0..8 {
                    if !from[r].is_null() {
                        let v = if step == 8 {
                            W::Direct::load::<Eight>(from[r].add(k))
                        } else {
                            W::Direct::load_n::<Eight>(from[r].add(k), step)
                        };
                        rows[r] = cells::of_f32(v);
                    }
                }
                let turned = cells::transpose8(rows);
                for i in 0..step {
                    cells::store(panel.add((k + i) * columns + c0).cast(), turned[i]);
                }
                k += step;
            }
        }
    }
}

/// A product of f32 rows and a panel of `2 * LANES` columns: `c (+)= x . panel`.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Tile {
    /// `[m][len]`, rows `x_step` apart.
    pub x: *const f32,
    pub x_step: usize,
    /// `[len][columns]`, rows `panel_step` apart.
    pub panel: *const f32,
    pub panel_step: usize,
    /// `[m][columns]`, rows `c_step` apart.
    pub c: *mut f32,
    pub c_step: usize,
}

impl Tile {
    /// `c[MR][columns] += x[MR][len] . panel`, or `=` when `first`.
    ///
    /// # Safety
    /// The rows exist; the CPU has the features of `S`.
    #[inline(always)]
    unsafe fn rows<S: Simd, const MR: usize>(self, len: usize, first: bool) {
        let Tile {
            x,
            x_step,
            panel,
            panel_step,
            c,
            c_step,
        } = self;
        // SAFETY: the loops stay inside the MR rows, the panel and c.
        unsafe {
            let mut acc = [[S::zero(); 2]; MR];
            if !first {
                for r in 0..MR {
                    acc[r][0] = S::load(c.add(r * c_step));
                    acc[r][1] = S::load(c.add(r * c_step + S::LANES));
                }
            }
            for k in 0..len {
                let b0 = S::load(panel.add(k * panel_step));
                let b1 = S::load(panel.add(k * panel_step + S::LANES));
                for r in 0..MR {
                    let a = S::splat(*x.add(r * x_step + k));
                    acc[r][0] = S::fma(a, b0, acc[r][0]);
                    acc[r][1] = S::fma(a, b1, acc[r][1]);
                }
            }
            for r in 0..MR {
                S::store(c.add(r * c_step), acc[r][0]);
                S::store(c.add(r * c_step + S::LANES), acc[r][1]);
            }
        }
    }

    /// `c[m][columns] += x[m][len] . panel`, or `=` when `first`.
    ///
    /// # Safety
    /// The rows exist; the CPU has the features of `S`.
    #[inline(always)]
    pub unsafe fn run<S: Simd>(self, m: usize, len: usize, first: bool) {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if S::LANES == Avx512::LANES {
                self.run_avx512(m, len, first);
            } else {
                self.run_avx2(m, len, first);
            }
            #[cfg(target_arch = "aarch64")]
            self.run_neon(m, len, first);
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon")]
    unsafe fn run_neon(self, m: usize, len: usize, first: bool) {
        // SAFETY: the caller's contract is the callee's.
        unsafe { self.all::<Neon>(m, len, first) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn run_avx2(self, m: usize, len: usize, first: bool) {
        // SAFETY: the caller's contract is the callee's.
        unsafe { self.all::<Avx2>(m, len, first) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn run_avx512(self, m: usize, len: usize, first: bool) {
        // SAFETY: the caller's contract is the callee's.
        unsafe { self.all::<Avx512>(m, len, first) }
    }

    #[inline(always)]
    unsafe fn all<S: Simd>(self, m: usize, len: usize, first: bool) {
        let mut m0 = 0;
        // SAFETY: m0 + rows <= m.
        unsafe {
            while m0 < m {
                let rows = chunk(m - m0, ROWS);
                let tile = Tile {
                    x: self.x.add(m0 * self.x_step),
                    c: self.c.add(m0 * self.c_step),
                    ..self
                };
                match rows {
                    1 => tile.rows::<S, 1>(len, first),
                    2 => tile.rows::<S, 2>(len, first),
                    3 => tile.rows::<S, 3>(len, first),
                    4 => tile.rows::<S, 4>(len, first),
                    5 => tile.rows::<S, 5>(len, first),
                    _ => tile.rows::<S, 6>(len, first),
                }
                m0 += rows;
            }
        }
    }
}

/// `c[m][columns] = x[m][k] . w[n][k]^T` for `n <= columns` rows of w.
///
/// # Safety
/// As for [`pack`] and [`Tile`]; `panel` has `KC * columns` floats, `buffer` `KC * 8`; `c` has `m`
/// rows.
#[inline(always)]
pub(super) unsafe fn columns<S: Simd, W: Source>(
    source: W,
    x: *const f32,
    x_stride: usize,
    m: usize,
    w: *const u8,
    stride: usize,
    n: usize,
    k: usize,
    panel: *mut f32,
    buffer: *mut f32,
    c: *mut f32,
) {
    let mut rows = [std::ptr::null(); 32];
    // SAFETY: k0 + len <= k, and n <= 2 LANES <= 32.
    unsafe {
        for r in 0..n.min(32) {
            rows[r] = w.add(r * stride);
        }
        for k0 in (0..k).step_by(KC) {
            let len = KC.min(k - k0);
            pack::<S, W>(source, &rows[..n.min(32)], k0, len, panel, buffer);
            let (x_step, columns) = (x_stride, 2 * S::LANES);
            let (panel_step, c_step) = (columns, columns);
            let x = x.add(k0);
            Tile {
                x,
                x_step,
                panel,
                panel_step,
                c,
                c_step,
            }
            .run::<S>(m, len, k0 == 0);
        }
    }
}

/// `acc[SIDE][M] += rows . x` over `len` elements.
///
/// # Safety
/// The rows and x have them; the CPU has the features of `S`.
#[inline(always)]
unsafe fn dots<S: Simd, T: Elem, const M: usize>(
    rows: &[*const T; SIDE],
    x: &[*const f32; M],
    len: usize,
    acc: &mut [[S::F; M]; SIDE],
) {
    // SAFETY: k + LANES <= len, and the rest of n = len - k elements.
    unsafe {
        let mut k = 0;
        while k + S::LANES <= len {
            for r in 0..SIDE {
                let at = rows[r].add(k);
                cells::prefetch(at.cast::<u8>().wrapping_add(AHEAD), true);
                let w = T::load::<S>(at);
                for m in 0..M {
                    acc[r][m] = S::fma(w, S::load(x[m].add(k)), acc[r][m]);
                }
            }
            k += S::LANES;
        }
        if k < len {
            for r in 0..SIDE {
                let w = T::load_n::<S>(rows[r].add(k), len - k);
                for m in 0..M {
                    acc[r][m] = S::fma(w, S::load_n(x[m].add(k), len - k), acc[r][m]);
                }
            }
        }
    }
}

/// [`gemv`] for `m <= M` rows of x.
///
/// # Safety
/// As for [`gemv`].
#[inline(always)]
unsafe fn span<S: Simd, W: Source, const M: usize>(
    source: W,
    x: *const f32,
    x_step: usize,
    m: usize,
    w: *const u8,
    stride: usize,
    n: usize,
    k: usize,
    buffer: *mut f32,
    out: *mut f32,
    ld: usize,
) {
    // Plain rows are read where they are, in one go.
    let kc = if std::mem::size_of::<W>() == 0 { k } else { KC };
    // SAFETY: rows beyond the last repeat it, of w and of x; the caller promises the others.
    unsafe {
        // Each of the rows comes from a span of its own, so that memory sees long streams.
        let step = n.div_ceil(SIDE);
        for n0 in 0..step {
            let mut acc = [[S::zero(); M]; SIDE];
            for k0 in (0..k).step_by(kc) {
                let len = kc.min(k - k0);
                let mut rows = [std::ptr::null::<W::Direct>(); SIDE];
                for r in 0..SIDE {
                    let row = w.add((n0 + r * step).min(n - 1) * stride);
                    rows[r] = source.row(row, k0, len, buffer.add(r * KC));
                }
                let mut xs = [x; M];
                for i in 0..M {
                    xs[i] = x.add(i.min(m - 1) * x_step + k0);
                }
                dots::<S, W::Direct, M>(&rows, &xs, len, &mut acc);
            }
            for r in 0..SIDE {
                if n0 + r * step < n {
                    for i in 0..M.min(m) {
                        *out.add(i * ld + n0 + r * step) = S::sum(acc[r][i]);
                    }
                }
            }
        }
    }
}

/// `out[m][n] = x[m][k] . w[n][k]^T` for `m` rows of x, at most [`MAX_M`], `out` with rows of
/// `ld`.
///
/// # Safety
/// The rows exist, at least one of each; `buffer` has `KC * 4` floats; the CPU has the features
/// of `S` and of [`Eight`].
#[inline(always)]
pub(super) unsafe fn gemv<S: Simd, W: Source>(
    source: W,
    x: *const f32,
    x_step: usize,
    m: usize,
    w: *const u8,
    stride: usize,
    n: usize,
    k: usize,
    buffer: *mut f32,
    out: *mut f32,
    ld: usize,
) {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match m {
            1 => span::<S, W, 1>(source, x, x_step, m, w, stride, n, k, buffer, out, ld),
            2 => span::<S, W, 2>(source, x, x_step, m, w, stride, n, k, buffer, out, ld),
            _ => span::<S, W, 4>(source, x, x_step, m, w, stride, n, k, buffer, out, ld),
        }
    }
}
