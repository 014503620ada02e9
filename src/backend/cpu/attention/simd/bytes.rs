//! Attention of few rows over q8_0 caches by AMX: codes of keys are multiplied as they lie in the
//! cache.
//!
//! A query, and a weight times the scales of a block of values, is the sum of two bytes of 16 bits
//! of its largest neighbour: finer than what bf16 keeps.

use super::{
    ahead::{Ahead, distance},
    arithmetic::Exact,
    decode::{Few, Lines, Step, careful, finish, soften},
    numbers::Q8,
    problem::{Problem, Task},
    products::Products,
    vectors::{fold, halves, largest, side_by_side, store_turned},
};
use crate::backend::cpu::simd::{
    Avx512, Simd,
    amx::{self, Product, SignedBytes},
};
use std::arch::x86_64::*;

/// Keys of a step: the bytes in a row of a tile of weights.
pub(super) const KEYS: usize = 64;
/// Keys of a tile.
const GROUP: usize = 16;
/// Numbers of a block, and its bytes: a scale in f16, and codes.
const BLOCK: usize = 32;
const BLOCK_BYTES: usize = 34;
/// Words of both halves of a vector by turns.
const PAIRS: [u16; 32] = {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    order
};
/// Bytes of a tile of queries, 8 rows.
const QUERIES: usize = 8 * 64;
/// Bytes of a tile of 16 rows.
const TILE: usize = 16 * 64;

/// Up to `R` rows, 4 or 8, which are the columns of a tile: `8 / R` blocks by two terms.
pub(super) struct Bytes<const R: usize> {
    /// `[blocks][8][16 columns][4]`, zeros in the columns of other blocks.
    q: *mut u8,
    /// What products in a column are multiplied with.
    columns: __m512,
    /// Scales of keys, `[blocks][KEYS]` with zeros for the blocks that fill up a tile.
    k_scales: *mut f32,
    v_scales: *mut f32,
    // Rooms for two at a time: what was stored a moment ago is in no tile's reach yet, so that it
    // is used one turn later; and all of it should stay in the first level of cache.
    /// Sums of products of keys, `[2][tiles][GROUP][16]`.
    k_sums: *mut f32,
    /// Of values, `[2][2][2][R][16]`.
    v_sums: *mut f32,
    /// Codes of values, `[2][2][KEYS / 4][16 columns][4 keys]`.
    v: *mut u8,
    /// Terms of weights by scales, `[2][2][R][KEYS]`.
    w: *mut u8,
    /// What those are multiplied with, `[blocks][R]`, four times each.
    w_scales: *mut f32,
    /// Keys that do not lie at equal distances.
    moved: *mut u8,
    /// Products of values are not in the sums yet.
    waiting: bool,
}

/// Blocks of a row of keys, and of values.
fn blocks(p: &Problem<'_>) -> (usize, usize) {
    (p.dk / BLOCK, p.dv / BLOCK)
}

/// Floats of each part of scratch, whole cache lines.
fn parts<const R: usize>(p: &Problem<'_>) -> [usize; 9] {
    let (k, v) = blocks(p);
    let k = k.next_multiple_of(8 / R);
    [
        k * QUERIES / 4,
        k * KEYS,
        v * KEYS,
        2 * k * R / 8 * TILE / 4,
        2 * 4 * R * 16,
        2 * 2 * TILE / 4,
        2 * 2 * R * KEYS / 4,
        v * 4 * R,
        (GROUP * k * BLOCK_BYTES / 4).next_multiple_of(16),
    ]
}

