//! The kernel for every matmul there is: rows of w become f32 a few at a time and meet all rows
//! of x; or both are i8 and the products are exact.

use super::{epilogue::Finish, tile};
use crate::{
    backend::cpu::{
        convert,
        rows::{Ctx, Env},
        view::{Rows, Src},
    },
    device::Quality,
    element::{DType, Element},
    error::{Refusal, Result},
    layout::TensorDesc,
    op::{GroupedMatMul, MatMul, Op, Routing, Weight},
    tensor::Tensor,
};

/// Rows of w that are f32 at the same time, and how much cache they may take.
const ROWS_OF_W: usize = 16;
const BYTES_OF_W: usize = 256 << 10;
/// Rows of x per task.
const ROWS_OF_X: usize = 256;
/// Rows of x that are multiplied at once.
const TILE: usize = 4;

pub(super) fn fits(_: &Env, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let packed = |w: &Weight<TensorDesc>| matches!(w, Weight::Packed { .. });
    let any = match op {
        Op::MatMul(op) => packed(&op.w),
        Op::MatMulMany(op) => op.parts.iter().any(|p| packed(&p.w)),
        Op::GroupedMatMul(op) => packed(&op.w),
        _ => false,
    };
    if any {
        return Err(Refusal::Layout {
            arg: "w",
            why: "the pack is not of a kernel of this device and its instruction sets",
        });
    }
    Ok(Quality::Portable)
}

/// A stack of matrices `[.., N, K]` with any strides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrices<'a> {
    view: Src<'a>,
    n: usize,
    k: usize,
    /// Bytes between rows and between neighbours of a row (or blocks).
    steps: (usize, usize),
}

impl<'a> Matrices<'a> {
    pub fn of(w: &'a Weight<Tensor>) -> Result<Self> {
        let view = Src::of(w.tensor())?;
        let d = view.desc();
        let rank = d.rank();
        let step = |back: usize| d.stride_bytes(rank - 1 - back) as usize;
        let dim = |back: usize| d.dim_back(back) as usize;
        let (n, k) = if w.is_transposed() { (0, 1) } else { (1, 0) };
        Ok(Matrices {
            view,
            n: dim(n),
            k: dim(k),
            steps: (step(n), step(k)),
        })
    }

    /// Row `row` of the matrix at byte `offset`, as f32.
    ///
    /// # Safety
    /// They are inside the operand, and nobody writes it.
    unsafe fn load(&self, offset: usize, row: usize, out: &mut [f32]) {
        // SAFETY: the caller's condition.
        unsafe {
            let from = self.view.ptr().add(offset + row * self.steps.0);
            match self.view.desc().element {
                Element::Plain(d) => convert::load(d, from, self.steps.1, out),
                Element::Quant(q) => {
                    let bytes = out.len() / q.block_len() * q.block_bytes();
                    convert::decode(q, std::slice::from_raw_parts(from, bytes), out);
                }
            }
        }
    }

    /// As [`Matrices::load`], of i8.
    ///
    /// # Safety
    /// As [`Matrices::load`]; the element is i8.
    unsafe fn load_i8(&self, offset: usize, row: usize, out: &mut [i8]) {
        // SAFETY: the caller's condition.
        unsafe {
            let from = self.view.ptr().add(offset + row * self.steps.0);
            load_i8(from, self.steps.1, out);
        }
    }
}

/// # Safety
/// The cells are readable and nobody writes them.
unsafe fn load_i8(from: *const u8, step: usize, out: &mut [i8]) {
    for (i, o) in out.iter_mut().enumerate() {
        // SAFETY: the caller's condition.
        *o = unsafe { from.add(i * step).cast::<i8>().read() };
    }
}

/// One matrix of w and the rows that it multiplies.
#[derive(Clone, Debug)]
struct Product {
    /// Byte offset of the matrix.
    w: usize,
    /// Where the bias of its first column is.
    bias: usize,
    /// Byte offset in x, row of y.
    rows: Vec<(usize, usize)>,
}

/// Products that share a stack of matrices and an epilogue.
struct Work<'a> {
    w: Matrices<'a>,
    finish: Finish<'a>,
    products: Vec<Product>,
    /// Rows of y without a product.
    zeros: Vec<usize>,
}

impl Work<'_> {
    fn rows_of_w(&self) -> usize {
        (BYTES_OF_W / 4 / self.w.k).clamp(TILE, ROWS_OF_W)
    }

    /// Tasks: product, first row of w, first of the product's rows.
    fn tasks(&self, part: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> + '_ {
        let step = self.rows_of_w();
        self.products
            .iter()
            .enumerate()
            .flat_map(move |(p, product)| {
                (0..product.rows.len())
                    .step_by(ROWS_OF_X)
                    .flat_map(move |first| {
                        (0..self.w.n)
                            .step_by(step)
                            .map(move |n| (part, p, n, first))
                    })
            })
    }

    fn nanoseconds(&self) -> u64 {
        let macs: usize = self.products.iter().map(|p| p.rows.len() + 8).sum();
        (macs as u64).saturating_mul((self.w.n * self.w.k) as u64) / 16
    }
}

