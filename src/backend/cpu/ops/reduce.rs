//! Reduce: along the last axis row by row, along another one all of a stretch of columns at once.

use crate::{
    backend::cpu::{
        math,
        rows::Ctx,
        view::{Dst, Lines, Rows, Src},
    },
    element::DType,
    error::Result,
    layout::TensorDesc,
    op::{Op, RedOp, Reduce},
    tensor::Tensor,
};

/// Columns that are reduced together.
const STRETCH: usize = 512;

pub(super) unsafe fn reduce(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Reduce(op) = op else { return Ok(()) };
    let (x, y) = (Src::of(&op.x)?, Dst::of(&op.y)?);
    let axis = op.axis as usize;
    // SAFETY: the queue checked shapes and overlap.
    unsafe {
        if axis + 1 == op.x.shape().len() {
            last(ctx, op, x, y);
        } else {
            across(ctx, op, x, y, axis)?;
        }
    }
    Ok(())
}

/// Stores one result; an index is exact as i32.
///
/// # Safety
/// The cell at byte `offset` is y's, and nobody else touches it.
unsafe fn put(y: &Dst<'_>, offset: usize, value: f64, index: usize) {
    // SAFETY: the caller's condition.
    unsafe {
        if y.desc().plain() == Some(DType::I32) {
            y.ptr().add(offset).cast::<i32>().write(index as i32);
        } else {
            y.store(offset, 0, &[value as f32]);
        }
    }
}

/// Does `v` beat the largest so far? A NaN beats all but a NaN.
#[inline(always)]
fn beats(v: f32, best: f32) -> bool {
    v > best || v.is_nan() && !best.is_nan()
}

/// # Safety
/// As [`reduce`].
unsafe fn last(ctx: &Ctx, op: &Reduce<Tensor>, x: Src<'_>, y: Dst<'_>) {
    let (isa, len) = (ctx.env.isa, x.len());
    let (xr, yr) = (x.rows(), y.rows());
    ctx.pool
        .parallel(xr.count(), op.x.desc().elements() / 4, |range| {
            let mut buf = vec![0.0f32; len];
            for i in range {
                // SAFETY: whole rows, each once.
                let row = unsafe { x.load_or_borrow(xr.offset(i), 0, &mut buf) };
                let (mut value, mut index) = (0.0, 0);
                match op.function {
                    RedOp::Sum => value = math::sum(isa, row),
                    RedOp::Mean => value = math::sum(isa, row) / len as f64,
                    RedOp::Max => {
                        value = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, math::larger))
                    }
                    RedOp::Min => {
                        value = f64::from(row.iter().copied().fold(f32::INFINITY, math::smaller))
                    }
                    RedOp::ArgMax => {
                        for (j, &v) in row.iter().enumerate() {
                            if beats(v, row[index]) {
                                index = j;
                            }
                        }
                    }
                }
                // SAFETY: one cell per row of y.
                unsafe { put(&y, yr.offset(i), value, index) };
            }
        });
}

/// # Safety
/// As [`reduce`].
unsafe fn across(
    ctx: &Ctx,
    op: &Reduce<Tensor>,
    x: Src<'_>,
    y: Dst<'_>,
    axis: usize,
) -> Result<()> {
    let rank = op.x.shape().len();
    let (count, step) = (
        op.x.desc().dim(axis) as usize,
        op.x.desc().stride_bytes(axis) as usize,
    );
    // The same rows without the axis: its length is 1.
    let mut shape = op.x.shape().to_vec();
    shape[axis] = 1;
    let outer = TensorDesc::strided(op.x.element(), &shape, op.x.desc().strides())?;
    debug_assert_eq!(rank, outer.rank());
    let (xr, yr) = (Rows::new(&outer, 1), y.rows());
    let len = x.len();
    let per_row = len.div_ceil(STRETCH);
    ctx.pool
        .parallel(xr.count() * per_row, op.x.desc().elements() / 2, |range| {
            let Lines(buf) = &mut Lines([0.0f32; STRETCH]);
            for i in range {
                let (row, start) = (i / per_row, i % per_row * STRETCH);
                let n = STRETCH.min(len - start);
                let from = xr.offset(row);
                let mut sums = [0.0f64; STRETCH];
                let Lines(best) = &mut Lines([0.0f32; STRETCH]);
                let mut at = [0i32; STRETCH];
                for k in 0..count {
                    // SAFETY: row `k` along the axis of the stretch.
                    let line = unsafe { x.load_or_borrow(from + k * step, start, &mut buf[..n]) };
                    match op.function {
                        RedOp::Sum | RedOp::Mean => {
                            for (s, &v) in sums.iter_mut().zip(line) {
                                *s += f64::from(v);
                            }
                        }
                        _ if k == 0 => best[..n].copy_from_slice(line),
                        RedOp::Max => best
                            .iter_mut()
                            .zip(line)
                            .for_each(|(b, &v)| *b = math::larger(*b, v)),
                        RedOp::Min => best
                            .iter_mut()
                            .zip(line)
                            .for_each(|(b, &v)| *b = math::smaller(*b, v)),
                        RedOp::ArgMax => {
                            for ((b, a), &v) in best.iter_mut().zip(&mut at).zip(line) {
                                if beats(v, *b) {
                                    (*b, *a) = (v, k as i32);
                                }
                            }
                        }
                    }
                }
                let (to, cell) = (yr.offset(row), y.step());
                for j in 0..n {
                    let value = match op.function {
                        RedOp::Sum => sums[j],
                        RedOp::Mean => sums[j] / count as f64,
                        _ => f64::from(best[j]),
                    };
                    // SAFETY: one cell of y per column.
                    unsafe { put(&y, to + (start + j) * cell, value, at[j] as usize) };
                }
            }
        });
    Ok(())
}
