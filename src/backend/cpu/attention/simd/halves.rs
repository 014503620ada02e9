//! Products of attention in bf16 pairs, summed in f32: AVX512-BF16.

use super::{
    arithmetic::{Arithmetic, first, last, put, scaled, some},
    block::{KEYS, Span},
    lanes::Lanes,
    numbers::Numbers,
    products::{self, Coming, Products},
};
use crate::backend::cpu::simd::{Avx512, Simd};
use std::arch::x86_64::*;

/// CPU feature `avx512bf16`. A pair of halves takes the place of one f32: keys and queries hold
/// neighbours along the head, values and weights those of neighbouring keys.
pub(super) struct Halves;

/// Elements of two halves of a vector by turns.
#[inline(always)]
unsafe fn order() -> __m512i {
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 16 {
            order[2 * i] = i as u16;
            order[2 * i + 1] = 16 + i as u16;
            i += 1;
        }
        order
    };
    // SAFETY: 64 bytes; the caller has the features.
    unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) }
}

/// Numbers `a[i]` and `b[i]` side by side in lane `i`, rounded to bf16.
#[inline(always)]
unsafe fn interleave(a: __m512, b: __m512) -> __m512i {
    // SAFETY: the caller has the features.
    unsafe { _mm512_permutexvar_epi16(order(), bits(_mm512_cvtne2ps_pbh(b, a))) }
}

#[inline(always)]
unsafe fn bits(x: __m512bh) -> __m512i {
    // SAFETY: both are 64 bytes of any content.
    unsafe { std::mem::transmute(x) }
}

#[inline(always)]
unsafe fn pairs(x: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of any content.
    unsafe { std::mem::transmute(x) }
}

/// `acc + a . b` per lane: the pair at `a` is in every lane.
#[inline(always)]
unsafe fn dot(acc: __m512, a: *const f32, b: __m512i) -> __m512 {
    // SAFETY: a pair at `a`; the caller has the features.
    unsafe {
        let a = _mm512_set1_epi32(a.cast::<i32>().read());
        _mm512_dpbf16_ps(acc, pairs(a), pairs(b))
    }
}

#[inline(always)]
unsafe fn load(p: *const f32) -> __m512i {
    // SAFETY: 16 pairs.
    unsafe { _mm512_loadu_si512(p.cast()) }
}

/// 32 numbers of a row from `i` on as pairs.
#[inline(always)]
unsafe fn whole<N: Numbers>(row: *const u8, i: usize) -> __m512i {
    // SAFETY: the row has i + 32 numbers.
    unsafe {
        if N::are_bf16() {
            return _mm512_loadu_si512(row.add(2 * i).cast());
        }
        let [a, b] = N::load_two::<Avx512>(row, i);
        bits(_mm512_cvtne2ps_pbh(b, a))
    }
}

/// 32 numbers of a row of `len` from `i` on as pairs, the rest zero; zeros for null.
#[inline(always)]
pub(super) unsafe fn neighbours<N: Numbers>(row: *const u8, i: usize, len: usize) -> __m512i {
    // SAFETY: i < len, which the row has.
    unsafe {
        if i + 32 <= len && !row.is_null() {
            return whole::<N>(row, i);
        }
        let a = some::<Avx512, N>(row, i, len);
        let b = some::<Avx512, N>(row, i + 16, len);
        bits(_mm512_cvtne2ps_pbh(b, a))
    }
}

/// The first `n` numbers from `i` on of two rows, side by side.
#[inline(always)]
unsafe fn side_by_side<N: Numbers>(rows: [*const u8; 2], i: usize, n: usize) -> __m512i {
    // SAFETY: the rows have i + n numbers.
    unsafe {
        if n < 16 {
            return interleave(
                N::load_n::<Avx512>(rows[0], i, n),
                N::load_n::<Avx512>(rows[1], i, n),
            );
        }
        if N::are_bf16() {
            let a = _mm256_loadu_si256(rows[0].add(2 * i).cast());
            let b = _mm256_loadu_si256(rows[1].add(2 * i).cast());
            let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
            return _mm512_permutexvar_epi16(order(), both);
        }
        interleave(N::load::<Avx512>(rows[0], i), N::load::<Avx512>(rows[1], i))
    }
}

