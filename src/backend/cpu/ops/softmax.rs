//! Softmax along the last axis, in three passes over a copy of the row.

use crate::{
    backend::cpu::{
        math,
        rows::Ctx,
        view::{Dst, Src},
    },
    element::DType,
    error::Result,
    op::{BinOp, Op},
    tensor::Tensor,
};

pub(super) unsafe fn softmax(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Softmax(op) = op else { return Ok(()) };
    let isa = ctx.env.isa;
    let (x, y) = (Src::of(&op.x)?, Dst::of(&op.y)?);
    let mask = match &op.mask {
        Some(mask) => Some(Src::of(mask)?.broadcast(op.x.shape())?),
        None => None,
    };
    let (xr, yr) = (x.rows(), y.rows());
    let mr = mask.map(|m| m.rows());
    let len = x.len();
    ctx.pool
        .parallel(xr.count(), op.x.desc().elements(), |range| {
            let mut row = vec![0.0f32; len];
            let mut add = vec![0.0f32; if mask.is_some() { len } else { 0 }];
            for i in range {
                // SAFETY: each row is handled once, and read before it is written.
                unsafe { x.load(xr.offset(i), 0, &mut row) };
                if op.scale != 1.0 {
                    math::affine(isa, op.scale, 0.0, &mut row);
                }
                if let (Some(mask), Some(mr)) = (&mask, &mr) {
                    // SAFETY: the mask has x's shape; nobody writes it.
                    unsafe { mask.load(mr.offset(i), 0, &mut add) };
                    if mask.desc().plain() == Some(DType::U8) {
                        for (v, &keep) in row.iter_mut().zip(&add) {
                            *v = if keep == 0.0 { f32::NEG_INFINITY } else { *v };
                        }
                    } else {
                        math::binary(isa, BinOp::Add, &mut row, &add);
                    }
                }
                let top = math::max(isa, &row);
                if top == f32::NEG_INFINITY {
                    // Nothing is visible; a NaN among it stays one.
                    let fill = if row.iter().any(|v| v.is_nan()) {
                        f32::NAN
                    } else {
                        0.0
                    };
                    row.fill(fill);
                } else {
                    let total = math::exp_sub(isa, &mut row, top);
                    math::affine(isa, (1.0 / total) as f32, 0.0, &mut row);
                }
                // SAFETY: as above.
                unsafe { y.store(yr.offset(i), 0, &row) };
            }
        });
    Ok(())
}
