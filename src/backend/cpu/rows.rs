//! The kernel tables.
//!
//! To add a kernel: write it in a file of its folder as
//! `fn fits(&Env, &Op<TensorDesc>) -> Result<Quality, Refusal>` and
//! `unsafe fn run(&Ctx, &Op<Tensor>) -> Result<()>`, and add one [`Row`] to the `ROWS` of that
//! folder, before every row that is slower where both fit. `fits` alone decides legality: `run`
//! is called only for ops that it accepted, and may assume all that
//! [`Queue`](crate::Queue) checks. Numbers that live in tensors (ids, slots, page numbers,
//! lengths) are not checked by anyone: `run` does. Kernels never read outside the cells of a
//! tensor: imported memory may end there.

use super::{attention, isa::Isa, matmul, ops, pool::Pool};
use crate::{
    Op, OpKind, Tensor, backend,
    error::{Error, Refusal, Result},
};

/// What the choice of a kernel depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Env {
    /// Instruction sets.
    pub isa: Isa,
}

/// What a kernel runs with.
#[derive(Debug)]
pub(crate) struct Ctx {
    /// What it was chosen for.
    pub env: Env,
    /// Threads.
    pub pool: Pool,
}

/// Runs one op to its end.
///
/// # Safety
/// The op passed [`Queue`](crate::Queue)'s checks, the row's `fits` accepts it, and no other
/// thread writes to the memory of its operands (or reads what it writes) until it returns.
pub(crate) type Run = unsafe fn(&Ctx, &Op<Tensor>) -> Result<()>;

/// The error of an op that no row takes, or not this one.
pub(crate) fn unsupported(op: OpKind, refusal: Refusal) -> Error {
    Error::Unsupported {
        backend: "cpu".into(),
        op: Some(op),
        refusal,
    }
}

/// Runs an op by the best row that takes it: how rows are built from others.
///
/// # Safety
/// As [`Run`], of any row.
pub(crate) unsafe fn run_best(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let question = op.map(|_, t| t.desc());
    let (row, _) = backend::select(all(), &ctx.env, &question, None)
        .map_err(|refusal| unsupported(op.kind(), refusal))?;
    // SAFETY: the caller's conditions; `select` found the row.
    unsafe { (row.run)(ctx, op) }
}

/// One kernel of this backend.
pub(crate) type Row = backend::Row<Env, Run>;

/// Every kernel; within one op best first, portable last.
const TABLES: &[&[Row]] = &[
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    matmul::packed::ROWS,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    matmul::dense::ROWS,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    matmul::simd::ROWS,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    attention::simd::ROWS,
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    ops::conv_simd::ROWS,
    matmul::ROWS,
    attention::ROWS,
    ops::ROWS,
];

/// Every kernel; within one op best first, portable last.
pub(crate) fn all() -> impl Iterator<Item = &'static Row> {
    TABLES.iter().copied().flatten()
}

/// The ceilings that make a difference to kernels in vectors on this machine, or (`all`) to any kernel.
#[cfg(all(test, feature = "conformance"))]
pub(super) fn levels(all: bool) -> Vec<super::Level> {
    use super::Level::{Amx, Avx2, Avx512, AvxVnni, Dotprod, Neon};
    let levels: &[_] = match (cfg!(target_arch = "aarch64"), all) {
        (true, _) => &[Neon, Dotprod, Amx],
        (false, true) => &[Avx2, AvxVnni, Avx512, Amx],
        (false, false) => &[Avx2, Avx512, Amx],
    };
    let isa = |level| super::isa::Isa::detect().masked(level);
    let mut levels = levels.to_vec();
    levels.dedup_by_key(|level| isa(*level));
    levels
}

/// The report of `cases` on every SIMD row of the CPU cut down to `level`, and what it can do.
#[cfg(all(test, feature = "conformance"))]
pub(super) fn run_simd_rows(
    level: super::Level,
    cases: &[crate::conformance::Case],
) -> (super::isa::Isa, crate::conformance::Report) {
    use crate::conformance::{Expect, Filter, Tier, run_cases};
    let options = crate::OpenOptions { threads: Some(2) };
    let device = super::device_at(level, &options).unwrap();
    let simd = if cfg!(target_arch = "aarch64") {
        "*-neon*"
    } else {
        "*-a?x*"
    };
    let filter = Filter::new(Tier::Full).kernel(simd);
    let run = async { run_cases(&device, cases, &filter, &Expect::default(), &mut |_| {}).await };
    let report = pollster::block_on(run).unwrap();
    assert!(report.is_success(), "{level:?}\n{}", report.text());
    (super::isa::Isa::detect().masked(level), report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::OpKind;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_every_op_has_a_kernel() {
        let names: Vec<_> = all().map(|row| row.id.0).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        for name in names {
            assert!(name.starts_with("cpu-"), "{name}");
        }
        for kind in OpKind::ALL.iter().filter(|k| **k != OpKind::Custom) {
            let last = all().filter(|row| row.op == *kind).last();
            assert!(
                last.is_some_and(|row| row.id.0.ends_with("-portable")),
                "{kind}"
            );
        }
    }
}
