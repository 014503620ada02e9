//! Matrix products by vectors from rows of weights as they are: how one op becomes tasks.

#[cfg(target_arch = "x86_64")]
mod codes;
pub(in crate::backend::cpu) mod epilogue;
pub(in crate::backend::cpu) mod f32_gemm;
mod product;
#[cfg(target_arch = "x86_64")]
mod q8_gemm;
#[cfg(target_arch = "x86_64")]
mod q8_gemv;
#[cfg(target_arch = "x86_64")]
pub(in crate::backend::cpu::matmul) mod q8_rows;
mod rows;

#[cfg(target_arch = "x86_64")]
use self::{
    codes::with_codes,
    q8_gemv::{ByAvx2, ByPairs, BySupers},
    q8_rows::{Q8Rows, RowsPtr, quantize},
};
use self::{
    epilogue::Floats,
    f32_gemm::{Blocks, Plain},
};
#[cfg(target_arch = "aarch64")]
use crate::backend::cpu::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd::{Avx2, Avx512};
use crate::backend::cpu::{
    rows::Ctx,
    simd::{Eight, Scratch, Shared, Simd},
};
#[cfg(target_arch = "x86_64")]
use crate::quant::QuantFormat;
use crate::{DType, Element, Tensor, error::Result, op::MatMul};
use half::{bf16, f16};
use std::{cell::RefCell, marker::PhantomData};

pub(in crate::backend::cpu::matmul) use product::{Product, Xs, floats, product, start};
pub(crate) use rows::ROWS;
pub(in crate::backend::cpu::matmul) use rows::fits_operands;

/// Some columns (and rows) of one matrix.
struct Task {
    product: usize,
    batch: usize,
    n0: usize,
    n: usize,
    m0: usize,
    m: usize,
}

/// How x is read by the kernels.
#[derive(Clone, Copy)]
enum Acts {
    #[cfg(target_arch = "x86_64")]
    Q8(RowsPtr),
    /// f32 rows and their stride.
    F32(Shared<f32>, usize),
}

/// Which kernels run.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::backend::cpu::matmul) enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// For products of bytes.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// For products of bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512Bits,
    /// For many rows by packed weights.
    #[cfg(target_arch = "x86_64")]
    Amx,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// For products of bytes.
    #[cfg(target_arch = "aarch64")]
    Dotprod,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    /// Rows of x as f32.
    static XS: RefCell<Vec<f32>> = RefCell::default();
}
#[cfg(target_arch = "x86_64")]
thread_local! {
    /// Rows of x in 8 bits.
    static BYTES: RefCell<Q8Rows> = RefCell::default();
}

/// Splits the products into tasks of about equal work, enough for all threads.
fn tasks(products: &[Product], m: usize, width: usize, threads: usize) -> Vec<Task> {
    let total: usize = products.iter().map(|p| p.n * p.batches.len()).sum();
    let mut out = Vec::new();
    for (product, p) in products.iter().enumerate() {
        let (columns, rows) = if m <= MAX_M {
            // Streamed rows: a few tasks per thread, each of whole groups of rows.
            let n = total.div_ceil(threads * 4).next_multiple_of(8).min(1024);
            (n.max(8), m)
        } else {
            // Panels: split the rows of x too where there are few columns.
            let panels = total.div_ceil(width);
            let parts = (threads * 3).div_ceil(panels.max(1));
            (
                width,
                if panels >= threads * 3 {
                    m
                } else {
                    m.div_ceil(parts).next_multiple_of(12)
                },
            )
        };
        for batch in 0..p.batches.len() {
            for n0 in (0..p.n).step_by(columns) {
                for m0 in (0..m).step_by(rows) {
                    let (n, m) = (columns.min(p.n - n0), rows.min(m - m0));
                    out.push(Task {
                        product,
                        batch,
                        n0,
                        n,
                        m0,
                        m,
                    });
                }
            }
        }
    }
    out
}

/// Most rows of x that are multiplied without unpacking panels.
pub(in crate::backend::cpu::matmul) const MAX_M: usize = 4;
const _: () = assert!(MAX_M == f32_gemm::MAX_M);
#[cfg(target_arch = "x86_64")]
const _: () = assert!(MAX_M == q8_gemv::MAX_M);

