//! Matrix products by vectors: the table rows, and how one op becomes tasks.

#[cfg(target_arch = "x86_64")]
mod codes;
pub(in crate::backend::cpu) mod epilogue;
pub(in crate::backend::cpu) mod f32_gemm;
#[cfg(target_arch = "x86_64")]
mod q8_gemm;
#[cfg(target_arch = "x86_64")]
mod q8_gemv;
#[cfg(target_arch = "x86_64")]
pub(in crate::backend::cpu::matmul) mod q8_rows;

#[cfg(target_arch = "x86_64")]
use self::{
    codes::with_codes,
    q8_gemv::{ByAvx2, ByPairs, BySupers},
    q8_rows::{Q8Rows, RowsPtr, quantize},
};
use self::{
    epilogue::{Floats, Matrix, Output, is_simd_float},
    f32_gemm::{Blocks, Plain},
};
#[cfg(target_arch = "aarch64")]
use crate::backend::cpu::simd::Neon;
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::simd::{Avx2, Avx512};
use crate::backend::cpu::{
    isa::Isa,
    rows::{Ctx, Env, Row},
    simd::{Eight, Scratch, Shared, Simd},
    view::Dst,
};
use crate::{
    DType, Element, KernelId, Op, Quality, Tensor, TensorDesc,
    error::{Error, Refusal, Result},
    op::{Act, Epilogue, MatMul, OpKind, Weight},
};
#[cfg(target_arch = "x86_64")]
use crate::{Precision, quant::QuantFormat};
use half::{bf16, f16};
use std::{cell::RefCell, marker::PhantomData};

/// One product of an op, batch by batch.
pub(in crate::backend::cpu::matmul) struct Product {
    pub w: *const u8,
    pub element: Element,
    /// Bytes from row to row.
    pub w_stride: usize,
    pub n: usize,
    pub k: usize,
    pub batches: Vec<Batch>,
}

/// One matrix of a product.
pub(in crate::backend::cpu::matmul) struct Batch {
    /// Bytes.
    pub w: usize,
    /// First row of x, counted in rows of the converted x.
    pub x_row: usize,
    pub out: Output,
}

/// Some columns (and rows) of one matrix.
struct Task {
    product: usize,
    batch: usize,
    n0: usize,
    n: usize,
    m0: usize,
    m: usize,
}

// SAFETY: the pointers lead into operands that the op keeps alive; tasks write parts of their own.
unsafe impl Sync for Product {}
// SAFETY: as above.
unsafe impl Send for Product {}

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
    #[cfg(target_arch = "x86_64")]
    Avx512,
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

/// First byte of a tensor's first cell.
pub(in crate::backend::cpu::matmul) fn start(t: &Tensor) -> Result<*mut u8> {
    Ok(Dst::of(t)?.ptr())
}

pub(in crate::backend::cpu::matmul) fn plain(t: &Tensor) -> Result<DType> {
    t.desc()
        .plain()
        .ok_or_else(|| Error::InvalidTensor("expected a plain type".into()))
}

pub(in crate::backend::cpu::matmul) fn floats(t: &Tensor) -> Result<Floats> {
    Ok(Floats {
        start: start(t)?,
        dtype: plain(t)?,
    })
}

/// Strides in cells of the batch axes of `t`, aligned at the back with those of `y`; 0 where
/// `t` is broadcast.
pub(in crate::backend::cpu::matmul) fn batch_strides(t: &TensorDesc, y: &TensorDesc) -> Vec<usize> {
    let axes = y.rank() - 2;
    (0..axes)
        .map(|axis| {
            let back = y.rank() - 1 - axis;
            if back >= t.rank() || t.dim_back(back) == 1 {
                0
            } else {
                t.stride_back(back) as usize
            }
        })
        .collect()
}

/// Cells from the start to matrix `b` of y's batches.
pub(in crate::backend::cpu::matmul) fn batch_offset(
    strides: &[usize],
    y: &TensorDesc,
    mut b: usize,
) -> usize {
    let mut at = 0;
    for (axis, stride) in strides.iter().enumerate().rev() {
        let len = y.dim(axis) as usize;
        at += b % len * stride;
        b /= len;
    }
    at
}

