//! One op on packed weights as tasks.

#[cfg(target_arch = "aarch64")]
use super::neon::Four;
use super::{
    Pack,
    acts::{Acts, Needs, Place, cut},
    class::{BLOCK, Layout, Scales, TILE},
    exact,
    formats::with_layout,
    lanes::Lanes,
    panel::unpack,
    tile::{Params, Strip, tile},
};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd;
#[cfg(target_arch = "aarch64")]
use crate::backend::cpu::simd::{Dots, Neon, Sdot, Widening};
use crate::{
    Tensor,
    backend::cpu::{
        matmul::simd::{
            Level,
            epilogue::{Floats, Output},
            f32_gemm::Tile,
            start, to_f32,
        },
        rows::Ctx,
        simd::{Scratch, Shared, Simd},
    },
    error::{Error, Result},
    op::Weight,
    quant::QuantFormat,
};
use std::{cell::RefCell, ops::Range};

/// k per panel.
const KC: usize = 512;
/// Rows of x that are multiplied at once.
const ROWS: usize = 4;
/// Most rows of x that read the tiles as they stream, whatever the layout.
#[cfg(target_arch = "x86_64")]
const FEW: usize = 2 * ROWS;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static ACTS: RefCell<(Acts, Vec<f32>)> = RefCell::default();
}

/// The weights of a product.
pub(super) struct Part {
    w: *const u8,
    pack: Pack,
    params: Params,
    /// Bytes of a tile, tiles of a matrix.
    tile_bytes: usize,
    tiles: usize,
}

// SAFETY: the pointer leads into an operand that the op keeps alive and nobody writes.
unsafe impl Sync for Part {}

impl Part {
    pub fn new(w: &Weight<Tensor>) -> Result<Part> {
        let Weight::Packed { data, logical, tag } = w else {
            return Err(Error::InvalidTensor("the weights are not packed".into()));
        };
        let pack = Pack::of(logical, *tag)
            .ok_or_else(|| Error::InvalidTensor("not a pack of this kernel".into()))?;
        Ok(Part {
            w: start(data)?,
            params: Params {
                table: pack.traits.table,
                zero: f32::from(pack.traits.zero),
                factor: pack.traits.factor,
            },
            tile_bytes: pack.shape.tile_bytes(),
            tiles: pack.shape.tiles(),
            pack,
        })
    }

    pub fn format(&self) -> QuantFormat {
        self.pack.shape.format
    }

    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Rows of the first matrix.
    pub fn rows(&self) -> usize {
        self.pack.shape.n
    }

    /// First byte of a tile.
    ///
    /// # Safety
    /// The pack has it.
    #[inline(always)]
    pub unsafe fn tile(&self, i: usize) -> *const u8 {
        // SAFETY: the caller promises it.
        unsafe { self.w.add(i * self.tile_bytes) }
    }

    /// Sums per 32 k, and whether there are minima.
    fn kind(&self) -> (usize, bool) {
        with_layout!(self.pack.shape.format, K, {
            (
                <K as Layout>::Scales::SUBS,
                <<K as Layout>::Scales as Scales>::MINS,
            )
        })
    }
}

/// Where the rows of a product go.
pub(super) enum To {
    /// One after the other from row 0 of y on.
    Rows(Output),
    /// Row `i` of the product to row `rows[i].1` of output `rows[i].0`.
    Each(Vec<Output>, Vec<(usize, usize)>),
}

/// One matrix of weights and the rows of x that it multiplies.
pub(super) struct Job {
    pub part: usize,
    /// Which of the part's matrices.
    pub matrix: usize,
    /// Rows of x.
    pub rows: Range<usize>,
    pub to: To,
}

/// x as rows of `k`.
pub(super) struct Rows<'a> {
    pub x: Floats,
    pub k: usize,
    pub count: usize,
    /// First element of each.
    pub at: &'a (dyn Fn(usize) -> usize + Sync),
}

/// How x is multiplied.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mode {
    Q8,
    F32,
}

/// Some tiles of one matrix by some strips.
struct Task {
    job: usize,
    tile: usize,
    tiles: usize,
    strips: Range<usize>,
}

/// x in the form that the kernels read.
#[derive(Clone, Copy)]
enum X<'a> {
    Q8(&'a Acts),
    /// Rows and their stride.
    F32(Shared<f32>, usize),
}