impl Task {
    /// Computes it.
    ///
    /// # Safety
    /// The operands of the op are alive and the CPU has the features of `S`.
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, p: &Product, x: Acts, scratch: &mut Scratch) {
        let width = 2 * S::LANES;
        let batch = &p.batches[self.batch];
        let (m, n, k, stride) = (self.m, self.n, p.k, p.w_stride);
        let row = batch.x_row + self.m0;
        // Sums, then the panel (codes are bytes), then scales or decoded rows.
        let ld = if m <= MAX_M { n } else { width };
        let sums = (m * ld).next_multiple_of(16);
        let panel = f32_gemm::KC * width;
        let rest = f32_gemm::KC * 8;
        #[cfg(target_arch = "x86_64")]
        let rest = rest.max(q8_gemm::panel_scales(width));
        let c = scratch.take(sums + panel + rest);
        // SAFETY: rows and columns of the task exist; the scratch has room as computed.
        unsafe {
            let panel_at = c.add(sums);
            let rest_at = panel_at.add(panel);
            let w = p.w.add(batch.w + self.n0 * stride);
            match x {
                #[cfg(target_arch = "x86_64")]
                Acts::Q8(x) => {
                    let (x, panel) = (x.at(row, 0), panel_at.cast());
                    q8::<S>(x, m, w, p.element, stride, n, k, panel, rest_at, c, ld);
                }
                Acts::F32(x, step) => {
                    let x = x.0.add(row * step).cast_const();
                    float::<S>(
                        x, step, m, w, p.element, stride, n, k, panel_at, rest_at, c, ld,
                    );
                }
            }
            batch.out.finish::<S>(c, ld, self.m0, m, self.n0, n);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn q8<S: Simd>(
    x: RowsPtr,
    m: usize,
    w: *const u8,
    element: Element,
    stride: usize,
    n: usize,
    k: usize,
    panel: *mut u8,
    scales: *mut f32,
    c: *mut f32,
    ld: usize,
) {
    let Element::Quant(format) = element else {
        return;
    };
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        if m > MAX_M {
            macro_rules! run {
                ($f:ty) => {
                    q8_gemm::columns::<S, $f>(x, m, w, stride, n, k, panel, scales, c)
                };
            }
            with_codes!(format, run, ());
        } else if S::LANES == Avx512::LANES {
            match format {
                QuantFormat::Q4_0 => {
                    q8_gemv::gemv::<ByPairs<codes::Q4_0>>(x, m, w, stride, n, k, c, ld)
                }
                QuantFormat::Q4_1 => {
                    q8_gemv::gemv::<ByPairs<codes::Q4_1>>(x, m, w, stride, n, k, c, ld)
                }
                QuantFormat::Q5_0 => {
                    q8_gemv::gemv::<ByPairs<codes::Q5_0>>(x, m, w, stride, n, k, c, ld)
                }
                QuantFormat::Q8_0 => {
                    q8_gemv::gemv::<ByPairs<codes::Q8_0>>(x, m, w, stride, n, k, c, ld)
                }
                QuantFormat::Q4_K => {
                    q8_gemv::gemv::<BySupers<codes::Q4K>>(x, m, w, stride, n, k, c, ld)
                }
                QuantFormat::Q6_K => {
                    q8_gemv::gemv::<BySupers<codes::Q6K>>(x, m, w, stride, n, k, c, ld)
                }
                _ => {}
            }
        } else {
            macro_rules! run {
                ($f:ty) => {
                    q8_gemv::gemv::<ByAvx2<$f>>(x, m, w, stride, n, k, c, ld)
                };
            }
            with_codes!(format, run, ());
        }
    }
}

#[inline(always)]
unsafe fn float<S: Simd>(
    x: *const f32,
    x_stride: usize,
    m: usize,
    w: *const u8,
    element: Element,
    stride: usize,
    n: usize,
    k: usize,
    panel: *mut f32,
    buffer: *mut f32,
    c: *mut f32,
    ld: usize,
) {
    macro_rules! run {
        ($source:expr) => {
            if m > MAX_M {
                f32_gemm::columns::<S, _>(
                    $source, x, x_stride, m, w, stride, n, k, panel, buffer, c,
                )
            } else {
                f32_gemm::gemv::<S, _>($source, x, x_stride, m, w, stride, n, k, buffer, c, ld)
            }
        };
    }
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match element {
            Element::Plain(DType::F32) => run!(Plain::<f32>(PhantomData)),
            Element::Plain(DType::F16) => run!(Plain::<f16>(PhantomData)),
            Element::Plain(DType::BF16) => run!(Plain::<bf16>(PhantomData)),
            Element::Quant(format) => run!(Blocks(format)),
            Element::Plain(_) => {}
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn task_avx2(task: &Task, p: &Product, x: Acts, scratch: &mut Scratch) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { task.run::<Avx2>(p, x, scratch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn task_avx512(task: &Task, p: &Product, x: Acts, scratch: &mut Scratch) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { task.run::<Avx512>(p, x, scratch) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn task_neon(task: &Task, p: &Product, x: Acts, scratch: &mut Scratch) {
    // SAFETY: the caller's contract is the callee's.
    unsafe { task.run::<Neon>(p, x, scratch) }
}

/// f32 values of `k` elements.
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
pub(in crate::backend::cpu::matmul) unsafe fn to_f32(
    x: Floats,
    at: usize,
    k: usize,
    out: *mut f32,
) {
    // SAFETY: the caller promises k elements at both places.
    unsafe {
        let mut i = 0;
        while i < k {
            let n = (k - i).min(8);
            Eight::store_n(out.add(i), n, x.load::<Eight>(at + i, n));
            i += n;
        }
    }
}

/// Rounds `rows` rows of `k` numbers of x, which start at the elements `place`.
///
/// # Safety
/// The rows exist; the CPU has AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
unsafe fn rounded(
    ctx: &Ctx,
    x: Floats,
    rows: usize,
    k: usize,
    place: &(dyn Fn(usize) -> usize + Sync),
    bytes: &mut Q8Rows,
) -> RowsPtr {
    bytes.resize(rows, k);
    let out = bytes.rows();
    ctx.pool.parallel(rows, (rows * k) as u64 / 4, |range| {
        let x = &x;
        for row in range {
            // SAFETY: a row of x and one of `bytes`; the caller saw AVX2.
            unsafe {
                let (at, size) = (place(row), x.dtype.size());
                let from = x.start.add(at * size);
                match x.dtype {
                    DType::F16 => quantize(from.cast::<f16>(), k, row, out),
                    DType::BF16 => quantize(from.cast::<bf16>(), k, row, out),
                    _ => quantize(from.cast::<f32>(), k, row, out),
                }
            }
        }
    });
    out
}

/// Runs products that share x.
unsafe fn run(ctx: &Ctx, ops: &[MatMul<Tensor>], q8: bool, level: Level) -> Result<()> {
    let Some(first) = ops.first() else {
        return Ok(());
    };
    let x = floats(&first.x)?;
    let xs = Xs::new(&first.x.desc());
    let products = ops
        .iter()
        .map(|op| product(op, &op.w.tensor().desc(), ctx.env.isa))
        .collect::<Result<Vec<_>>>()?;
    let (m, k) = (xs.m, xs.k);
    let rows = xs.starts.len() * m;
    let width = match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Bits | Level::Amx => 32,
        _ => 16,
    };
    let tasks = tasks(&products, m, width, ctx.pool.threads());
    let work: usize = products.iter().map(|p| p.n * p.batches.len() * k).sum();
    // Guesses: four weights per nanosecond streamed, 64 products in panels.
    let nanoseconds = if m <= MAX_M { work / 16 } else { work * m / 64 };
    let place = |row: usize| xs.starts[row / m.max(1)] + row % m.max(1) * xs.stride;
    let multiply = |acts: Acts| {
        ctx.pool.parallel(tasks.len(), nanoseconds as u64, |range| {
            SCRATCH.with_borrow_mut(|scratch| {
                for task in &tasks[range] {
                    let p = &products[task.product];
                    // SAFETY: `fits` saw the instruction sets; tasks are disjoint parts of the
                    // results.
                    unsafe {
                        match level {
                            #[cfg(target_arch = "x86_64")]
                            Level::Avx2 | Level::AvxVnni => task_avx2(task, p, acts, scratch),
                            #[cfg(target_arch = "x86_64")]
                            Level::Avx512 | Level::Avx512Bits | Level::Amx => {
                                task_avx512(task, p, acts, scratch)
                            }
                            #[cfg(target_arch = "aarch64")]
                            _ => task_neon(task, p, acts, scratch),
                        }
                    }
                }
            });
        });
    };
    #[cfg(target_arch = "x86_64")]
    if q8 {
        BYTES.with_borrow_mut(|bytes| {
            // SAFETY: rows of x; `fits` saw AVX2.
            let rows = unsafe { rounded(ctx, x, rows, k, &place, bytes) };
            multiply(Acts::Q8(rows));
        });
        return Ok(());
    }
    #[cfg(not(target_arch = "x86_64"))]
    debug_assert!(!q8);
    XS.with_borrow_mut(|wide| {
        let acts = if x.dtype == DType::F32 && xs.starts.len() == 1 {
            Acts::F32(Shared(x.start.cast()), xs.stride)
        } else {
            wide.resize(rows * k, 0.0);
            let out = Shared(wide.as_mut_ptr());
            ctx.pool.parallel(rows, (rows * k) as u64 / 4, |range| {
                let out = &out;
                for row in range {
                    // SAFETY: a row of x and one of `wide`; `fits` saw the features.
                    unsafe { to_f32(x, place(row), k, out.0.add(row * k)) }
                }
            });
            Acts::F32(out, k)
        };
        multiply(acts);
    });
    Ok(())
}

#[cfg(all(test, feature = "conformance"))]
mod tests;
