//! The kernel table that the built-in backends share: inside a backend a kernel is one [`Row`] of a `const` table, best
//! first, portable last. Selection, `supports`, `kernels`, tests, benches and the support matrix all read that table.

use crate::{
    device::{KernelId, Quality, Support},
    error::Refusal,
    layout::TensorDesc,
    op::{Op, OpKind},
};

/// One kernel: its name, its op, what it takes and how it runs. `Env` is what the choice depends
/// on (instruction sets, adapter features), `Run` how the backend launches it.
#[derive(Debug)]
pub(crate) struct Row<Env, Run> {
    /// Name.
    pub id: KernelId,
    /// The op it computes.
    pub op: OpKind,
    /// Does it take this op on this hardware? Legality in one place, with the reason if not.
    pub fits: fn(&Env, &Op<TensorDesc>) -> Result<Quality, Refusal>,
    /// Launches it.
    pub run: Run,
}

/// Rows that take `op`, best first.
pub(crate) fn fitting<'r, Env: 'r, Run: 'r>(
    rows: impl IntoIterator<Item = &'r Row<Env, Run>>,
    env: &Env,
    op: &Op<TensorDesc>,
) -> impl Iterator<Item = (&'r Row<Env, Run>, Quality)> {
    let kind = op.kind();
    rows.into_iter()
        .filter(move |row| row.op == kind)
        .filter_map(move |row| (row.fits)(env, op).ok().map(|quality| (row, quality)))
}

/// The row of that name, or the best one that takes `op`; else the refusal of the last row of
/// the op, which is the most permissive.
pub(crate) fn select<'t, Env: 't, Run: 't>(
    rows: impl IntoIterator<Item = &'t Row<Env, Run>>,
    env: &Env,
    op: &Op<TensorDesc>,
    kernel: Option<KernelId>,
) -> Result<(&'t Row<Env, Run>, Quality), Refusal> {
    let mut refusal = match kernel {
        Some(id) => Refusal::Kernel(id.0.to_owned()),
        None => Refusal::Op,
    };
    for row in rows.into_iter().filter(|row| row.op == op.kind()) {
        if kernel.is_some_and(|id| id != row.id) {
            continue;
        }
        match (row.fits)(env, op) {
            Ok(quality) => return Ok((row, quality)),
            Err(why) => refusal = why,
        }
    }
    Err(refusal)
}

/// [`Device::supports`](crate::Device::supports) from a table.
pub(crate) fn supports<'t, Env: 't, Run: 't>(
    rows: impl IntoIterator<Item = &'t Row<Env, Run>>,
    env: &Env,
    op: &Op<TensorDesc>,
) -> Support {
    match select(rows, env, op, None) {
        Ok((_, quality)) => Support::Native(quality),
        Err(refusal) => Support::No(refusal),
    }
}