/// The numbers of a pair of values and of the pairs of their weights.
#[inline(always)]
pub(super) unsafe fn apart(v: *const f32, w: *const f32) -> [(f32, __m512); 2] {
    // SAFETY: a pair at `v`, 16 at `w`.
    unsafe {
        let (v, w) = (*v.cast::<u32>(), load(w));
        let low = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(w));
        let high = _mm512_and_si512(w, _mm512_set1_epi32(0xffff_0000_u32 as i32));
        [
            (f32::from_bits(v << 16), low),
            (f32::from_bits(v & 0xffff_0000), _mm512_castsi512_ps(high)),
        ]
    }
}

// SAFETY (whole impl): the trait's contract, with the CPU feature that the type names.
impl Products<Avx512> for Halves {
    #[inline(always)]
    unsafe fn pack_query(q: *mut f32, dk: usize) -> f32 {
        // SAFETY: whole vectors of pairs, written behind what is read.
        unsafe {
            for i in 0..dk.div_ceil(32) {
                let (a, b) = (
                    Avx512::load(q.add(32 * i)),
                    Avx512::load(q.add(32 * i + 16)),
                );
                let both = bits(_mm512_cvtne2ps_pbh(b, a));
                _mm512_storeu_si512(q.add(16 * i).cast(), both);
            }
        }
        1.0
    }

