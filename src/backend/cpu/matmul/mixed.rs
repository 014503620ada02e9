//! Products that share x but no kernel: each runs by the best of its own.

use crate::{
    backend::{
        self,
        cpu::rows::{self, Ctx, Env},
    },
    device::Quality,
    error::{Refusal, Result},
    layout::TensorDesc,
    op::Op,
    tensor::Tensor,
};

pub(super) fn fits(env: &Env, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let Op::MatMulMany(op) = op else {
        return Err(Refusal::Op);
    };
    let mut tuned = true;
    for part in op.split() {
        let (_, quality) = backend::select(rows::all(), env, &Op::MatMul(part), None)?;
        tuned &= quality == Quality::Tuned;
    }
    Ok(if tuned {
        Quality::Tuned
    } else {
        Quality::Portable
    })
}

pub(super) unsafe fn run(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::MatMulMany(op) = op else {
        return Ok(());
    };
    for part in op.split().filter(|part| !part.y.desc().is_empty()) {
        // SAFETY: the caller's conditions hold for each part.
        unsafe { rows::run_best(ctx, &Op::MatMul(part))? };
    }
    Ok(())
}
