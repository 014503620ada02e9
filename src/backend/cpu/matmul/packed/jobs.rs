//! Ops as products of rows of x and matrices of a pack.

use super::run::{Job, Mode, Part, Rows, To, run};
use crate::{
    Tensor,
    backend::cpu::{
        matmul::{
            epilogue::Finish,
            portable::owners,
            simd::{
                Level, Xs,
                epilogue::{Floats, Matrix, Output},
                floats, product,
            },
        },
        rows::{Ctx, unsupported},
    },
    error::{Error, Result},
    op::{Act, GroupedMatMul, MatMul, Op, Routing, Weight},
};

/// Runs a matmul op of any kind.
///
/// # Safety
/// `fits` accepted it at this level; its operands are alive and nobody else touches them.
pub(super) unsafe fn run_op(ctx: &Ctx, op: &Op<Tensor>, mode: Mode, level: Level) -> Result<()> {
    // SAFETY: the caller's contract is the callee's.
    unsafe {
        match op {
            Op::MatMul(op) => dense(ctx, std::slice::from_ref(op), mode, level),
            Op::MatMulMany(op) => dense(ctx, &op.split().collect::<Vec<_>>(), mode, level),
            Op::GroupedMatMul(op) => experts(ctx, op, mode, level),
            _ => Err(unsupported(op.kind(), crate::Refusal::Op)),
        }
    }
}

/// # Safety
/// As for [`run_op`].
unsafe fn dense(ctx: &Ctx, ops: &[MatMul<Tensor>], mode: Mode, level: Level) -> Result<()> {
    let Some(first) = ops.first() else {
        return Ok(());
    };
    let xs = Xs::new(&first.x.desc());
    let (mut parts, mut jobs) = (Vec::new(), Vec::new());
    for op in ops {
        let Weight::Packed { logical, .. } = &op.w else {
            return Err(Error::InvalidTensor("the weights are not packed".into()));
        };
        let product = product(op, logical, ctx.env.isa)?;
        // Offsets of batches count bytes of the rows that were packed.
        let n = u64::from(logical.dim_back(1));
        let k = u64::from(logical.dim_back(0)) / logical.element.block_len() as u64;
        let matrix = (n * k) as usize * logical.element.block_bytes();
        for batch in product.batches {
            jobs.push(Job {
                part: parts.len(),
                matrix: batch.w / matrix.max(1),
                rows: batch.x_row..batch.x_row + xs.m,
                to: To::Rows(batch.out),
            });
        }
        parts.push(Part::new(&op.w)?);
    }
    let x = Rows {
        x: floats(&first.x)?,
        k: xs.k,
        count: xs.starts.len() * xs.m,
        at: &|row| xs.starts[row / xs.m] + row % xs.m * xs.stride,
    };
    // SAFETY: the caller's contract is the callee's.
    unsafe { run(ctx, &x, &parts, &jobs, mode, level) };
    Ok(())
}

/// # Safety
/// As for [`run_op`].
unsafe fn experts(ctx: &Ctx, op: &GroupedMatMul<Tensor>, mode: Mode, level: Level) -> Result<()> {
    let Weight::Packed { logical, .. } = &op.w else {
        return Err(Error::InvalidTensor("the weights are not packed".into()));
    };
    let (count, n) = (logical.dim(0) as usize, logical.dim(1) as usize);
    // SAFETY: the caller's contract.
    let (finish, owners) = unsafe {
        (
            Finish::of(ctx.env.isa, &op.epilogue, &op.y)?,
            owners(op, count)?,
        )
    };
    let x = op.x.desc();
    let top = match &op.routing {
        Routing::Ids(ids) => ids.shape()[1] as usize,
        Routing::Offsets(_) => 1,
    };
    // Rows of y by expert.
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (row, owner) in owners.into_iter().enumerate() {
        match owner {
            Some(e) => rows[e].push(row),
            // SAFETY: the caller's contract; the row belongs to no product.
            None => unsafe { finish.store_zeros(row) },
        }
    }
    let e = &op.epilogue;
    // Row `i` of y is row `i / top` of output `i % top`.
    let view = |t: &Tensor, i: usize| -> Result<Matrix> {
        let d = t.desc();
        let matrix = Matrix {
            data: floats(t)?,
            stride: d.strides()[0] as usize,
        };
        let at = if d.rank() == 3 {
            i * d.strides()[1] as usize
        } else {
            0
        };
        // SAFETY: an offset of an element of the tensor.
        Ok(unsafe { matrix.offset(at) })
    };
    let mut jobs = Vec::new();
    let mut at = Vec::new();
    for (expert, rows) in rows.iter().enumerate().filter(|(_, r)| !r.is_empty()) {
        let bias = match &e.bias {
            Some(t) => {
                let start = expert * t.desc().strides()[0] as usize;
                let Floats {
                    start: first,
                    dtype,
                } = floats(t)?;
                Some(Floats {
                    // SAFETY: the bias has a row for each expert.
                    start: unsafe { first.add(start * dtype.size()) },
                    dtype,
                })
            }
            None => None,
        };
        let outs = (0..top)
            .map(|i| {
                Ok(Output {
                    y: view(&op.y, i)?,
                    scale: e.scale.unwrap_or(1.0),
                    bias,
                    act: e.act.unwrap_or(Act::Identity),
                    isa: ctx.env.isa,
                    gate: e.gate.as_ref().map(|t| view(t, i)).transpose()?,
                    residual: e.residual.as_ref().map(|t| view(t, i)).transpose()?,
                    accumulate: e.accumulate,
                })
            })
            .collect::<Result<_>>()?;
        let first = at.len();
        at.extend(rows.iter().map(|row| {
            let inner = if x.rank() == 3 {
                row % top * x.strides()[1] as usize
            } else {
                0
            };
            row / top * x.strides()[0] as usize + inner
        }));
        jobs.push(Job {
            part: 0,
            matrix: expert,
            rows: first..at.len(),
            to: To::Each(outs, rows.iter().map(|r| (r % top, r / top)).collect()),
        });
    }
    debug_assert_eq!(n, op.y.desc().dim_back(0) as usize);
    let x = Rows {
        x: floats(&op.x)?,
        k: x.dim_back(0) as usize,
        count: at.len(),
        at: &|row| at[row],
    };
    // SAFETY: the caller's contract is the callee's.
    unsafe { run(ctx, &x, &[Part::new(&op.w)?], &jobs, mode, level) };
    Ok(())
}