pub(super) unsafe fn mat_mul(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::MatMul(op) = op else { return Ok(()) };
    // SAFETY: the queue checked the op and keeps writers away.
    unsafe { run(ctx, Src::of(&op.x)?, vec![dense(ctx, op)?]) };
    Ok(())
}

pub(super) unsafe fn mat_mul_many(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::MatMulMany(op) = op else {
        return Ok(());
    };
    let parts: Vec<MatMul<Tensor>> = op.split().filter(|m| !m.y.desc().is_empty()).collect();
    // SAFETY: the queue checked the op and keeps writers away.
    unsafe {
        let work = parts.iter().map(|m| dense(ctx, m)).collect::<Result<_>>()?;
        run(ctx, Src::of(&op.x)?, work);
    }
    Ok(())
}

pub(super) unsafe fn grouped(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::GroupedMatMul(op) = op else {
        return Ok(());
    };
    // SAFETY: the queue checked the op and keeps writers away.
    unsafe { run(ctx, Src::of(&op.x)?, vec![experts(ctx, op)?]) };
    Ok(())
}

/// The products of a [`MatMul`]: one for each matrix of w, however often batches repeat it.
///
/// # Safety
/// Nobody writes the operands.
unsafe fn dense<'a>(ctx: &Ctx, op: &'a MatMul<Tensor>) -> Result<Work<'a>> {
    let w = Matrices::of(&op.w)?;
    // SAFETY: the caller's condition.
    let finish = unsafe { Finish::of(ctx.env.isa, &op.epilogue, &op.y)? };
    let y = op.y.shape();
    let batch = &y[..y.len() - 2];
    let over = |d: &TensorDesc| -> Result<Rows> {
        let rank = d.rank();
        let mut shape = batch.to_vec();
        shape.extend_from_slice(&d.shape()[rank - 2..]);
        Ok(Rows::new(&d.broadcast_to(&shape)?, 2))
    };
    let (xb, wb) = (over(&op.x.desc())?, over(w.view.desc())?);
    let (m, step) = (
        y[y.len() - 2] as usize,
        op.x.desc().stride_bytes(op.x.shape().len() - 2) as usize,
    );
    let mut products: Vec<Product> = Vec::new();
    for b in 0..xb.count() {
        let at = wb.offset(b);
        if products.last().is_none_or(|p| p.w != at) {
            products.push(Product {
                w: at,
                bias: 0,
                rows: Vec::with_capacity(m),
            });
        }
        if let Some(last) = products.last_mut() {
            last.rows
                .extend((0..m).map(|i| (xb.offset(b) + i * step, b * m + i)));
        }
    }
    Ok(Work {
        w,
        finish,
        products,
        zeros: Vec::new(),
    })
}

/// The products of a [`GroupedMatMul`]: one for each expert that has rows.
///
/// # Safety
/// Nobody writes the operands.
unsafe fn experts<'a>(ctx: &Ctx, op: &'a GroupedMatMul<Tensor>) -> Result<Work<'a>> {
    let w = Matrices::of(&op.w)?;
    let desc = w.view.desc();
    let (count, stride) = (desc.dim(0) as usize, desc.stride_bytes(0) as usize);
    // SAFETY: the caller's condition.
    let (finish, owners) = unsafe {
        (
            Finish::of(ctx.env.isa, &op.epilogue, &op.y)?,
            owners(op, count)?,
        )
    };
    let mut products: Vec<Product> = (0..count)
        .map(|e| Product {
            w: e * stride,
            bias: e * w.n,
            rows: Vec::new(),
        })
        .collect();
    let x = op.x.desc();
    let step = |axis: usize| x.stride_bytes(axis) as usize;
    let top = match &op.routing {
        Routing::Ids(ids) => ids.shape()[1] as usize,
        Routing::Offsets(_) => 1,
    };
    let mut zeros = Vec::new();
    for (row, owner) in owners.into_iter().enumerate() {
        let at = row / top * step(0)
            + if x.rank() == 3 {
                row % top * step(1)
            } else {
                0
            };
        match owner {
            Some(e) => products[e].rows.push((at, row)),
            None => zeros.push(row),
        }
    }
    products.retain(|p| !p.rows.is_empty());
    Ok(Work {
        w,
        finish,
        products,
        zeros,
    })
}