/// Runs products of one x.
///
/// # Safety
/// `fits` accepted the op at this level; its operands are alive and nobody else touches them.
pub(super) unsafe fn run(
    ctx: &Ctx,
    x: &Rows<'_>,
    parts: &[Part],
    jobs: &[Job],
    mode: Mode,
    level: Level,
) {
    // Up to this many rows are one strip. Wide tasks make long streams, narrow ones share panels
    // among rows.
    let few = match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 if mode == Mode::Q8 => FEW,
        _ => ROWS,
    };
    // Strips of each job. Jobs that share rows share them.
    let (mut strips, mut slot) = (Vec::new(), 0);
    let mut known: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    let cuts: Vec<Range<usize>> = jobs
        .iter()
        .map(|job| {
            if let Some((_, cut)) = known.iter().find(|(rows, _)| *rows == job.rows) {
                return cut.clone();
            }
            let start = strips.len();
            match mode {
                Mode::Q8 => {
                    let rows = job.rows.len();
                    let most = if few == 2 * ROWS && rows > ROWS && rows <= few {
                        few
                    } else {
                        ROWS
                    };
                    cut(job.rows.clone(), most, &mut slot, &mut strips);
                }
                Mode::F32 => strips.push(Place {
                    first: job.rows.start,
                    count: job.rows.len(),
                    rows: job.rows.len(),
                    slot: job.rows.start,
                }),
            }
            known.push((job.rows.clone(), start..strips.len()));
            start..strips.len()
        })
        .collect();
    let tasks = tasks(parts, jobs, &cuts, few, mode, ctx.pool.threads());
    let weights: usize = jobs.iter().map(|j| parts[j.part].tiles * TILE * x.k).sum();
    let products: usize = jobs
        .iter()
        .map(|j| parts[j.part].tiles * TILE * x.k * j.rows.len())
        .sum();
    // Guesses: eight weights per nanosecond streamed, and so many products.
    let nanoseconds = weights / 8 + products / if mode == Mode::Q8 { 200 } else { 60 };
    ACTS.with_borrow_mut(|(acts, wide)| {
        // SAFETY: rows of x; `fits` saw the features.
        let acts = unsafe {
            match mode {
                Mode::Q8 => {
                    let needs = needs(parts);
                    acts.fill(&ctx.pool, x.x, x.k, x.at, &strips, &needs);
                    X::Q8(acts)
                }
                Mode::F32 => widen(ctx, x, wide),
            }
        };
        ctx.pool.parallel(tasks.len(), nanoseconds as u64, |range| {
            SCRATCH.with_borrow_mut(|scratch| {
                for task in &tasks[range] {
                    let job = &jobs[task.job];
                    let part = &parts[job.part];
                    let work = Work {
                        task,
                        job,
                        part,
                        strips: &strips[task.strips.clone()],
                    };
                    let run: Run<'_> = with_layout!(part.pack.shape.format, K, {
                        match level {
                            #[cfg(target_arch = "x86_64")]
                            Level::Avx512 => Work::avx512::<K>,
                            #[cfg(target_arch = "x86_64")]
                            Level::Avx2 => Work::avx2::<K>,
                            #[cfg(target_arch = "aarch64")]
                            Level::Neon => Work::neon::<K>,
                            #[cfg(target_arch = "aarch64")]
                            Level::Dotprod => Work::dotprod::<K>,
                        }
                    });
                    // SAFETY: `fits` saw the instruction sets; tasks are disjoint parts of the
                    // results.
                    unsafe { run(&work, acts, scratch) };
                }
            });
        });
    });
}

/// What the layouts need of the rounded x.
fn needs(parts: &[Part]) -> Needs {
    let mut needs = Needs::default();
    for part in parts {
        let (subs, mins) = part.kind();
        needs.sums[subs - 1] |= mins;
        let zero = (part.pack.traits.zero, subs);
        if zero.0 != 0 && !needs.zeros.contains(&zero) {
            needs.zeros.push(zero);
        }
    }
    needs
}

