//! AMX: rows of x in bf16 by panels of bf16 that many rows share.

use super::{
    acts::Place,
    avx512,
    class::{BLOCK, Layout, Scales, TILE, groups},
    lanes::Lanes,
    run::{Rows, To},
    task::{Sums, Work, X},
    tile::Params,
};
use crate::DType;
use crate::backend::cpu::{
    matmul::{
        dense::lines_of_bf16,
        even::{self, Even, each},
        simd::epilogue::Output,
    },
    pool::Pool,
    simd::{
        self, Fetch, Scratch, Shared,
        amx::{self, Bf16, Leave},
    },
};
use std::{arch::x86_64::*, ops::Range};

/// What decodes panels.
type Avx512 = avx512::Avx512<true>;

/// Rows of x below which the decoding of panels costs more than it saves.
pub(super) const LEAST: u64 = 24;
/// Rows of a strip: two tiles.
const ROWS: usize = 32;
/// k per panel, which stays in the first level of cache.
const KC: usize = 512;
/// The same of more than [`MANY`] rows, whose x of as many k would leave the second level.
const KC_OF_MANY: usize = 256;
const MANY: usize = 128;
/// Bytes of a panel of two tiles of weights, at its longest.
const PANEL: usize = KC * 5 / 4 / BLOCK * amx::STEP;
/// Most tiles of a task, and most strips: x of a panel's k and the sums stay in the second level
/// of cache.
const TILES: usize = 16;
const STRIPS: usize = 16;
/// k of a strip are a multiple of this, the longest unit of any layout.
const PAD: usize = 256;

/// Cuts rows into strips.
pub(super) fn cut(rows: Range<usize>, out: &mut Vec<Place>) {
    let mut slot = out.last().map_or(0, |s| s.slot + s.rows);
    for first in rows.clone().step_by(ROWS) {
        let count = ROWS.min(rows.end - first);
        out.push(Place {
            first,
            count,
            rows: count,
            slot,
        });
        slot += count;
    }
}

/// Tiles and strips of a task, of so many tiles and strips in all.
///
/// Threads that share rows of x fetch them from each other's caches; those that share weights
/// decode them each for itself. The rows are cut into as many parts as make the sum least.
pub(super) fn task(tiles: usize, strips: usize, threads: usize) -> (usize, usize) {
    /// What a row of x costs, in decoded rows of weights.
    const ROW: usize = 4;
    let cost = |parts: usize| tiles * TILE * parts / threads + ROW * strips * ROWS / parts;
    let parts = (1..=threads)
        .filter(|parts| threads.is_multiple_of(*parts))
        .min_by_key(|&parts| cost(parts))
        .unwrap_or(1);
    let columns = (tiles * parts / (threads * 4)).clamp(2, TILES);
    let columns = columns.next_multiple_of(2);
    // Enough tasks for all threads.
    let parts = parts.max((threads * 2).div_ceil(tiles.div_ceil(columns).max(1)));
    (columns, strips.div_ceil(parts).clamp(1, STRIPS))
}

/// x as lines of bf16.
///
/// # Safety
/// The rows exist; the CPU has AVX-512 with BF16.
pub(super) unsafe fn lines<'a>(
    pool: &Pool,
    x: &Rows<'_>,
    strips: &[Place],
    scratch: &mut Scratch,
) -> X<'a> {
    /// k per task.
    const STEP: usize = 1024;
    let padded = x.k.next_multiple_of(PAD);
    let slots = strips.last().map_or(0, |s| s.slot + s.rows);
    let out = Shared(scratch.take(slots * padded / 2).cast::<u32>());
    let (size, parts) = (x.x.dtype.size(), padded.div_ceil(STEP));
    // `fits` lets only floats through.
    if let Some(lines) = lines_of_bf16(x.x.dtype) {
        let work = (slots * x.k) as u64 / 8;
        pool.parallel(strips.len() * parts, work, |range| {
            let out = &out;
            for task in range {
                let (strip, part) = (&strips[task / parts], task % parts);
                let (start, end) = (part * STEP, padded.min((part + 1) * STEP));
                let mut rows = [0; ROWS];
                for (r, at) in rows[..strip.rows].iter_mut().enumerate() {
                    *at = (x.at)(strip.first + r) * size;
                }
                let line = strip.rows * BLOCK / 2;
                // SAFETY: numbers of x, and lines of this task's own.
                unsafe {
                    let to = out.0.add(strip.slot * padded / 2 + start / BLOCK * line);
                    let len = end.min(x.k).saturating_sub(start);
                    if len > 0 {
                        lines(x.x.start.add(start * size), &rows[..strip.rows], len, to);
                    }
                    let full = len.div_ceil(BLOCK);
                    to.add(full * line)
                        .write_bytes(0, ((end - start) / BLOCK - full) * line);
                }
            }
        });
    }
    X::Bf16(out, padded)
}

