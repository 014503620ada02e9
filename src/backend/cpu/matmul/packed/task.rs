//! One task: its sums in scratch memory, then the epilogue.

#[cfg(target_arch = "aarch64")]
use super::neon::Four;
use super::{
    acts::{Acts, Place},
    class::{BLOCK, Layout, Scales, TILE},
    exact,
    lanes::Lanes,
    panel::{KC, unpack},
    run::{Job, Part, To},
    tile::{ROWS, STREAM_ROWS, tile},
};
#[cfg(target_arch = "x86_64")]
use super::{
    avx2::{Avx2, Two, Vnni},
    avx512::Avx512,
};
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd;
#[cfg(target_arch = "aarch64")]
use crate::backend::cpu::simd::{Neon, Sdot, Widening};
use crate::backend::cpu::{
    matmul::simd::f32_gemm::Tile,
    simd::{Scratch, Shared, Simd},
};
use std::ops::Range;

/// Some tiles of one matrix by some strips.
pub(super) struct Task {
    pub job: usize,
    pub tile: usize,
    pub tiles: usize,
    pub strips: Range<usize>,
}

/// x in the form that the kernels read.
#[derive(Clone, Copy)]
pub(super) enum X<'a> {
    Q8(&'a Acts),
    /// Rows and their stride.
    F32(Shared<f32>, usize),
    /// Pairs of bf16: strips of `[k / 32][rows][32]`, and their k.
    #[cfg(target_arch = "x86_64")]
    Bf16(Shared<u32>, usize),
}

/// Runs a task with the kernels of one layout and tier.
pub(super) type Run<'w> = unsafe fn(&Work<'w>, X<'_>, &mut Scratch);

/// A task and what it works on.
pub(super) struct Work<'a> {
    pub task: &'a Task,
    pub job: &'a Job,
    pub part: &'a Part,
    pub strips: &'a [Place],
}

/// Sums of a task: rows of the strips, zero rows among them, `step` apart.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub c: *mut f32,
    pub step: usize,
}