/// The matrices of x in memory, each once: rows, and where each of y's batches finds its x.
pub(in crate::backend::cpu::matmul) struct Xs {
    /// First elements, one per matrix.
    pub starts: Vec<usize>,
    pub stride: usize,
    pub m: usize,
    pub k: usize,
}

impl Xs {
    pub fn new(x: &TensorDesc) -> Xs {
        let m = x.dim_back(1) as usize;
        let matrices: usize = (0..x.rank() - 2).map(|a| x.dim(a) as usize).product();
        let strides: Vec<usize> = (0..x.rank() - 2)
            .map(|a| {
                if x.dim(a) == 1 {
                    0
                } else {
                    x.strides()[a] as usize
                }
            })
            .collect();
        Xs {
            starts: (0..matrices)
                .map(|b| batch_offset(&strides, x, b))
                .collect(),
            stride: if m == 1 { 0 } else { x.stride_back(1) as usize },
            m,
            k: x.dim_back(0) as usize,
        }
    }
}

/// One product of an op. `w` describes the weights, for a pack those that were packed: offsets of
/// batches count its cells.
pub(in crate::backend::cpu::matmul) fn product(
    op: &MatMul<Tensor>,
    w: &TensorDesc,
    isa: Isa,
) -> Result<Product> {
    let (x, y) = (op.x.desc(), op.y.desc());
    let e = &op.epilogue;
    let batches: usize = (0..y.rank() - 2).map(|a| y.dim(a) as usize).product();
    let m = y.dim_back(1) as usize;
    // Number of x's matrix, from the axes of y that x has.
    let mut step = 1;
    let mut x_steps = vec![0; y.rank() - 2];
    for axis in (0..y.rank() - 2).rev() {
        let back = y.rank() - 1 - axis;
        if back < x.rank() && x.dim_back(back) != 1 {
            x_steps[axis] = step;
            step *= x.dim_back(back) as usize;
        }
    }
    let cell = w.element.block_bytes();
    let w_steps = batch_strides(w, &y);
    let view = |t: &Tensor, b: usize| -> Result<Matrix> {
        let d = t.desc();
        let matrix = Matrix {
            data: floats(t)?,
            stride: d.stride_back(1) as usize,
        };
        // SAFETY: an offset of an element of the tensor.
        Ok(unsafe { matrix.offset(batch_offset(&batch_strides(&d, &y), &y, b)) })
    };
    let out = |b: usize| -> Result<Output> {
        Ok(Output {
            y: view(&op.y, b)?,
            scale: e.scale.unwrap_or(1.0),
            bias: e.bias.as_ref().map(floats).transpose()?,
            act: e.act.unwrap_or(Act::Identity),
            isa,
            gate: e.gate.as_ref().map(|t| view(t, b)).transpose()?,
            residual: e.residual.as_ref().map(|t| view(t, b)).transpose()?,
            accumulate: e.accumulate,
        })
    };
    Ok(Product {
        w: start(op.w.tensor())?,
        element: w.element,
        w_stride: w.stride_back(1) as usize * cell,
        n: y.dim_back(0) as usize,
        k: x.dim_back(0) as usize,
        batches: (0..batches)
            .map(|b| {
                Ok(Batch {
                    w: batch_offset(&w_steps, &y, b) * cell,
                    x_row: batch_offset(&x_steps, &y, b) * m,
                    out: out(b)?,
                })
            })
            .collect::<Result<_>>()?,
    })
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
        Level::Avx512 => 32,
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
                            Level::Avx2 => task_avx2(task, p, acts, scratch),
                            #[cfg(target_arch = "x86_64")]
                            Level::Avx512 => task_avx512(task, p, acts, scratch),
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

/// What all these kernels need of one product.
fn fits(env: &Env, op: &MatMul<TensorDesc>, level: Level) -> Result<(), Refusal> {
    let Weight::Rows(w) = &op.w else {
        return Err(Refusal::Layout {
            arg: "w",
            why: "is not rows [N, K]",
        });
    };
    fits_operands(env, &op.x, &op.y, &op.epilogue, level)?;
    if !(is_simd_float(w.plain()) || w.element.quant().is_some()) {
        return Err(Refusal::Element {
            arg: "w",
            element: w.element,
        });
    }
    rows_of_one_piece("w", w)
}

/// Is the last axis contiguous?
fn rows_of_one_piece(arg: &'static str, t: &TensorDesc) -> Result<(), Refusal> {
    if t.is_row_contiguous() {
        Ok(())
    } else {
        Err(Refusal::Layout {
            arg,
            why: "the last axis is not contiguous",
        })
    }
}

/// What all these kernels need of the instruction sets and of everything but the weights.
pub(in crate::backend::cpu::matmul) fn fits_operands(
    env: &Env,
    x: &TensorDesc,
    y: &TensorDesc,
    epilogue: &Epilogue<TensorDesc>,
    level: Level,
) -> Result<(), Refusal> {
    let (has, name) = match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => (env.isa.avx2, "AVX2, FMA and F16C"),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => (
            env.isa.avx512 && env.isa.avx512_vnni,
            "AVX-512 F, BW, DQ, VL and VNNI",
        ),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => (env.isa.neon, "NEON"),
        #[cfg(target_arch = "aarch64")]
        Level::Dotprod => (env.isa.dotprod, "NEON with DOTPROD"),
    };
    if !has {
        return Err(Refusal::Feature(name));
    }
    let Epilogue {
        bias,
        gate,
        residual,
        ..
    } = epilogue;
    let floats = [
        ("x", Some(x)),
        ("y", Some(y)),
        ("bias", bias.as_ref()),
        ("gate", gate.as_ref()),
        ("residual", residual.as_ref()),
    ];
    for (arg, t) in floats {
        let Some(t) = t else { continue };
        if !is_simd_float(t.plain()) {
            return Err(Refusal::Element {
                arg,
                element: t.element,
            });
        }
        rows_of_one_piece(arg, t)?;
    }
    Ok(())
}