/// `units` in parts as equal as can be, of at most `most`, or a quarter more where that makes one or
/// two parts of all.
fn units_of_chunk(units: usize, most: usize) -> usize {
    let longer = most + most / 4;
    let parts = if units <= 2 * longer {
        units.div_ceil(longer)
    } else {
        units.div_ceil(most)
    };
    units.div_ceil(parts.max(1)).max(1)
}

/// Fetches x of the next panels, while `pairs` panels meet x of these, unless all of it stays in
/// the second level of cache.
fn ahead(x: *const u32, k: usize, k0: usize, kc: usize, strips: &[Place], pairs: usize) -> Fetch {
    /// Bytes of x that stay.
    const NEAR: usize = 1 << 20;
    let rows: usize = strips.iter().map(|s| s.rows).sum();
    if 2 * rows * k <= NEAR || k0 >= k {
        return Fetch::NONE;
    }
    let len = kc.min(k - k0);
    // Whole strips; the last may be lower.
    let row = len / BLOCK * ROWS;
    Fetch {
        at: x.wrapping_add((strips[0].slot * k + k0 * ROWS) / 2).cast(),
        left: row,
        row,
        gap: (k - len) * ROWS * 2,
        // Tiles ask four times a step.
        pace: (len / BLOCK * rows).div_ceil(pairs * strips.len() * kc / BLOCK * 4),
        near: false,
        streams: false,
    }
}

/// Rows whose sums leave while the next are multiplied.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    Sums(amx::Sums<Bf16>),
    Words(Even<Bf16, even::Words>),
    Bf16(Even<Bf16, even::Bf16>),
    F16(Even<Bf16, even::F16>),
}

impl Before {
    /// Of row `m` and column `n` on.
    #[inline(always)]
    fn of(sums: amx::Sums<Bf16>, out: Option<&Output>, m: usize, n: usize) -> Before {
        match out.map(|out| (&out.y, out.y.data.dtype)) {
            None => Before::Sums(sums),
            Some((y, DType::BF16)) => Before::Bf16(Even::new(sums, y, m, n)),
            Some((y, DType::F16)) => Before::F16(Even::new(sums, y, m, n)),
            Some((y, _)) => Before::Words(Even::new(sums, y, m, n)),
        }
    }
}