/// x as f32, with zeros up to whole units.
///
/// # Safety
/// The rows exist; the CPU has the features of its level.
unsafe fn widen<'a>(ctx: &Ctx, x: &Rows<'_>, wide: &mut Vec<f32>) -> X<'a> {
    let step = x.k.next_multiple_of(exact::KC);
    if wide.len() < x.count * step {
        wide.resize(x.count * step, 0.0);
    }
    let out = Shared(wide.as_mut_ptr());
    ctx.pool
        .parallel(x.count, (x.count * step) as u64 / 4, |range| {
            let out = &out;
            for row in range {
                // SAFETY: a row of x and one of `wide`.
                unsafe {
                    let to = out.0.add(row * step);
                    to_f32(x.x, (x.at)(row), x.k, to);
                    std::slice::from_raw_parts_mut(to.add(x.k), step - x.k).fill(0.0);
                }
            }
        });
    X::F32(out, step)
}

/// Splits the products into tasks of about equal work, enough for all threads.
fn tasks(
    parts: &[Part],
    jobs: &[Job],
    cuts: &[Range<usize>],
    few: usize,
    mode: Mode,
    threads: usize,
) -> Vec<Task> {
    let total: usize = jobs.iter().map(|j| parts[j.part].tiles).sum();
    // Streams: a few tasks per thread, each of pairs of tiles.
    let stream = total.div_ceil(threads * 4).clamp(2, 64).next_multiple_of(2);
    // Panels: the rows of x are split too where there are few columns.
    let pieces = (threads * 4).div_ceil(total.div_ceil(2).max(1));
    let mut out = Vec::new();
    for (i, (job, cut)) in jobs.iter().zip(cuts).enumerate() {
        let tiles = parts[job.part].tiles;
        let columns = if job.rows.len() <= few { stream } else { 2 };
        let rows = if mode == Mode::F32 || job.rows.len() <= few {
            cut.len()
        } else {
            cut.len().div_ceil(pieces)
        };
        for tile in (0..tiles).step_by(columns) {
            for strip in cut.clone().step_by(rows.max(1)) {
                out.push(Task {
                    job: i,
                    tile,
                    tiles: columns.min(tiles - tile),
                    strips: strip..cut.end.min(strip + rows),
                });
            }
        }
    }
    out
}

/// Runs a task with the kernels of one layout and tier.
type Run<'w> = unsafe fn(&Work<'w>, X<'_>, &mut Scratch);

/// A task and what it works on.
struct Work<'a> {
    task: &'a Task,
    job: &'a Job,
    part: &'a Part,
    strips: &'a [Place],
}

/// Sums of a task: rows of the strips, zero rows among them, `step` apart.
#[derive(Clone, Copy)]
struct Sums {
    c: *mut f32,
    step: usize,
}