/// Scales of 16 rows: `to[block][KEYS]`. Adds 0 times each to `wild`.
#[inline(always)]
unsafe fn scales(
    rows: &[*const u8; GROUP],
    step: Option<usize>,
    blocks: usize,
    to: *mut f32,
    wild: &mut __m512,
) {
    const ORDER: [i32; GROUP] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    // SAFETY: each block has four bytes from its scale on.
    unsafe {
        let at = _mm512_loadu_si512(ORDER.as_ptr().cast());
        let at = _mm512_mullo_epi32(at, _mm512_set1_epi32(step.unwrap_or(0) as i32));
        for b in 0..blocks {
            let bits = if step.is_some() {
                _mm512_i32gather_epi32::<1>(at, rows[0].add(b * BLOCK_BYTES).cast())
            } else {
                let mut bits = [0i32; GROUP];
                for (bits, row) in bits.iter_mut().zip(rows) {
                    *bits = row.add(b * BLOCK_BYTES).cast::<i32>().read_unaligned();
                }
                _mm512_loadu_si512(bits.as_ptr().cast())
            };
            let scale = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(bits));
            *wild = _mm512_fmadd_ps(scale, _mm512_setzero_ps(), *wild);
            _mm512_store_ps(to.add(b * KEYS), scale);
        }
    }
}

impl<const R: usize> Bytes<R> {
    const SHAPES: [(u8, u16); 8] = {
        let w = (2 * R as u8, 64);
        [(16, 64), w, w, w, (16, 32), (16, 32), (8, 64), (16, 64)]
    };

