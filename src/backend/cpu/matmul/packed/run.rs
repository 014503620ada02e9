//! One op on packed weights as tasks.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::{
    Pack,
    acts::{Acts, Needs, Place, cut},
    class::TILE,
    class::with_layout,
    exact,
    panel::WIDE,
    task::{Run, Task, Work, X},
    tile::{Params, ROWS, STREAM_ROWS},
};
use crate::{
    Tensor,
    backend::cpu::{
        matmul::simd::{
            Level,
            epilogue::{Floats, Output},
            start, to_f32,
        },
        rows::Ctx,
        simd::{LONG_STREAM, Scratch, Shared},
    },
    error::{Error, Result},
    op::Weight,
    quant::QuantFormat,
};
use std::{cell::RefCell, ops::Range};

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static ACTS: RefCell<(Acts, Vec<f32>, Scratch)> = RefCell::default();
}

/// The weights of a product.
pub(super) struct Part {
    w: *const u8,
    pub pack: Pack,
    pub params: Params,
    /// Bytes of a tile, tiles of a matrix.
    tile_bytes: usize,
    pub tiles: usize,
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

    fn matrix_bytes(&self) -> usize {
        self.tiles * self.tile_bytes
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
    /// Both sides in bf16, as panels of AMX.
    #[cfg(target_arch = "x86_64")]
    Bf16,
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
    // Up to this many rows are one strip, or two of AVX-512. Wide tasks make long streams, narrow
    // ones share panels among rows.
    let few = match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Bits if mode == Mode::Q8 => 2 * STREAM_ROWS,
        _ => ROWS,
    };
    let avx512 = few > ROWS;
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
                    let streams = (ROWS + 1..=few).contains(&job.rows.len());
                    let most = if streams { STREAM_ROWS } else { ROWS };
                    cut(job.rows.clone(), most, &mut slot, &mut strips);
                }
                #[cfg(target_arch = "x86_64")]
                Mode::Bf16 => amx::cut(job.rows.clone(), &mut strips),
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
    let nanoseconds = weights / 8
        + match mode {
            Mode::Q8 => products / 200,
            Mode::F32 => products / 60,
            #[cfg(target_arch = "x86_64")]
            Mode::Bf16 => products / 1000,
        };
    ACTS.with_borrow_mut(|(acts, wide, lines)| {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = lines;
        // SAFETY: rows of x; `fits` saw the features.
        let acts = unsafe {
            match mode {
                Mode::Q8 => {
                    let needs = needs(parts);
                    acts.fill(&ctx.pool, avx512, x.x, x.k, x.at, &strips, &needs);
                    X::Q8(acts)
                }
                Mode::F32 => widen(ctx, x, wide),
                #[cfg(target_arch = "x86_64")]
                Mode::Bf16 => amx::lines(&ctx.pool, x, &strips, lines),
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
                            Level::Amx => Work::amx::<K>,
                            #[cfg(target_arch = "x86_64")]
                            Level::Avx512 => Work::avx512::<K>,
                            #[cfg(target_arch = "x86_64")]
                            Level::Avx512Bits => Work::avx512bits::<K>,
                            #[cfg(target_arch = "x86_64")]
                            Level::AvxVnni => Work::avxvnni::<K>,
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
    // Streams: a few tasks per thread, each of pairs of tiles and long enough that its start, when
    // nothing has been asked for yet, does not count.
    let bytes: usize = jobs.iter().map(|j| parts[j.part].matrix_bytes()).sum();
    let each = (bytes / threads / LONG_STREAM).clamp(1, 4);
    let stream = total
        .div_ceil(threads * each)
        .clamp(2, 64)
        .next_multiple_of(2);
    // Panels: as many as multiply at once, one task for each; the rows of x are split too where
    // there are few columns.
    let side = |job: &Job| {
        if few > ROWS {
            WIDE[parts[job.part].kind().0 - 1]
        } else {
            2
        }
    };
    let columns: usize = jobs
        .iter()
        .map(|j| parts[j.part].tiles.div_ceil(side(j)))
        .sum();
    let pieces = (threads * 4).div_ceil(columns.max(1));
    // Tiles and strips of a task of each job.
    let shapes = jobs.iter().zip(cuts).map(|(job, cut)| match mode {
        #[cfg(target_arch = "x86_64")]
        Mode::Bf16 => amx::task(total, cut.len(), threads),
        _ if job.rows.len() <= few => (stream, cut.len().max(1)),
        Mode::F32 => (2, cut.len().max(1)),
        Mode::Q8 => (side(job), cut.len().div_ceil(pieces).max(1)),
    });
    let shapes: Vec<(usize, usize)> = shapes.collect();
    // By rows first: the threads of a pool then have rows of x of their own, as far as there are
    // parts of them.
    let row_parts = cuts.iter().zip(&shapes).map(|(c, s)| c.len().div_ceil(s.1));
    let mut out = Vec::new();
    for part in 0..row_parts.max().unwrap_or(0) {
        for (i, (cut, &(columns, rows))) in cuts.iter().zip(&shapes).enumerate() {
            let first = cut.start + part * rows;
            if first >= cut.end {
                continue;
            }
            let tiles = parts[jobs[i].part].tiles;
            let mut tile = 0;
            while tile < tiles {
                // Three panels and one take longer than two and two. Other tasks are of pairs.
                let left = tiles - tile;
                let some = if (columns, left) == (WIDE[0], WIDE[0] + 1) {
                    left / 2
                } else {
                    columns.min(left)
                };
                out.push(Task {
                    job: i,
                    tile,
                    tiles: some,
                    strips: first..cut.end.min(first + rows),
                });
                tile += some;
            }
        }
    }
    out
}