impl Work<'_> {
    /// # Safety
    /// The operands of the op are alive and the CPU has the instruction sets; so for all that
    /// follow.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    unsafe fn avx512<K: Layout>(&self, x: X<'_>, scratch: &mut Scratch) {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let sums = match x {
                X::Q8(acts) => self.q8::<Avx512, K, 2>(acts, scratch),
                X::F32(x, step) => self.f32::<simd::Avx512, Avx512, K, 2>(x.0, step, scratch),
            };
            self.finish::<simd::Avx512>(sums);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn avx2<K: Layout>(&self, x: X<'_>, scratch: &mut Scratch) {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            let sums = match x {
                X::Q8(acts) => self.q8::<Avx2, K, 1>(acts, scratch),
                X::F32(x, step) => self.f32::<simd::Avx2, Avx2, K, 1>(x.0, step, scratch),
            };
            self.finish::<simd::Avx2>(sums);
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon")]
    unsafe fn neon<K: Layout>(&self, x: X<'_>, scratch: &mut Scratch) {
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
    unsafe fn dotprod<K: Layout>(&self, x: X<'_>, scratch: &mut Scratch) {
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
    unsafe fn finish<S: Simd>(&self, sums: Sums) {
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
    unsafe fn tile(&self, i: usize) -> *const u8 {
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
                            let (mut ws, mut cs) = ([self.part.w; C], [c; C]);
                            for j in 0..C {
                                let c = c.add((strip.slot - strips[0].slot) * step);
                                ws[j] = self.tile(i + j * per).add(u * K::BYTES);
                                cs[j] = c.add((i + j * per) * TILE);
                            }
                            if strip.rows == 1 {
                                tile::<L, K, 1, C, true>(ws, x, some, p, cs, step);
                            } else if strip.rows == 2 * ROWS {
                                for j in 0..C {
                                    tile::<L, K, 8, 1, true>([ws[j]], x, some, p, [cs[j]], step);
                                }
                            } else {
                                tile::<L, K, ROWS, C, true>(ws, x, some, p, cs, step);
                            }
                        }
                    }
                }
                return Sums { c, step };
            }
            let step = task.tiles.next_multiple_of(C) * TILE;
            let panel_bytes = KC / BLOCK * <K::Panel as Layout>::BYTES;
            let c = zeros(scratch, rows * step, C * panel_bytes / 4);
            let panel = c.add(rows * step).cast::<u8>();
            let chunk = KC / K::Scales::UNIT;
            for first in (0..task.tiles).step_by(C) {
                for u in (0..units).step_by(chunk) {
                    let some = chunk.min(units - u);
                    for j in 0..C {
                        let from = self.tile(first + j).add(u * K::BYTES);
                        let next = if u + some < units {
                            from.wrapping_add(some * K::BYTES)
                        } else {
                            self.tile(first + C + j)
                        };
                        unpack::<L, K>(from, next, some, p, panel.add(j * panel_bytes));
                    }
                    let blocks = some * K::Scales::UNIT / BLOCK;
                    for (strip, x) in strips.iter().zip(&xs) {
                        let x = x.at(u * K::Scales::UNIT, strip.rows, subs);
                        let c = c.add((strip.slot - strips[0].slot) * step + first * TILE);
                        L::panels::<K::Panel>(panel, x, strip.rows, blocks, c, step);
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

/// No table and no factor: panels hold levels and whole scales.
const PANEL: Params = Params {
    table: [0; 16],
    zero: 0.0,
    factor: 1.0,
};

/// A strip by two panels, [`KC`] k apart.
///
/// # Safety
/// As for [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn panels_avx512<P: Layout>(
    w: *const u8,
    x: Strip,
    rows: usize,
    blocks: usize,
    c: *mut f32,
    step: usize,
) {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        let (w, c) = ([w, w.add(KC / BLOCK * P::BYTES)], [c, c.add(TILE)]);
        match rows {
            1 => tile::<Avx512, P, 1, 2, false>(w, x, blocks, &PANEL, c, step),
            _ => tile::<Avx512, P, ROWS, 2, false>(w, x, blocks, &PANEL, c, step),
        }
    }
}

/// A strip by a panel.
///
/// # Safety
/// As for [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn panels_avx2<P: Layout>(
    w: *const u8,
    x: Strip,
    rows: usize,
    blocks: usize,
    c: *mut f32,
    step: usize,
) {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match rows {
            1 => tile::<Avx2, P, 1, 1, false>([w], x, blocks, &PANEL, [c], step),
            _ => tile::<Avx2, P, ROWS, 1, false>([w], x, blocks, &PANEL, [c], step),
        }
    }
}

/// A strip by a panel.
///
/// # Safety
/// As for [`tile`].
#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn panel_of<D: Dots, P: Layout>(
    w: *const u8,
    x: Strip,
    rows: usize,
    blocks: usize,
    c: *mut f32,
    step: usize,
) {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match rows {
            1 => tile::<Four<D>, P, 1, 1, false>([w], x, blocks, &PANEL, [c], step),
            _ => tile::<Four<D>, P, ROWS, 1, false>([w], x, blocks, &PANEL, [c], step),
        }
    }
}

#[cfg(target_arch = "aarch64")]
macro_rules! panels {
    ($name:ident, $dots:ty, $features:literal) => {
        /// A strip by a panel.
        ///
        /// # Safety
        /// As for [`tile`].
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<P: Layout>(
            w: *const u8,
            x: Strip,
            rows: usize,
            blocks: usize,
            c: *mut f32,
            step: usize,
        ) {
            // SAFETY: the caller's contract is the callee's.
            unsafe { panel_of::<$dots, P>(w, x, rows, blocks, c, step) }
        }
    };
}
#[cfg(target_arch = "aarch64")]
panels!(panels_neon, Widening, "neon");
#[cfg(target_arch = "aarch64")]
panels!(panels_dotprod, Sdot, "neon,dotprod");
