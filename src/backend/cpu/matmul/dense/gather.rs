//! Rows of a table of packed panels by id.

use super::{arch::tier, pack};
use crate::backend::cpu::{
    convert,
    rows::{Ctx, Env, Row, unsupported},
    view::{Dst, Src},
};
use crate::{
    KernelId, Op, Quality, Tensor, TensorDesc,
    error::{Refusal, Result},
    op::{OpKind, Weight},
};

/// The columns of a panel are strided, so every instruction set that panels are packed for reads
/// them alike.
pub(super) const ROW: Row = Row {
    id: KernelId(if cfg!(target_arch = "aarch64") {
        "cpu-gather-rows-panels-neon"
    } else {
        "cpu-gather-rows-panels-avx2"
    }),
    op: OpKind::GatherRows,
    fits,
    // SAFETY: the caller's contract is the callee's.
    run: |ctx, op| unsafe { gather(ctx, op) },
};

fn fits(env: &Env, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let Op::GatherRows(op) = op else {
        return Err(Refusal::Op);
    };
    let refusal = Refusal::Layout {
        arg: "table",
        why: "is not a pack of plain weights",
    };
    let Weight::Packed { data, tag, logical } = &op.table else {
        return Err(refusal);
    };
    match logical.plain().and_then(|d| tier(env.isa, d)) {
        Some(tier) if pack::reads(tier, *tag, logical, data.data_bytes()) => Ok(Quality::Tuned),
        _ => Err(refusal),
    }
}

/// y\[..\] = table\[ids\].
///
/// # Safety
/// `fits` accepted the op; its operands are alive and nobody else touches them.
unsafe fn gather(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::GatherRows(op) = op else {
        return Ok(());
    };
    let kernel = match &op.table {
        Weight::Packed { logical, .. } => logical
            .plain()
            .and_then(|d| Some((logical, d, pack::kernel_of(tier(ctx.env.isa, d)?, d)?))),
        _ => None,
    };
    let Some((logical, dtype, kernel)) = kernel else {
        return Err(unsupported(OpKind::GatherRows, Refusal::Op));
    };
    let (table, y) = (Src::of(op.table.tensor())?, Dst::of(&op.y)?);
    // SAFETY: nobody writes the operands of a running op.
    let ids = unsafe { Src::of(&op.ids)?.integers() };
    let (count, k) = (logical.dim_back(1) as usize, logical.dim_back(0) as usize);
    let panel_bytes = (kernel.panel_bytes)(k);
    // A step of a panel holds this many numbers of each column side by side.
    let (side, size) = (kernel.per_word * kernel.step, dtype.size());
    let (rows, len) = (y.rows(), y.len());
    let zeros = vec![0.0f32; len];
    ctx.pool
        .parallel(ids.len(), op.y.desc().elements() * 2, |range| {
            let mut row = vec![0.0f32; len];
            let mut part = vec![0.0f32; len.div_ceil(side)];
            for i in range {
                let id = usize::try_from(ids[i]).ok().filter(|&id| id < count);
                // SAFETY: `id` is a column of a panel; each row of y is written once.
                unsafe {
                    let Some(id) = id else {
                        y.store(rows.offset(i), 0, &zeros);
                        continue;
                    };
                    let (panel, lane) = (id / kernel.columns, id % kernel.columns);
                    let column = table.ptr().add(panel * panel_bytes + lane * side * size);
                    for s in 0..side {
                        let part = &mut part[..(len - s.min(len)).div_ceil(side)];
                        convert::load(dtype, column.add(s * size), kernel.step_bytes, part);
                        for (to, v) in row[s.min(len)..].iter_mut().step_by(side).zip(part) {
                            *to = *v;
                        }
                    }
                    y.store(rows.offset(i), 0, &row);
                }
            }
        });
    Ok(())
}