/// The expert of each row of y, of `count` experts.
///
/// # Safety
/// Nobody writes the routing.
pub(super) unsafe fn owners(
    op: &GroupedMatMul<Tensor>,
    count: usize,
) -> Result<Vec<Option<usize>>> {
    let expert = |id: i64| usize::try_from(id).ok().filter(|&e| e < count);
    Ok(match &op.routing {
        // SAFETY: the caller's condition.
        Routing::Ids(ids) => unsafe { Src::of(ids)?.integers() }
            .into_iter()
            .map(expert)
            .collect(),
        Routing::Offsets(offsets) => {
            // SAFETY: the caller's condition.
            let offsets = unsafe { Src::of(offsets)?.integers() };
            let rows = op.y.shape()[0] as usize;
            let mut owners = vec![None; rows];
            let inside = |o: i64| usize::try_from(o).unwrap_or(0).min(rows);
            for (e, pair) in offsets.windows(2).enumerate() {
                let (start, end) = (inside(pair[0]), inside(pair[1]));
                if start < end {
                    owners[start..end].fill(Some(e));
                }
            }
            owners
        }
    })
}

/// Runs products of rows of x.
///
/// # Safety
/// Offsets and rows are inside the operands, each row of y is there once, and nobody else touches
/// the operands.
unsafe fn run(ctx: &Ctx, x: Src<'_>, parts: Vec<Work<'_>>) {
    let tasks: Vec<_> = parts
        .iter()
        .enumerate()
        .flat_map(|(i, w)| w.tasks(i))
        .collect();
    let work = parts.iter().map(Work::nanoseconds).sum();
    let integers = x.desc().plain() == Some(DType::I8);
    ctx.pool.parallel(tasks.len(), work, |range| {
        let mut scratch = Scratch::default();
        for &(part, product, n, first) in &tasks[range] {
            let work = &parts[part];
            let product = &work.products[product];
            let rows = &product.rows[first..product.rows.len().min(first + ROWS_OF_X)];
            let count = work.rows_of_w().min(work.w.n - n);
            // SAFETY: the caller's condition; tasks write different cells.
            unsafe {
                if integers {
                    integer_task(ctx, &x, work, product, rows, n, count);
                } else {
                    task(ctx, &x, work, product, rows, n, count, &mut scratch);
                }
            }
        }
    });
    for work in &parts {
        for &row in &work.zeros {
            // SAFETY: the caller's condition; these rows belong to no task.
            unsafe { work.finish.store_zeros(row) };
        }
    }
}

#[derive(Default)]
struct Scratch {
    w: Vec<f32>,
    x: Vec<f32>,
}

/// Rows `n..n + count` of one matrix by some rows of x.
///
/// # Safety
/// As [`run`].
unsafe fn task(
    ctx: &Ctx,
    x: &Src<'_>,
    work: &Work<'_>,
    product: &Product,
    rows: &[(usize, usize)],
    n: usize,
    count: usize,
    scratch: &mut Scratch,
) {
    let k = work.w.k;
    scratch.w.resize(count * k, 0.0);
    scratch.x.resize(TILE * k, 0.0);
    for (j, row) in scratch.w.chunks_exact_mut(k).enumerate() {
        // SAFETY: the caller's condition.
        unsafe { work.w.load(product.w, n + j, row) };
    }
    let mut out = [0.0f32; TILE * ROWS_OF_W];
    for some in rows.chunks(TILE) {
        let mut xs: [&[f32]; TILE] = [&[]; TILE];
        for ((x_row, buf), &(at, _)) in xs.iter_mut().zip(scratch.x.chunks_exact_mut(k)).zip(some) {
            // SAFETY: the caller's condition.
            *x_row = unsafe { x.load_or_borrow(at, 0, buf) };
        }
        tile::products(
            ctx.env.isa,
            &xs[..some.len()],
            &scratch.w,
            k,
            &mut out,
            count,
        );
        for (acc, &(_, y)) in out.chunks_exact_mut(count).zip(some) {
            // SAFETY: the caller's condition.
            unsafe { work.finish.store(y, n, product.bias, acc) };
        }
    }
}

/// As [`task`], of i8.
///
/// # Safety
/// As [`run`].
unsafe fn integer_task(
    ctx: &Ctx,
    x: &Src<'_>,
    work: &Work<'_>,
    product: &Product,
    rows: &[(usize, usize)],
    n: usize,
    count: usize,
) {
    let k = work.w.k;
    let (mut w, mut row) = (vec![0i8; count * k], vec![0i8; k]);
    for (j, w) in w.chunks_exact_mut(k).enumerate() {
        // SAFETY: the caller's condition.
        unsafe { work.w.load_i8(product.w, n + j, w) };
    }
    let mut acc = [0i64; ROWS_OF_W];
    for &(at, y) in rows {
        // SAFETY: the caller's condition.
        unsafe {
            load_i8(x.ptr().add(at), x.step(), &mut row);
            for (a, w) in acc.iter_mut().zip(w.chunks_exact(k)) {
                *a = tile::dot_i8(ctx.env.isa, &row, w);
            }
            work.finish
                .store_integers(y, n, product.bias, &acc[..count]);
        }
    }
}