    #[inline(always)]
    unsafe fn pack_weights(w: *mut f32) -> f32 {
        // SAFETY: as above.
        unsafe { Self::pack_query(w, products::KEYS) }
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
        // SAFETY: dk numbers of each row; R * G is 16; G scores of each row.
        unsafe {
            let mut acc = [Avx512::zero(); 16];
            let mut i = 0;
            while i + 32 <= dk {
                let mut x = [_mm512_setzero_si512(); R];
                for r in 0..R {
                    x[r] = load(q[r].add(i / 2));
                }
                for j in 0..G {
                    if let Some((ahead, first)) = ahead {
                        ahead.fetch::<N>(first + j, i, 32);
                    }
                    let k = pairs(whole::<N>(k[j], i));
                    for r in 0..R {
                        acc[r * G + j] = _mm512_dpbf16_ps(acc[r * G + j], k, pairs(x[r]));
                    }
                }
                i += 32;
            }
            if i < dk {
                for j in 0..G {
                    let k = pairs(neighbours::<N>(k[j], i, dk));
                    for r in 0..R {
                        let x = pairs(load(q[r].add(i / 2)));
                        acc[r * G + j] = _mm512_dpbf16_ps(acc[r * G + j], k, x);
                    }
                }
            }
            let mut sums = [0f32; 16];
            Avx512::store(sums.as_mut_ptr(), Avx512::sums(&acc));
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
        // SAFETY: columns of the values, pairs of weights, sums of the rows.
        unsafe {
            let mut acc = [[Avx512::zero(); C]; R];
            for r in 0..R {
                for c in 0..C {
                    acc[r][c] = Avx512::load(sums[r].add(i + c * 16));
                }
            }
            for (j, v) in v.chunks(2).enumerate() {
                if let Some(ahead) = ahead {
                    ahead.fetch::<N>(2 * j, i, C * 16);
                    ahead.fetch::<N>(2 * j + 1, i, C * 16);
                }
                // The weight behind the last key is 0.
                let rows = [v[0], v[v.len() - 1]];
                let mut x = [_mm512_setzero_si512(); C];
                if C.is_multiple_of(2) && !N::are_bf16() {
                    for c in (0..C).step_by(2) {
                        let a = N::load_two::<Avx512>(rows[0], i + c * 16);
                        let b = N::load_two::<Avx512>(rows[1], i + c * 16);
                        x[c] = interleave(a[0], b[0]);
                        x[c + 1] = interleave(a[1], b[1]);
                    }
                } else {
                    for c in 0..C {
                        let n = if C == 1 { n } else { 16 };
                        x[c] = side_by_side::<N>(rows, i + c * 16, n);
                    }
                }
                for r in 0..R {
                    for c in 0..C {
                        acc[r][c] = dot(acc[r][c], w[r].add(j), x[c]);
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    Avx512::store(sums[r].add(i + c * 16), acc[r][c]);
                }
            }
        }
    }
}

// SAFETY (whole impl): the trait's contract, with the CPU feature that the type names.
impl Arithmetic<Avx512> for Halves {
    #[inline(always)]
    unsafe fn pack_queries(q: *mut f32, dk: usize, lanes: usize) {
        // SAFETY: pairs are written behind what is read.
        unsafe {
            for i in 0..dk.div_ceil(2) {
                for at in (0..lanes).step_by(16) {
                    let a = Avx512::load(q.add(2 * i * lanes + at));
                    let b = if 2 * i + 1 < dk {
                        Avx512::load(q.add((2 * i + 1) * lanes + at))
                    } else {
                        Avx512::zero()
                    };
                    _mm512_storeu_si512(q.add(i * lanes + at).cast(), interleave(a, b));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn load_key<N: Numbers>(row: *const u8, dk: usize, to: *mut f32) {
        // SAFETY: dk numbers of the row, as pairs.
        unsafe {
            let mut i = 0;
            while i < dk {
                let both = neighbours::<N>(row, i, dk);
                let left = (dk - i).div_ceil(2).min(16);
                let mask = ((1u32 << left) - 1) as __mmask16;
                _mm512_mask_storeu_epi32(to.add(i / 2).cast(), mask, both);
                i += 32;
            }
        }
    }

    #[inline(always)]
    unsafe fn load_values<N: Numbers>(
        rows: [*const u8; 2],
        j: usize,
        dv: usize,
        to: *mut f32,
        wild: &mut __m512,
    ) {
        // SAFETY: dv numbers of the rows; whole vectors fit the panels.
        unsafe {
            let mut i = 0;
            while i < dv {
                let a = some::<Avx512, N>(rows[0], i, dv);
                let b = some::<Avx512, N>(rows[1], i, dv);
                *wild = Avx512::fma(a, Avx512::zero(), *wild);
                *wild = Avx512::fma(b, Avx512::zero(), *wild);
                let to = to.add(i * KEYS + j / 2 * 16);
                _mm512_storeu_si512(to.cast(), interleave(a, b));
                i += 16;
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
        top: &mut [__m512; NR],
    ) {
        // SAFETY: the loops stay inside the keys, the queries and the scores.
        unsafe {
            let mut acc = first::<Avx512, MR, NR>(s, part.start);
            for i in part.start / 2..part.end.div_ceil(2) {
                let mut b = [_mm512_setzero_si512(); NR];
                for c in 0..NR {
                    b[c] = load(q.add((i * NR + c) * 16));
                }
                for r in 0..MR {
                    let a = k.add(r * dk + i);
                    for c in 0..NR {
                        acc[r][c] = dot(acc[r][c], a, b[c]);
                    }
                }
            }
            last::<Avx512, MR, NR>(s, &acc, top);
        }
    }

    #[inline(always)]
    unsafe fn pack_weights<const NR: usize>(w: [[__m512; NR]; 2], j: usize, to: *mut f32) {
        // SAFETY: weights of two keys.
        unsafe {
            for c in 0..NR {
                let to = to.add((j / 2 * NR + c) * 16);
                _mm512_storeu_si512(to.cast(), interleave(w[0][c], w[1][c]));
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
        factor: Option<&[__m512; NR]>,
    ) {
        // SAFETY: the loops stay inside the values, the weights and the sums.
        unsafe {
            let v = v.add(d / 16 * KEYS * 16 + d % 16);
            let mut acc = scaled::<Avx512, MR, NR>(sums, factor);
            for j in span.from / 2..span.to / 2 {
                let mut b = [_mm512_setzero_si512(); NR];
                for c in 0..NR {
                    b[c] = load(w.add((j * NR + c) * 16));
                }
                for r in 0..MR {
                    let a = v.add(j * 16 + r);
                    for c in 0..NR {
                        acc[r][c] = dot(acc[r][c], a, b[c]);
                    }
                }
            }
            put::<Avx512, MR, NR>(sums, &acc);
        }
    }

    #[inline(always)]
    unsafe fn pair<const NR: usize>(
        v: *const f32,
        w: *const f32,
        j: usize,
        d: usize,
        c: usize,
    ) -> [(f32, __m512); 2] {
        // SAFETY: a pair of the tile.
        unsafe {
            let v = v.add(d / 16 * KEYS * 16 + j / 2 * 16 + d % 16);
            apart(v, w.add((j / 2 * NR + c) * 16))
        }
    }
}
