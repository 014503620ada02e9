//! Products of attention in bf16 pairs by tiles of AMX.

use super::{
    arithmetic::{Arithmetic, scaled},
    block::{KEYS, Span},
    halves::{Halves, neighbours},
    numbers::Numbers,
};
use crate::backend::cpu::simd::{
    Avx512, Simd,
    amx::{self, Bf16, Product},
    avx512::transpose,
};
use std::arch::x86_64::*;

/// AMX, and CPU feature `avx512bf16`. Keys, queries and weights lie as those of [`Halves`], filled
/// up with zeros to whole tiles; values as `[columns / 16][KEYS / 32][16 columns][16 pairs]`.
pub(super) struct Tiles;

/// Pairs in a row of a tile.
const PAIRS: usize = 16;

/// Rows and bytes in a row of each register: sums in 0 and 1; whole tiles of keys or values in 4,
/// of queries or weights in 6 and 7; of half the keys in 2, 3 and 5.
const SHAPES: [(u8, u16); 8] = [
    (16, 64),
    (16, 64),
    (16, 32),
    (8, 64),
    (16, 64),
    (8, 64),
    (16, 64),
    (16, 64),
];

// SAFETY (whole impl): the trait's contract, with what the type names.
impl Arithmetic<Avx512> for Tiles {
    const LEAST: usize = PAIRS;

    #[inline(always)]
    unsafe fn begin() {
        // SAFETY: see the impl.
        unsafe { amx::configure(SHAPES) }
    }

    #[inline(always)]
    unsafe fn end() {
        // SAFETY: see the impl.
        unsafe { amx::release() }
    }

    #[inline(always)]
    unsafe fn pack_queries(q: *mut f32, dk: usize, lanes: usize) {
        // SAFETY: whole tiles take no more than the f32.
        unsafe {
            Halves::pack_queries(q, dk, lanes);
            let pairs = dk.div_ceil(2);
            let rest = pairs.next_multiple_of(PAIRS) - pairs;
            q.add(pairs * lanes).write_bytes(0, rest * lanes);
        }
    }

    #[inline(always)]
    unsafe fn load_key<N: Numbers>(row: *const u8, dk: usize, to: *mut f32) {
        // SAFETY: dk numbers of the row, as whole tiles of pairs.
        unsafe {
            for i in (0..dk).step_by(2 * PAIRS) {
                let both = neighbours::<N>(row, i, dk);
                _mm512_storeu_si512(to.add(i / 2).cast(), both);
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
        // SAFETY: the caller's contract is the callee's.
        unsafe { Halves::load_values::<N>(rows, j, dv, to, wild) }
    }

    #[inline(always)]
    unsafe fn settle_values(v: *mut f32, n: usize, dv: usize) {
        // SAFETY: whole tiles of the panels.
        unsafe {
            for d in (0..dv).step_by(16) {
                for pair in (0..n.div_ceil(2)).step_by(PAIRS) {
                    let tile = v.add(d * KEYS + pair * 16);
                    let mut x = [_mm512_setzero_si512(); 16];
                    for i in 0..16 {
                        x[i] = _mm512_loadu_si512(tile.add(16 * i).cast());
                    }
                    transpose(&mut x);
                    for i in 0..16 {
                        _mm512_storeu_si512(tile.add(16 * i).cast(), x[i]);
                    }
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
        top: &mut [__m512; NR],
    ) {
        const { assert!(MR == 16 && NR == 2) };
        // SAFETY: the loops stay inside the keys, the queries and the scores.
        unsafe {
            let (to, step) = (s.cast::<u8>(), NR * 64);
            if part.start == 0 {
                amx::zero::<0>();
                amx::zero::<1>();
            } else {
                amx::load::<0>(to, step);
                amx::load::<1>(to.add(64), step);
            }
            for i in (part.start / 2..part.end.div_ceil(2)).step_by(PAIRS) {
                let q = q.add(i * NR * 16).cast::<u8>();
                amx::load::<4>(k.add(i).cast(), dk * 4);
                amx::load::<6>(q, step);
                Bf16::add::<0, 4, 6>();
                amx::load::<7>(q.add(64), step);
                Bf16::add::<1, 4, 7>();
            }
            amx::store::<0>(to, step);
            amx::store::<1>(to.add(64), step);
            for r in 0..MR {
                for c in 0..NR {
                    let score = Avx512::load(s.add((r * NR + c) * 16));
                    top[c] = Avx512::max(score, top[c]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn pack_weights<const NR: usize>(w: [[__m512; NR]; 2], j: usize, to: *mut f32) {
        // SAFETY: the caller's contract is the callee's.
        unsafe { Halves::pack_weights::<NR>(w, j, to) }
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
        const { assert!(MR == 16 && NR == 2) };
        // SAFETY: the loops stay inside the values, the weights and the sums.
        unsafe {
            if factor.is_some() {
                for r in 0..MR {
                    let sums = sums.add(r * NR * 16);
                    let scaled = scaled::<Avx512, 1, NR>(sums, factor);
                    for c in 0..NR {
                        Avx512::store(sums.add(c * 16), scaled[0][c]);
                    }
                }
            }
            let (to, step) = (sums.cast::<u8>(), NR * 64);
            amx::load::<0>(to, step);
            amx::load::<1>(to.add(64), step);
            let (mut pair, end) = (span.from / 2, span.to / 2);
            while pair < end {
                let tile = v.add(d * KEYS + pair / PAIRS * 256 + pair % PAIRS);
                let w = w.add(pair * NR * 16).cast::<u8>();
                if pair.is_multiple_of(PAIRS) && pair + PAIRS <= end {
                    amx::load::<4>(tile.cast(), 64);
                    amx::load::<6>(w, step);
                    Bf16::add::<0, 4, 6>();
                    amx::load::<7>(w.add(64), step);
                    Bf16::add::<1, 4, 7>();
                    pair += PAIRS;
                } else {
                    amx::load::<2>(tile.cast(), 64);
                    amx::load::<3>(w, step);
                    Bf16::add::<0, 2, 3>();
                    amx::load::<5>(w.add(64), step);
                    Bf16::add::<1, 2, 5>();
                    pair += PAIRS / 2;
                }
            }
            amx::store::<0>(to, step);
            amx::store::<1>(to.add(64), step);
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
            let pair = j / 2;
            let at = d / 16 * KEYS * 16 + pair / PAIRS * 256 + d % 16 * PAIRS + pair % PAIRS;
            super::halves::apart(v.add(at), w.add((pair * NR + c) * 16))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_by_sixteen_words_turn() {
        #[target_feature(enable = "avx512f")]
        fn turned(from: &[u32; 256]) -> [u32; 256] {
            let mut to = [0; 256];
            // SAFETY: sixteen rows of sixteen words each.
            unsafe {
                let mut x = [_mm512_setzero_si512(); 16];
                for i in 0..16 {
                    x[i] = _mm512_loadu_si512(from.as_ptr().add(16 * i).cast());
                }
                transpose(&mut x);
                for i in 0..16 {
                    _mm512_storeu_si512(to.as_mut_ptr().add(16 * i).cast(), x[i]);
                }
            }
            to
        }
        if !is_x86_feature_detected!("avx512f") {
            eprintln!("skipped: no AVX-512 here");
            return;
        }
        let from = std::array::from_fn(|i| i as u32);
        // SAFETY: the feature was detected.
        let to = unsafe { turned(&from) };
        for (i, &x) in to.iter().enumerate() {
            assert_eq!(x as usize, i % 16 * 16 + i / 16);
        }
    }
}
