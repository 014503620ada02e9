//! Packed weights by operands whose last axis is not contiguous: copies that are take their place.

use crate::{
    backend::{
        self,
        cpu::{
            memory::Memory,
            rows::{self, Ctx, Env},
        },
    },
    device::Quality,
    error::{Error, Refusal, Result},
    layout::TensorDesc,
    op::{Copy, Op, Role, Weight},
    tensor::{Buffer, Tensor},
};
use std::sync::Arc;

pub(super) fn fits(env: &Env, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let packed = |w: &Weight<TensorDesc>| matches!(w, Weight::Packed { .. });
    let any = match op {
        Op::MatMul(op) => packed(&op.w),
        Op::MatMulMany(op) => op.parts.iter().any(|part| packed(&part.w)),
        Op::GroupedMatMul(op) => packed(&op.w),
        _ => false,
    };
    let mut strided = false;
    let flat = op.map(|_, d| {
        strided |= !d.is_row_contiguous();
        if d.is_row_contiguous() {
            *d
        } else {
            d.contiguous()
        }
    });
    if !any || !strided {
        return Err(Refusal::Layout {
            arg: "w",
            why: "is not a pack that meets strided operands",
        });
    }
    backend::select(rows::all(), env, &flat, None).map(|_| Quality::Slow)
}

pub(super) unsafe fn run(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let mut results = Vec::new();
    let flat = op.try_map(|arg, t| {
        if t.desc().is_row_contiguous() {
            return Ok(t.clone());
        }
        let desc = t.desc().contiguous();
        let memory = Arc::new(Memory::zeros(desc.span_bytes())?);
        let copy = Tensor::new(&Buffer::adopt(t.buffer().device(), memory), 0, desc)?;
        if arg.role != Role::Out {
            // SAFETY: the caller keeps writers from the operand; the copy is new.
            unsafe { rows::run_best(ctx, &Copy::new(t, &copy).into())? };
        }
        if arg.role.writes() {
            results.push((copy.clone(), t.clone()));
        }
        Ok::<_, Error>(copy)
    })?;
    // SAFETY: the caller's conditions; copies are nobody else's.
    unsafe {
        rows::run_best(ctx, &flat)?;
        for (copy, t) in results {
            rows::run_best(ctx, &Copy::new(&copy, &t).into())?;
        }
    }
    Ok(())
}
