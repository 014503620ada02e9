//! Rows of x in 8 bits, arranged for the tile kernel: strips of a few rows, four k of each row
//! side by side.

#[cfg(target_arch = "aarch64")]
use super::neon::quantize_block;
#[cfg(target_arch = "x86_64")]
use super::round;
use super::{
    class::BLOCK,
    tile::{ROWS, STREAM_ROWS, Strip},
};
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::matmul::simd::q8_rows::quantize_block;
use crate::backend::cpu::{matmul::simd::epilogue::Floats, pool::Pool, simd::Elem};
use crate::element::DType;
use half::{bf16, f16};
use std::ops::Range;

/// k of a strip are a multiple of this, the longest unit of any layout.
const PAD: usize = 256;
/// k per task.
const STEP: usize = 1024;

/// Rows that are multiplied at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    /// First row, in rows of all strips.
    pub first: usize,
    /// Rows that exist.
    pub count: usize,
    /// Rows with those that are zero.
    pub rows: usize,
    /// `rows` of all strips before.
    pub slot: usize,
}

/// Rows that kernels are made for.
const STEPS: [usize; 3] = [1, ROWS, STREAM_ROWS];

/// Cuts rows into strips of `most` rows, one of [`STEPS`]; the last may be lower, and have zero
/// rows.
pub(super) fn cut(rows: Range<usize>, most: usize, slot: &mut usize, out: &mut Vec<Place>) {
    for first in rows.clone().step_by(most) {
        let count = most.min(rows.end - first);
        let rows = STEPS.into_iter().find(|&s| s >= count).unwrap_or(most);
        out.push(Place {
            first,
            count,
            rows,
            slot: *slot,
        });
        *slot += rows;
    }
}

/// What integer sums start at, for one zero point.
#[derive(Debug, Default)]
struct Init {
    zero: u8,
    subs: usize,
    data: Vec<i32>,
}

/// Strips of one x; the memory is kept between ops.
#[derive(Debug, Default)]
pub(super) struct Acts {
    /// k with the padding.
    k: usize,
    codes: Vec<i8>,
    d: Vec<f32>,
    /// For one and for two sums per 32 k.
    sums: [Vec<f32>; 2],
    inits: Vec<Init>,
}

/// What the layouts of an op need beside the codes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Needs {
    /// Sums for minima, one or two per 32 k.
    pub sums: [bool; 2],
    /// Zero points and sums per 32 k.
    pub zeros: Vec<(u8, usize)>,
}

fn grow<T: Copy + Default>(v: &mut Vec<T>, len: usize) -> *mut T {
    if v.len() < len {
        v.resize(len, T::default());
    }
    v.as_mut_ptr()
}

/// Pointers that tasks share.
pub(super) struct To {
    pub codes: *mut i8,
    pub d: *mut f32,
    pub sums: [Option<*mut f32>; 2],
    /// Zero point, sums per 32 k, and where their products go.
    pub inits: Vec<(i32, usize, *mut i32)>,
}
// SAFETY: each task writes strips and k of its own.
unsafe impl Sync for To {}

impl Acts {
    /// Rounds rows of `k` numbers of `x` that start at the elements `at`.
    ///
    /// # Safety
    /// The rows exist; the CPU has AVX2, FMA and F16C, and AVX-512 with VNNI when `avx512`.
    pub unsafe fn fill(
        &mut self,
        pool: &Pool,
        avx512: bool,
        x: Floats,
        k: usize,
        at: &(dyn Fn(usize) -> usize + Sync),
        strips: &[Place],
        needs: &Needs,
    ) {
        let padded = k.next_multiple_of(PAD);
        let slots = strips.last().map_or(0, |s| s.slot + s.rows);
        let blocks = slots * padded / BLOCK;
        self.k = padded;
        self.inits.resize_with(needs.zeros.len(), Init::default);
        let to = To {
            codes: grow(&mut self.codes, slots * padded),
            d: grow(&mut self.d, blocks),
            sums: {
                let [one, two] = &mut self.sums;
                [
                    needs.sums[0].then(|| grow(one, blocks)),
                    needs.sums[1].then(|| grow(two, 2 * blocks)),
                ]
            },
            inits: self
                .inits
                .iter_mut()
                .zip(&needs.zeros)
                .map(|(init, &(zero, subs))| {
                    (init.zero, init.subs) = (zero, subs);
                    (i32::from(zero), subs, grow(&mut init.data, subs * blocks))
                })
                .collect(),
        };
        let parts = padded.div_ceil(STEP);
        // Guesses: so many numbers per nanosecond.
        let work = (slots * k) as u64 / if avx512 { 8 } else { 2 };
        pool.parallel(strips.len() * parts, work, |range| {
            let to = &to;
            for task in range {
                let (strip, part) = (&strips[task / parts], task % parts);
                let (start, end) = (part * STEP, padded.min((part + 1) * STEP));
                // SAFETY: a part of a strip of this task's own; the caller's contract.
                unsafe {
                    match x.dtype {
                        DType::F16 => {
                            rounded::<f16>(avx512, x, k, at, strip, padded, start, end, to)
                        }
                        DType::BF16 => {
                            rounded::<bf16>(avx512, x, k, at, strip, padded, start, end, to)
                        }
                        _ => rounded::<f32>(avx512, x, k, at, strip, padded, start, end, to),
                    }
                }
            }
        });
    }