    /// Queries as tiles, and the scale of each row; false where some are not finite.
    #[inline(always)]
    unsafe fn pack(p: &Problem<'_>, l: Lines, to: *mut u8, factors: &mut [f32; R]) -> bool {
        const MOST: f32 = 127.0 * 256.0;
        let per_tile = 8 / R;
        // SAFETY: rows of queries, tiles of their blocks.
        unsafe {
            for r in 0..l.rows {
                let q = l.q.add(r * l.dk);
                let (mut most, mut wild) = (_mm512_setzero_ps(), _mm512_setzero_ps());
                for i in (0..p.dk).step_by(16) {
                    let x = _mm512_loadu_ps(q.add(i));
                    most = _mm512_max_ps(most, _mm512_abs_ps(x));
                    wild = _mm512_fmadd_ps(x, _mm512_setzero_ps(), wild);
                }
                if Avx512::sum(wild).is_nan() {
                    return false;
                }
                let most = _mm512_reduce_max_ps(most);
                factors[r] = most / MOST;
                // Below the normal numbers all are as good as zero.
                let up = if most < f32::MIN_POSITIVE * MOST {
                    0.0
                } else {
                    MOST / most
                };
                for b in 0..p.dk / BLOCK {
                    let mut codes = [[0u32; BLOCK / 4]; 2];
                    for i in 0..2 {
                        let x = _mm512_loadu_ps(q.add(b * BLOCK + 16 * i));
                        let x = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(up)));
                        let high = _mm512_add_epi32(x, _mm512_set1_epi32(128));
                        let high = _mm512_srai_epi32::<8>(high);
                        let low = _mm512_sub_epi32(x, _mm512_slli_epi32::<8>(high));
                        for (term, x) in [high, low].into_iter().enumerate() {
                            let at = codes[term].as_mut_ptr().add(4 * i);
                            _mm_storeu_si128(at.cast(), _mm512_cvtepi32_epi8(x));
                        }
                    }
                    let tile = to.add(b * QUERIES).cast::<u32>();
                    for (term, codes) in codes.iter().enumerate() {
                        let column = b % per_tile * 2 * R + term * R + r;
                        for (i, &four) in codes.iter().enumerate() {
                            *tile.add(16 * i + column) = four;
                        }
                    }
                }
            }
        }
        true
    }

    /// Products of 16 keys `step` bytes apart, from key `at` of the step on, and all queries.
    #[inline(always)]
    unsafe fn products(&self, blocks: usize, k: *const u8, step: usize, at: usize) {
        let per_tile = 8 / R;
        let tiles = blocks.div_ceil(per_tile);
        // SAFETY: keys of so many blocks, tiles for them.
        unsafe {
            let codes = k.add(2);
            let to = self.k_sums.cast::<u8>().add(at / GROUP % 2 * tiles * TILE);
            for t in 0..tiles {
                let b = t * per_tile;
                amx::zero::<0>();
                amx::load::<4>(codes.add(b * BLOCK_BYTES), step);
                amx::load::<6>(self.q.add(b * QUERIES), 64);
                SignedBytes::add::<0, 4, 6>();
                if per_tile == 2 && b + 1 < blocks {
                    amx::load::<5>(codes.add((b + 1) * BLOCK_BYTES), step);
                    amx::load::<6>(self.q.add((b + 1) * QUERIES), 64);
                    SignedBytes::add::<0, 5, 6>();
                }
                amx::store::<0>(to.add(t * TILE), 64);
            }
        }
    }

    /// Sums of the products of 16 keys over the blocks, in `l.scores`. Asks for the lines of `ahead`
    /// and `near` meanwhile.
    #[inline(always)]
    unsafe fn scores(&self, l: Lines, blocks: usize, at: usize, ahead: Ahead, near: Ahead) {
        let per_tile = 8 / R;
        let tiles = blocks.div_ceil(per_tile);
        // SAFETY: tiles of products, lines of scores.
        unsafe {
            let mut acc = [_mm512_setzero_ps(); GROUP];
            for t in 0..tiles {
                let sums = self.k_sums.add((at / GROUP % 2 * tiles + t) * TILE / 4);
                let scales = self.k_scales.add(t * per_tile * KEYS + at);
                for key in 0..GROUP {
                    let x = _mm512_cvtepi32_ps(_mm512_load_si512(sums.add(16 * key).cast()));
                    let mut scale = _mm512_set1_ps(*scales.add(key));
                    if per_tile == 2 {
                        let other = _mm_load_ss(scales.add(KEYS + key));
                        scale = _mm512_mask_broadcastss_ps(scale, 0xff00, other);
                    }
                    acc[key] = _mm512_fmadd_ps(x, scale, acc[key]);
                    ahead.line(t * GROUP + key);
                    near.line(t * GROUP + key);
                }
            }
            ahead.rest(tiles * GROUP);
            near.rest(tiles * GROUP);
            for key in 0..GROUP {
                acc[key] = _mm512_mul_ps(acc[key], self.columns);
            }
            let line = |r: usize| l.scores.add(r.min(l.rows - 1) * KEYS + at);
            // Of keys q, 4 + q, 8 + q and 12 + q: quarters of four rows.
            let mut low = [_mm512_setzero_ps(); 4];
            let mut high = low;
            for q in 0..4 {
                let [a, b, c, d] = [acc[q], acc[4 + q], acc[8 + q], acc[12 + q]];
                let (ab, cd) = if R == 4 {
                    (fold::<0x88, 0xdd>(a, b), fold::<0x88, 0xdd>(c, d))
                } else {
                    (fold::<0x44, 0xee>(a, b), fold::<0x44, 0xee>(c, d))
                };
                low[q] = _mm512_shuffle_f32x4::<0x88>(ab, cd);
                high[q] = _mm512_shuffle_f32x4::<0xdd>(ab, cd);
                if R == 4 {
                    low[q] = _mm512_add_ps(low[q], high[q]);
                }
            }
            if R == 8 {
                store_turned(high, [line(4), line(5), line(6), line(7)]);
            }
            store_turned(low, [line(0), line(1), line(2), line(3)]);
        }
    }

    /// Codes of values of block `b`, four keys side by side; columns in the order that [`order`]
    /// undoes.
    #[inline(always)]
    unsafe fn interleave(&self, v: &[*const u8; KEYS], b: usize, ahead: Ahead) {
        // SAFETY: rows that have the block.
        unsafe {
            let pairs = _mm512_loadu_si512(PAIRS.as_ptr().cast());
            for quad in 0..KEYS / 4 {
                let rows = &v[4 * quad..4 * quad + 4];
                let at = b * BLOCK_BYTES + 2;
                let even = side_by_side(rows[0].add(at), rows[2].add(at));
                let odd = side_by_side(rows[1].add(at), rows[3].add(at));
                let low = _mm512_unpacklo_epi8(even, odd);
                let high = _mm512_unpackhi_epi8(even, odd);
                // Weights come in this order from packing.
                let row = quad % 4 * 4 + quad / 4;
                let to = self.v.add(b % 2 * 2 * TILE + row * 64);
                _mm512_store_si512(to.cast(), _mm512_permutexvar_epi16(pairs, low));
                _mm512_store_si512(to.add(TILE).cast(), _mm512_permutexvar_epi16(pairs, high));
                let line = (b * KEYS / 4 + quad) * 2;
                ahead.line(line);
                ahead.line(line + 1);
            }
        }
    }

    /// Weights by scales of block `b`, as tiles.
    #[inline(always)]
    unsafe fn weights(&self, l: Lines, b: usize) {
        // SAFETY: lines of weights, scales of the block.
        unsafe {
            let mut scales = [_mm512_setzero_ps(); 4];
            for g in 0..4 {
                scales[g] = _mm512_load_ps(self.v_scales.add(b * KEYS + 16 * g));
            }
            for r0 in (0..R).step_by(4) {
                let mut x = [[_mm512_setzero_ps(); 4]; 4];
                let mut most = [_mm512_setzero_ps(); 4];
                for r in 0..4 {
                    let line = l.scores.add((r0 + r).min(l.rows - 1) * KEYS);
                    for g in 0..4 {
                        x[r][g] = _mm512_mul_ps(_mm512_load_ps(line.add(16 * g)), scales[g]);
                        most[r] = _mm512_max_ps(most[r], _mm512_abs_ps(x[r][g]));
                    }
                }
                // Powers of two, so that both factors are exact; the largest takes 14 bits.
                let e = _mm512_getexp_ps(largest(most));
                let e = _mm512_max_ps(e, _mm512_set1_ps(-100.0));
                let (one, bits) = (_mm512_set1_ps(1.0), _mm512_set1_ps(13.0));
                let up = _mm512_scalef_ps(one, _mm512_sub_ps(bits, e));
                let down = _mm512_scalef_ps(one, _mm512_sub_ps(e, bits));
                _mm512_store_ps(self.w_scales.add((b * R + r0) * 4), down);
                for r in 0..4 {
                    let up = _mm512_permutexvar_ps(_mm512_set1_epi32(4 * r as i32), up);
                    let mut codes = [_mm512_setzero_si512(); 4];
                    for g in 0..4 {
                        codes[g] = _mm512_cvtps_epi32(_mm512_mul_ps(x[r][g], up));
                    }
                    let first = halves(_mm512_packs_epi32(codes[0], codes[1]));
                    let last = halves(_mm512_packs_epi32(codes[2], codes[3]));
                    for term in 0..2 {
                        let to = self.w.add(((b % 2 * 2 + term) * R + r0 + r) * KEYS);
                        let both = _mm512_packs_epi16(first[term], last[term]);
                        _mm512_store_si512(to.cast(), both);
                    }
                }
            }
        }
    }

    /// Products of weights and values of block `b`.
    #[inline(always)]
    unsafe fn values(&self, b: usize) {
        // SAFETY: tiles of weights and values.
        unsafe {
            let v = self.v.add(b % 2 * 2 * TILE);
            let to = self.v_sums.add(b % 2 * 4 * R * 16);
            amx::zero::<1>();
            amx::zero::<2>();
            amx::load::<3>(self.w.add(b % 2 * 2 * R * KEYS), KEYS);
            amx::load::<7>(v, 64);
            SignedBytes::add::<1, 3, 7>();
            amx::load::<7>(v.add(TILE), 64);
            SignedBytes::add::<2, 3, 7>();
            amx::store::<1>(to.cast(), 64);
            amx::store::<2>(to.add(2 * R * 16).cast(), 64);
        }
    }

    /// Adds those products to the sums.
    #[inline(always)]
    unsafe fn add(&self, l: Lines, b: usize) {
        // SAFETY: products of the block, lines of sums.
        unsafe {
            for r in 0..l.rows {
                let scale = _mm512_set1_ps(*self.w_scales.add((b * R + r) * 4));
                for half in 0..2 {
                    let from = self.v_sums.add((b % 2 * 2 + half) * 2 * R * 16 + r * 16);
                    let high = _mm512_cvtepi32_ps(_mm512_load_si512(from.cast()));
                    let low = _mm512_cvtepi32_ps(_mm512_load_si512(from.add(R * 16).cast()));
                    let x = _mm512_fmadd_ps(high, _mm512_set1_ps(256.0), low);
                    let to = l.sums.add(r * l.dv + b * BLOCK + 16 * half);
                    _mm512_store_ps(to, _mm512_fmadd_ps(x, scale, _mm512_load_ps(to)));
                }
            }
        }
    }

    /// Adds what the last step left.
    #[inline(always)]
    unsafe fn add_rest(&mut self, l: Lines, blocks: usize) {
        if std::mem::take(&mut self.waiting) {
            for b in blocks.saturating_sub(2)..blocks {
                // SAFETY: the caller's contract is the callee's.
                unsafe { self.add(l, b) };
            }
        }
    }
}