impl Work<'_> {
    /// # Safety
    /// As for the other entries, with AMX.
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,gfni,avx2,fma,f16c"
    )]
    pub unsafe fn amx<K: Layout>(&self, x: X<'_>, scratch: &mut Scratch) {
        let X::Bf16(x, k) = x else {
            // SAFETY: the caller's contract is the callee's.
            return unsafe { self.avx512::<K>(x, scratch) };
        };
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let straight = self.straight();
            let sums = self.bf16::<K>(x.0, k, straight, scratch);
            if straight.is_none() {
                self.finish::<simd::Avx512>(sums);
            }
        }
    }

    /// Where the task's rows go, if sums go there as they are and in whole vectors. Of many rows, y
    /// leaves the second level of cache, and a pass along its rows takes less.
    fn straight(&self) -> Option<&Output> {
        let rows: usize = self.strips.iter().map(|s| s.rows).sum();
        let n = self.part.pack.shape.n;
        if rows > MANY {
            return None;
        }
        let end = (self.task.tile + self.task.tiles) * TILE;
        match &self.job.to {
            To::Rows(out) if out.is_straight() && self.task.tiles.is_multiple_of(2) && end <= n => {
                Some(out)
            }
            _ => None,
        }
    }

    /// Sums, or results where there is a `straight` way.
    ///
    /// # Safety
    /// `x` has the strips, `k` numbers long.
    #[inline(always)]
    unsafe fn bf16<K: Layout>(
        &self,
        x: *const u32,
        k: usize,
        straight: Option<&Output>,
        scratch: &mut Scratch,
    ) -> Sums {
        let (task, p, strips) = (self.task, &self.part.params, self.strips);
        let units = self.part.pack.shape.k.div_ceil(K::Scales::UNIT);
        // An odd number of cache lines: rows of a tile of sums spread over the sets of a cache.
        let step = (task.tiles.next_multiple_of(2) + 1) * TILE;
        let (base, rows) = (strips[0].slot, strips.iter().map(|s| s.rows).sum::<usize>());
        let pairs = task.tiles.div_ceil(2);
        let most = if rows > MANY { KC_OF_MANY } else { KC };
        let chunk = units_of_chunk(units, most / K::Scales::UNIT);
        let kc = chunk * K::Scales::UNIT;
        // SAFETY: tiles of the pack, strips of x, and scratch as computed.
        unsafe {
            let c = scratch.take(rows * step + PANEL / 4);
            let panel = c.add(rows * step).cast::<u8>();
            let mut rooms = [amx::Room::new(), amx::Room::new()];
            let (mut room, mut before) = (0, Before::Nothing);
            for u in (0..units).step_by(chunk) {
                let some = chunk.min(units - u);
                let (k0, steps) = (u * K::Scales::UNIT, some * K::Scales::UNIT / BLOCK);
                let last = straight.filter(|_| u + some == units);
                let deep = kc / BLOCK >= amx::DEEP || last.is_some();
                let mut fetch = ahead(x, k, k0 + kc, kc, strips, pairs);
                for pair in 0..pairs {
                    for half in 0..2 {
                        let from = self.tile(2 * pair + half).add(u * K::BYTES);
                        let next = if pair + 1 < pairs {
                            self.tile(2 * pair + 2 + half).wrapping_add(u * K::BYTES)
                        } else {
                            self.tile(half).wrapping_add((u + some) * K::BYTES)
                        };
                        unpack::<K>(from, next, some, p, panel.add(half * 64));
                    }
                    let mut configured = 0;
                    for strip in strips {
                        let rows = strip.rows;
                        // The last strip may be lower.
                        if configured != rows {
                            amx::configure_rows(rows);
                            configured = rows;
                        }
                        let own = c.add((strip.slot - base) * step + 2 * pair * TILE);
                        let own = (own.cast(), step * 4);
                        room ^= 1;
                        let (to, step) = if deep { rooms[room].place() } else { own };
                        let tile = amx::Rows::<1, 1> {
                            x: x.add((strip.slot * k + k0 * rows) / 2).cast(),
                            rows,
                            w: panel,
                            c: to,
                            step,
                            fresh: deep || u == 0,
                        };
                        each!(before, Before::[Sums Words Bf16 F16], rows => tile.run::<Bf16>(steps, rows, &mut fetch));
                        before = Before::Nothing;
                        if deep {
                            let sums = amx::Sums::new(&mut rooms[room], rows, own, u == 0);
                            let m = strip.first - self.job.rows.start;
                            let n = (task.tile + 2 * pair) * TILE;
                            before = Before::of(sums, last, m, n);
                        }
                    }
                    amx::release();
                }
            }
            each!(before, Before::[Sums Words Bf16 F16], rows => rows.all());
            Sums { c, step }
        }
    }
}

/// Pairs of k of 16 columns as bf16, from f32.
#[inline(always)]
unsafe fn pairs(first: __m512, second: __m512) -> __m512i {
    #[rustfmt::skip]
    const ORDER: [u16; 32] = [
        0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31,
    ];
    // SAFETY: the caller has AVX-512 with BF16; both types are 64 bytes of any content.
    unsafe {
        let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
        let apart = _mm512_cvtne2ps_pbh(second, first);
        let apart = std::mem::transmute::<__m512bh, __m512i>(apart);
        _mm512_permutexvar_epi16(order, apart)
    }
}