/// Products of 8-bit activations.
#[cfg(target_arch = "x86_64")]
fn fits_q8(env: &Env, op: &MatMul<TensorDesc>, level: Level) -> Result<Quality, Refusal> {
    fits(env, op, level)?;
    if !op.precision.accepts(Precision::Q8) {
        return Err(Refusal::Precision);
    }
    let element = op.w.logical().element;
    if element.quant().is_some_and(codes::has) {
        Ok(Quality::Tuned)
    } else {
        Err(Refusal::Element { arg: "w", element })
    }
}

/// Products in f32.
fn fits_f32(env: &Env, op: &MatMul<TensorDesc>, level: Level) -> Result<Quality, Refusal> {
    fits(env, op, level)?;
    Ok(Quality::Tuned)
}

/// The op as a single product.
pub(in crate::backend::cpu::matmul) fn one<T>(op: &Op<T>) -> Result<&MatMul<T>, Refusal> {
    match op {
        Op::MatMul(op) => Ok(op),
        _ => Err(Refusal::Op),
    }
}

/// Are the weights of `element`, or of any quantized format for `None`?
fn of_element(op: &MatMul<TensorDesc>, element: Option<Element>) -> Result<(), Refusal> {
    let w = op.w.logical().element;
    if element.map_or(w.quant().is_some(), |e| e == w) {
        Ok(())
    } else {
        Err(Refusal::Element {
            arg: "w",
            element: w,
        })
    }
}

unsafe fn run_one(ctx: &Ctx, op: &Op<Tensor>, q8: bool, level: Level) -> Result<()> {
    match op {
        // SAFETY: the caller's contract is the callee's.
        Op::MatMul(op) => unsafe { run(ctx, std::slice::from_ref(op), q8, level) },
        // SAFETY: as above.
        Op::MatMulMany(op) => unsafe { run(ctx, &op.split().collect::<Vec<_>>(), q8, level) },
        _ => Err(Error::Unsupported {
            backend: "cpu".into(),
            op: Some(op.kind()),
            refusal: Refusal::Op,
        }),
    }
}