/// Scores of 16 keys from key `at` of the step on, number by number: infinite scales are no factors
/// of a sum of codes.
#[cold]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn exact_scores(p: &Problem<'_>, l: Lines, rows: &[*const u8; GROUP], at: usize) {
    // SAFETY: rows of keys and of queries, lines of scores; rows beyond the last repeat it.
    unsafe {
        for r0 in (0..l.rows).step_by(4) {
            for (j, &k) in rows.as_chunks::<4>().0.iter().enumerate() {
                let (mut q, mut s) = ([l.q.cast_const(); 4], [l.scores; 4]);
                for r in 0..4 {
                    let row = (r0 + r).min(l.rows - 1);
                    q[r] = l.q.add(row * l.dk).cast_const();
                    s[r] = l.scores.add(row * KEYS + at + 4 * j);
                }
                <Exact as Products<Avx512>>::scores::<Q8, 4, 4>(q, k, p.dk, [1.0; 4], s, None);
            }
        }
    }
}

/// Sums in the order of the values, from that of tiles; or back.
#[inline(always)]
unsafe fn order(l: Lines, dv: usize) {
    // SAFETY: lines of sums.
    unsafe {
        for r in 0..l.rows {
            for i in (0..dv).step_by(BLOCK) {
                let at = l.sums.add(r * l.dv + i);
                let (a, b) = (_mm512_load_ps(at), _mm512_load_ps(at.add(16)));
                _mm512_store_ps(at, _mm512_shuffle_f32x4::<0x44>(a, b));
                _mm512_store_ps(at.add(16), _mm512_shuffle_f32x4::<0xee>(a, b));
            }
        }
    }
}