impl Work<'_> {
    /// # Safety
    /// The operands of the op are alive and the CPU has the instruction sets; so for all that
    /// follow.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    pub unsafe fn avx512<K: Layout>(&self, x: X<'_>, scratch: &mut Scratch) {
        simd::align_frame();
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let sums = match x {
                X::Q8(acts) => self.q8::<Avx512<false>, K, 2>(acts, scratch),
                X::F32(x, step) => {
                    self.f32::<simd::Avx512, Avx512<false>, K, 2>(x.0, step, scratch)
                }
                X::Bf16(..) => return self.amx::<K>(x, scratch),
            };
            self.finish::<simd::Avx512>(sums);
        }
    }

    /// Of 8-bit x.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,gfni,avx2,fma,f16c"
    )]
    pub unsafe fn avx512bits<K: Layout>(&self, x: X<'_>, scratch: &mut Scratch) {
        simd::align_frame();
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            match x {
                X::Q8(acts) => {
                    let sums = self.q8::<Avx512<true>, K, 2>(acts, scratch);
                    self.finish::<simd::Avx512>(sums);
                }
                _ => self.avx512::<K>(x, scratch),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn avx2<K: Layout>(&self, x: X<'_>, scratch: &mut Scratch) {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let sums = match x {
                X::Q8(acts) => self.q8::<Avx2, K, 1>(acts, scratch),
                X::F32(x, step) => self.f32::<simd::Avx2, Avx2, K, 1>(x.0, step, scratch),
                X::Bf16(..) => return self.amx::<K>(x, scratch),
            };
            self.finish::<simd::Avx2>(sums);
        }
    }

    /// Of 8-bit x.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    pub unsafe fn avxvnni<K: Layout>(&self, x: X<'_>, scratch: &mut Scratch) {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            match x {
                X::Q8(acts) => {
                    let sums = self.q8::<Two<Vnni>, K, 1>(acts, scratch);
                    self.finish::<simd::Avx2>(sums);
                }
                _ => self.avx2::<K>(x, scratch),
            }
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon")]
    pub unsafe fn neon<K: Layout>(&self, x: X<'_>, scratch: &mut Scratch) {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let sums = match x {
                X::Q8(acts) => self.q8::<Four<Widening>, K, 1>(acts, scratch),
                X::F32(x, step) => self.f32::<Neon, Four<Widening>, K, 1>(x.0, step, scratch),
            };
            self.finish::<Neon>(sums);
        }
    }

    /// Of 8-bit x: products of f32 gain nothing.
    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon,dotprod")]
    pub unsafe fn dotprod<K: Layout>(&self, x: X<'_>, scratch: &mut Scratch) {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            match x {
                X::Q8(acts) => {
                    let sums = self.q8::<Four<Sdot>, K, 1>(acts, scratch);
                    self.finish::<Neon>(sums);
                }
                X::F32(..) => self.neon::<K>(x, scratch),
            }
        }
    }

    /// Epilogue and store.
    #[inline(always)]
    pub unsafe fn finish<S: Simd>(&self, sums: Sums) {
        let Sums { c, step } = sums;
        let (n0, base) = (self.task.tile * TILE, self.strips[0].slot);
        let n = (self.task.tiles * TILE).min(self.part.pack.shape.n - n0);
        for strip in self.strips {
            let row = strip.first - self.job.rows.start;
            // SAFETY: rows and columns of the task.
            unsafe {
                let c = c.add((strip.slot - base) * step);
                match &self.job.to {
                    To::Rows(out) => out.finish::<S>(c, step, row, strip.count, n0, n),
                    To::Each(outs, rows) => {
                        for i in 0..strip.count {
                            let (out, y) = rows[row + i];
                            outs[out].finish::<S>(c.add(i * step), step, y, 1, n0, n);
                        }
                    }
                }
            }
        }
    }

    /// First byte of tile `i` of the task; of the last one for those beyond.
    #[inline(always)]
    pub unsafe fn tile(&self, i: usize) -> *const u8 {
        let first = self.job.matrix * self.part.tiles + self.task.tile;
        // SAFETY: a tile of the pack.
        unsafe { self.part.tile(first + i.min(self.task.tiles - 1)) }
    }

    #[inline(always)]
    unsafe fn q8<L: Lanes, K: Layout, const C: usize>(
        &self,
        acts: &Acts,
        scratch: &mut Scratch,
    ) -> Sums {
        let (task, p, strips) = (self.task, &self.part.params, self.strips);
        let (subs, zero) = (K::Scales::SUBS, self.part.pack.traits.zero);
        let rows: usize = strips.iter().map(|s| s.rows).sum();
        let units = self.part.pack.shape.k.div_ceil(K::Scales::UNIT);
        let mut xs = Vec::with_capacity(strips.len());
        for strip in strips {
            xs.push(acts.strip(strip, zero, subs));
        }
        // SAFETY: tiles of the pack, strips of x, and scratch as computed.
        unsafe {
            if L::STREAMS && strips.len() <= 2 {
                // Each of the C tiles at once comes from a span of its own, so that memory sees
                // long streams. Two strips take turns so often that memory never waits for one.
                let per = task.tiles.div_ceil(C);
                let step = per * C * TILE;
                let c = zeros(scratch, rows * step, 0);
                let chunk = if strips.len() == 1 {
                    units
                } else {
                    256 / K::Scales::UNIT
                };
                for i in 0..per {
                    for u in (0..units).step_by(chunk) {
                        let some = chunk.min(units - u);
                        for (strip, x) in strips.iter().zip(&xs) {
                            let x = x.at(u * K::Scales::UNIT, strip.rows, subs);
                            let (mut ws, mut cs) = ([self.tile(i); C], [c; C]);
                            for j in 0..C {
                                let c = c.add((strip.slot - strips[0].slot) * step);
                                ws[j] = self.tile(i + j * per).add(u * K::BYTES);
                                cs[j] = c.add((i + j * per) * TILE);
                            }
                            if strip.rows == 1 {
                                tile::<L, K, 1, C, true>(ws, x, some, p, cs, step);
                            } else if strip.rows == STREAM_ROWS {
                                tile::<L, K, STREAM_ROWS, C, true>(ws, x, some, p, cs, step);
                            } else {
                                tile::<L, K, ROWS, C, true>(ws, x, some, p, cs, step);
                            }
                        }
                    }
                }
                return Sums { c, step };
            }
            let (step, panels) = (task.tiles * TILE, L::PANELS[subs - 1]);
            let panel_bytes = KC / BLOCK * <K::Panel as Layout>::BYTES;
            let c = zeros(scratch, rows * step, panels * panel_bytes / 4);
            let panel = c.add(rows * step).cast::<u8>();
            let chunk = KC / K::Scales::UNIT;
            for first in (0..task.tiles).step_by(panels) {
                let side = panels.min(task.tiles - first);
                for u in (0..units).step_by(chunk) {
                    let some = chunk.min(units - u);
                    for j in 0..side {
                        let from = self.tile(first + j).add(u * K::BYTES);
                        let next = if u + some < units {
                            from.wrapping_add(some * K::BYTES)
                        } else {
                            self.tile(first + side + j)
                        };
                        unpack::<L, K>(from, next, some, p, panel.add(j * panel_bytes));
                    }
                    let blocks = some * K::Scales::UNIT / BLOCK;
                    let last = u + some == units;
                    for (strip, x) in strips.iter().zip(&xs) {
                        if last && let To::Rows(out) = &self.job.to {
                            let row = strip.first - self.job.rows.start;
                            out.prefetch(row, strip.count, (task.tile + first) * TILE, side * TILE);
                        }
                        let x = x.at(u * K::Scales::UNIT, strip.rows, subs);
                        let c = c.add((strip.slot - strips[0].slot) * step + first * TILE);
                        L::panels::<K::Panel>(panel, side, x, strip.rows, blocks, c, step);
                    }
                }
            }
            Sums { c, step }
        }
    }

    #[inline(always)]
    unsafe fn f32<S: Simd, L: Lanes, K: Layout, const C: usize>(
        &self,
        x: *const f32,
        x_step: usize,
        scratch: &mut Scratch,
    ) -> Sums {
        let (task, p) = (self.task, &self.part.params);
        let (first, m) = (self.strips[0].first, self.strips[0].count);
        let units = self.part.pack.shape.k.div_ceil(K::Scales::UNIT);
        let step = task.tiles.next_multiple_of(C) * TILE;
        // SAFETY: tiles of the pack, rows of x, and scratch as computed.
        unsafe {
            let x = x.add(first * x_step);
            let width = C * TILE;
            let c = zeros(scratch, m * step, exact::KC * width);
            let panel = c.add(m * step);
            let chunk = exact::KC / K::Scales::UNIT;
            for first in (0..task.tiles).step_by(C) {
                for u in (0..units).step_by(chunk) {
                    let some = chunk.min(units - u);
                    for j in 0..C {
                        let from = self.tile(first + j).add(u * K::BYTES);
                        exact::unpack::<L, K>(from, some, p, panel.add(j * TILE), width);
                    }
                    let (k0, len) = (u * K::Scales::UNIT, some * K::Scales::UNIT);
                    Tile {
                        x: x.add(k0),
                        x_step,
                        panel,
                        panel_step: width,
                        c: c.add(first * TILE),
                        c_step: step,
                    }
                    .run::<S>(m, len, u == 0);
                }
            }
            Sums { c, step }
        }
    }
}

/// `floats` zeros and room for `more` behind them.
unsafe fn zeros(scratch: &mut Scratch, floats: usize, more: usize) -> *mut f32 {
    let c = scratch.take(floats + more);
    // SAFETY: the scratch has the room.
    unsafe { std::slice::from_raw_parts_mut(c, floats).fill(0.0) };
    c
}