macro_rules! row {
    ($id:literal, q8 $format:ident, $level:ident) => {
        Row {
            id: KernelId($id),
            op: OpKind::MatMul,
            fits: |env, op| {
                let op = one(op)?;
                of_element(op, Some(Element::Quant(QuantFormat::$format)))?;
                fits_q8(env, op, Level::$level)
            },
            // SAFETY: the caller's contract is the callee's.
            run: |ctx, op| unsafe { run_one(ctx, op, true, Level::$level) },
        }
    };
    ($id:literal, f32 $element:expr, $level:ident) => {
        Row {
            id: KernelId($id),
            op: OpKind::MatMul,
            fits: |env, op| {
                let op = one(op)?;
                of_element(op, $element)?;
                fits_f32(env, op, Level::$level)
            },
            // SAFETY: the caller's contract is the callee's.
            run: |ctx, op| unsafe { run_one(ctx, op, false, Level::$level) },
        }
    };
    ($id:literal, many $fits:ident $q8:literal, $level:ident) => {
        Row {
            id: KernelId($id),
            op: OpKind::MatMulMany,
            fits: |env, op| {
                let Op::MatMulMany(op) = op else {
                    return Err(Refusal::Op);
                };
                for part in op.split() {
                    $fits(env, &part, Level::$level)?;
                }
                Ok(Quality::Tuned)
            },
            // SAFETY: the caller's contract is the callee's.
            run: |ctx, op| unsafe { run_one(ctx, op, $q8, Level::$level) },
        }
    };
}

/// Kernels, best first.
#[cfg(target_arch = "aarch64")]
pub(crate) const ROWS: &[Row] = &[
    row!("cpu-matmul-f32-neon", f32 Some(Element::Plain(DType::F32)), Neon),
    row!("cpu-matmul-f16-neon", f32 Some(Element::Plain(DType::F16)), Neon),
    row!("cpu-matmul-bf16-neon", f32 Some(Element::Plain(DType::BF16)), Neon),
    row!("cpu-matmul-quant-neon", f32 None, Neon),
    row!("cpu-matmul-many-f32-neon", many fits_f32 false, Neon),
];

/// Kernels, best first.
#[cfg(target_arch = "x86_64")]
pub(crate) const ROWS: &[Row] = &[
    row!("cpu-matmul-q4_0-avx512vnni", q8 Q4_0, Avx512),
    row!("cpu-matmul-q4_1-avx512vnni", q8 Q4_1, Avx512),
    row!("cpu-matmul-q5_0-avx512vnni", q8 Q5_0, Avx512),
    row!("cpu-matmul-q8_0-avx512vnni", q8 Q8_0, Avx512),
    row!("cpu-matmul-q4_k-avx512vnni", q8 Q4_K, Avx512),
    row!("cpu-matmul-q6_k-avx512vnni", q8 Q6_K, Avx512),
    row!("cpu-matmul-q4_0-avx2", q8 Q4_0, Avx2),
    row!("cpu-matmul-q4_1-avx2", q8 Q4_1, Avx2),
    row!("cpu-matmul-q5_0-avx2", q8 Q5_0, Avx2),
    row!("cpu-matmul-q8_0-avx2", q8 Q8_0, Avx2),
    row!("cpu-matmul-q4_k-avx2", q8 Q4_K, Avx2),
    row!("cpu-matmul-q6_k-avx2", q8 Q6_K, Avx2),
    row!("cpu-matmul-f32-avx512", f32 Some(Element::Plain(DType::F32)), Avx512),
    row!("cpu-matmul-f16-avx512", f32 Some(Element::Plain(DType::F16)), Avx512),
    row!("cpu-matmul-bf16-avx512", f32 Some(Element::Plain(DType::BF16)), Avx512),
    row!("cpu-matmul-quant-avx512", f32 None, Avx512),
    row!("cpu-matmul-f32-avx2", f32 Some(Element::Plain(DType::F32)), Avx2),
    row!("cpu-matmul-f16-avx2", f32 Some(Element::Plain(DType::F16)), Avx2),
    row!("cpu-matmul-bf16-avx2", f32 Some(Element::Plain(DType::BF16)), Avx2),
    row!("cpu-matmul-quant-avx2", f32 None, Avx2),
    row!("cpu-matmul-many-q8-avx512vnni", many fits_q8 true, Avx512),
    row!("cpu-matmul-many-q8-avx2", many fits_q8 true, Avx2),
    row!("cpu-matmul-many-f32-avx512", many fits_f32 false, Avx512),
    row!("cpu-matmul-many-f32-avx2", many fits_f32 false, Avx2),
];

#[cfg(all(test, feature = "conformance"))]
mod tests;