// SAFETY (whole impl): the trait's contract; AMX with INT8, and a cache of q8_0.
impl<const R: usize> Few<Avx512, KEYS> for Bytes<R> {
    fn scratch(p: &Problem<'_>) -> usize {
        parts::<R>(p).iter().sum()
    }

    #[inline(always)]
    unsafe fn begin(p: &Problem<'_>, l: Lines, memory: *mut f32) -> Option<Self> {
        const { assert!(R == 4 || R == 8) };
        let parts = parts::<R>(p);
        let (blocks, _) = blocks(p);
        let (mut at, mut taken) = (memory, [memory; 9]);
        for (to, floats) in taken.iter_mut().zip(parts) {
            *to = at;
            at = at.wrapping_add(floats);
        }
        let [q, k_scales, v_scales, k_sums, v_sums, v, w, w_scales, moved] = taken;
        let mut factors = [0.0; R];
        // SAFETY: the parts are as large as they are used.
        unsafe {
            q.write_bytes(0, parts[0]);
            if !Self::pack(p, l, q.cast(), &mut factors) {
                return None;
            }
            let filled = blocks * KEYS;
            k_scales.add(filled).write_bytes(0, parts[1] - filled);
            let mut columns = [0f32; 16];
            for (i, column) in columns.iter_mut().enumerate() {
                let term = [256.0, 1.0][i / R % 2];
                *column = factors[i % R] * term;
            }
            amx::configure(Self::SHAPES);
            Some(Bytes {
                q: q.cast(),
                columns: _mm512_loadu_ps(columns.as_ptr()),
                k_scales,
                v_scales,
                k_sums,
                v_sums,
                v: v.cast(),
                w: w.cast(),
                w_scales,
                moved: moved.cast(),
                waiting: false,
            })
        }
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
        let (k_blocks, v_blocks) = blocks(p);
        let (k_bytes, v_bytes) = (k_blocks * BLOCK_BYTES, v_blocks * BLOCK_BYTES);
        let n = step.n;
        // SAFETY: rows of the cache; those behind the last key repeat it.
        unsafe {
            let ask = |at: usize| {
                let rows = &next.k[at.min(next.n)..(at + GROUP).min(next.n)];
                Ahead::new(rows, k_bytes, false)
            };
            // Values of this step have come to the second level of cache by now.
            let near = |at: usize| Ahead::new(&step.v[at..at + GROUP], v_bytes, true);
            let mut wild = _mm512_setzero_ps();
            let (keys, values) = (step.k.as_chunks::<GROUP>().0, step.v.as_chunks().0);
            for (rows, at) in keys.iter().zip((0..n).step_by(GROUP)) {
                let apart = distance(rows);
                scales(rows, apart, k_blocks, self.k_scales.add(at), &mut wild);
                match apart {
                    Some(apart) => self.products(k_blocks, rows[0], apart, at),
                    None => {
                        for (i, &row) in rows.iter().enumerate() {
                            let to = self.moved.add(i * k_bytes);
                            std::ptr::copy_nonoverlapping(row, to, k_bytes);
                        }
                        self.products(k_blocks, self.moved, k_bytes, at);
                    }
                }
                if at > 0 {
                    self.scores(l, k_blocks, at - GROUP, ask(at - GROUP), near(at - GROUP));
                } else if self.waiting {
                    self.values(v_blocks - 1);
                }
            }
            let last = (n - 1) / GROUP * GROUP;
            self.scores(l, k_blocks, last, ask(last), near(last));
            if Avx512::sum(wild).is_nan() {
                for (rows, at) in keys.iter().zip((0..n).step_by(GROUP)) {
                    exact_scores(p, l, rows, at);
                }
            }
            let mut wild = _mm512_setzero_ps();
            for (rows, at) in values.iter().zip((0..KEYS).step_by(GROUP)) {
                scales(
                    rows,
                    distance(rows),
                    v_blocks,
                    self.v_scales.add(at),
                    &mut wild,
                );
            }
            self.add_rest(l, v_blocks);
            for r in 0..l.rows {
                finish::<Avx512, KEYS>(p, task, r, hidden, l.scores.add(r * KEYS));
                soften::<Avx512>(l, r, n);
                for j in (n.next_multiple_of(16)..KEYS).step_by(16) {
                    _mm512_store_ps(l.scores.add(r * KEYS + j), _mm512_setzero_ps());
                }
            }
            if Avx512::sum(wild).is_nan() {
                order(l, p.dv);
                for r in 0..l.rows {
                    careful::<Avx512, Q8, KEYS>(p, l, r, hidden);
                }
                order(l, p.dv);
                return;
            }
            let ahead = Ahead::new(&next.v[..next.n], v_bytes, false);
            for b in 0..v_blocks {
                self.interleave(&step.v, b, ahead);
                self.weights(l, b);
                if b > 0 {
                    self.values(b - 1);
                }
                if b > 1 {
                    self.add(l, b - 2);
                }
            }
            ahead.rest(v_blocks * KEYS / 2);
            self.waiting = true;
        }
    }

    #[inline(always)]
    unsafe fn end(mut self, p: &Problem<'_>, l: Lines) -> bool {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let blocks = blocks(p).1;
            if self.waiting {
                self.values(blocks - 1);
            }
            self.add_rest(l, blocks);
            order(l, p.dv);
            amx::release();
        }
        true
    }
}