/// Four k of each of 16 columns as levels plus an offset, which is exact.
#[inline(always)]
unsafe fn levels<K: Layout>(code: __m512i) -> [__m512; 4] {
    // SAFETY: no memory is touched; the caller has AVX-512.
    unsafe {
        if K::WIDE {
            [
                Avx512::byte::<0>(code),
                Avx512::byte::<1>(code),
                Avx512::byte::<2>(code),
                Avx512::byte::<3>(code),
            ]
        } else {
            // Seven bits as the upper bits of a mantissa.
            let (mask, one) = (_mm512_set1_epi32(0x7f_0000), _mm512_set1_epi32(0x4300_0000));
            let at = [
                _mm512_slli_epi32::<16>(code),
                _mm512_slli_epi32::<8>(code),
                code,
                _mm512_srli_epi32::<8>(code),
            ];
            let mut out = [_mm512_setzero_ps(); 4];
            for i in 0..4 {
                // (at & mask) | one
                let bits = _mm512_ternarylogic_epi32::<0xea>(at[i], mask, one);
                out[i] = _mm512_castsi512_ps(bits);
            }
            out
        }
    }
}

/// What [`levels`] adds.
const fn offset<K: Layout>() -> f32 {
    if K::WIDE { 0.0 } else { 128.0 }
}

/// Unpacks `units` units of one tile at `w` into half a panel: rows of 64 bytes, 128 apart. Asks
/// memory for as many at `next`, which come while the panel is multiplied.
///
/// # Safety
/// They exist and the room does; the CPU has AVX-512 with BF16.
#[inline(always)]
unsafe fn unpack<K: Layout>(
    mut w: *const u8,
    mut next: *const u8,
    units: usize,
    p: &Params,
    mut out: *mut u8,
) {
    // SAFETY: the loops stay inside the units and as many k of the panel.
    unsafe {
        let table = Avx512::table(p.table.as_ptr());
        for _ in 0..units {
            for line in 0..K::BYTES / 64 {
                Avx512::prefetch(next.wrapping_add(64 * line));
            }
            next = next.wrapping_add(K::BYTES);
            let unit = K::Scales::unit::<Avx512>(w, p.factor);
            for block in 0..K::Scales::UNIT / BLOCK {
                if K::Scales::SUBS == 1 {
                    part::<K, 0, 8>(w, unit, block, 0, table, p.zero, out);
                } else {
                    part::<K, 0, 4>(w, unit, block, 0, table, p.zero, out);
                    part::<K, 4, 8>(w, unit, block, 1, table, p.zero, out);
                }
                out = out.add(amx::STEP);
            }
            w = w.add(K::BYTES);
        }
    }
}

/// Groups `FROM..TO` of a block, which share a scale.
///
/// # Safety
/// As for [`unpack`].
#[inline(always)]
unsafe fn part<K: Layout, const FROM: usize, const TO: usize>(
    w: *const u8,
    unit: [__m512; 2],
    block: usize,
    sub: usize,
    table: __m512i,
    zero: f32,
    out: *mut u8,
) {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        let at = w.add(K::Scales::HEAD + block * (BLOCK * TILE * K::BITS / 8));
        let scale = K::Scales::scale::<Avx512>(w, unit, block, sub);
        let mut off = Avx512::mul(scale, Avx512::splat(zero + offset::<K>()));
        if K::Scales::MINS {
            off = Avx512::add(off, K::Scales::min::<Avx512>(w, unit, block, sub));
        }
        groups!(G, FROM, TO, {
            let mut v = levels::<K>(K::code::<Avx512, G>(at, table));
            for i in 0..4 {
                v[i] = Avx512::fms(v[i], scale, off);
            }
            Avx512::istore(out.add(256 * G), pairs(v[0], v[1]));
            Avx512::istore(out.add(256 * G + 128), pairs(v[2], v[3]));
        });
    }
}