    /// What the tile kernel reads, for a layout with this zero point and `subs` sums per 32 k.
    pub fn strip(&self, place: &Place, zero: u8, subs: usize) -> Strip {
        let start = place.slot * self.k;
        let init = self
            .inits
            .iter()
            .find(|i| (i.zero, i.subs) == (zero, subs) && zero != 0);
        // Offsets of a strip that `fill` wrote.
        Strip {
            codes: self.codes.as_ptr().wrapping_add(start),
            d: self.d.as_ptr().wrapping_add(start / BLOCK),
            s: self.sums[subs - 1]
                .as_ptr()
                .wrapping_add(start / BLOCK * subs),
            init: init.map_or(std::ptr::null(), |i| {
                i.data.as_ptr().wrapping_add(start / BLOCK * subs)
            }),
        }
    }
}

/// k `start..end` of one strip, by what the CPU has.
///
/// # Safety
/// As for [`Acts::fill`].
unsafe fn rounded<T: Elem>(
    avx512: bool,
    x: Floats,
    k: usize,
    at: &dyn Fn(usize) -> usize,
    strip: &Place,
    padded: usize,
    start: usize,
    end: usize,
    to: &To,
) {
    // SAFETY: the caller's contract.
    unsafe {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = avx512;
        #[cfg(target_arch = "x86_64")]
        if avx512 && strip.rows > 1 {
            let mut rows = [None; STREAM_ROWS];
            for r in 0..strip.count {
                rows[r] = Some(x.start.cast::<T>().add(at(strip.first + r)).cast_const());
            }
            return match rows {
                rows if strip.rows == STREAM_ROWS => {
                    round::fill(&rows, k, strip, padded, start, end, to)
                }
                [a, b, c, d, ..] => round::fill(&[a, b, c, d], k, strip, padded, start, end, to),
            };
        }
        fill::<T>(x, k, at, strip, padded, start, end, to);
    }
}

/// k `start..end` of one strip.
///
/// # Safety
/// As for [`Acts::fill`].
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
unsafe fn fill<T: Elem>(
    x: Floats,
    k: usize,
    at: &dyn Fn(usize) -> usize,
    strip: &Place,
    padded: usize,
    start: usize,
    end: usize,
    to: &To,
) {
    let rows = strip.rows;
    let base = strip.slot * padded;
    // SAFETY: rows that exist are read up to k; strips are written where they are.
    unsafe {
        for r in 0..rows {
            let from = (r < strip.count).then(|| x.start.cast::<T>().add(at(strip.first + r)));
            for b in start / BLOCK..end / BLOCK {
                let (codes, d, sum) = match from {
                    Some(from) if b * BLOCK < k => quantize_block(from.add(b * BLOCK)),
                    _ => ([0; 8], 0.0, [0; 2]),
                };
                let out = to.codes.add(base).cast::<i32>().add(b * 8 * rows + r);
                for (g, &four) in codes.iter().enumerate() {
                    out.add(g * rows).write_unaligned(four);
                }
                let block = base / BLOCK + b * rows + r;
                *to.d.add(block) = d;
                if let Some(one) = to.sums[0] {
                    *one.add(block) = d * (sum[0] + sum[1]) as f32;
                }
                let halves = 2 * (base / BLOCK + b * rows) + r;
                if let Some(two) = to.sums[1] {
                    *two.add(halves) = d * sum[0] as f32;
                    *two.add(halves + rows) = d * sum[1] as f32;
                }
                for &(zero, subs, init) in &to.inits {
                    if subs == 1 {
                        *init.add(block) = -zero * (sum[0] + sum[1]);
                    } else {
                        *init.add(halves) = -zero * sum[0];
                        *init.add(halves + rows) = -zero * sum[1];
                    }
                }
            }
        }
    }
}

impl Strip {
    /// The same from k `k`, a multiple of 32, on.
    pub fn at(self, k: usize, rows: usize, subs: usize) -> Strip {
        let block = k / BLOCK * rows;
        Strip {
            codes: self.codes.wrapping_add(k * rows),
            d: self.d.wrapping_add(block),
            s: self.s.wrapping_add(block * subs),
            init: if self.init.is_null() {
                self.init
            } else {
                self.init.wrapping_add(block * subs)
            },
        }
    }
}
