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

/// Rows that take `op`, best first: as in the table, but those that are slow on this hardware last.
pub(crate) fn fitting<'r, Env: 'r, Run: 'r>(
    rows: impl IntoIterator<Item = &'r Row<Env, Run>>,
    env: &Env,
    op: &Op<TensorDesc>,
) -> impl Iterator<Item = (&'r Row<Env, Run>, Quality)> {
    let kind = op.kind();
    let mut all: Vec<_> = rows
        .into_iter()
        .filter(|row| row.op == kind)
        .filter_map(|row| (row.fits)(env, op).ok().map(|quality| (row, quality)))
        .collect();
    all.sort_by_key(|(_, quality)| *quality == Quality::Slow);
    all.into_iter()
}

/// The row of that name, or the first that takes `op` and is not slow, or the first; else the
/// refusal of the last row of the op, which is the most permissive.
pub(crate) fn select<'t, Env: 't, Run: 't>(
    rows: impl IntoIterator<Item = &'t Row<Env, Run>>,
    env: &Env,
    op: &Op<TensorDesc>,
    kernel: Option<KernelId>,
) -> Result<(&'t Row<Env, Run>, Quality), Refusal> {
    let refusal = match kernel {
        Some(id) => Refusal::Kernel(id.0.to_owned()),
        None => Refusal::Op,
    };
    let rows = rows
        .into_iter()
        .filter(|row| row.op == op.kind() && kernel.is_none_or(|id| id == row.id));
    first(rows, |row| (row.fits)(env, op), refusal)
}

/// The first choice that fits and is not slow, or the first that fits; else why the last does not, or `none` where there
/// is no choice.
pub(crate) fn first<T: Copy>(
    choices: impl IntoIterator<Item = T>,
    fits: impl Fn(T) -> Result<Quality, Refusal>,
    none: Refusal,
) -> Result<(T, Quality), Refusal> {
    let (mut slow, mut refusal) = (None, none);
    for choice in choices {
        match fits(choice) {
            Ok(Quality::Slow) => slow = slow.or(Some((choice, Quality::Slow))),
            Ok(quality) => return Ok((choice, quality)),
            Err(why) => refusal = why,
        }
    }
    slow.ok_or(refusal)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, op::Copy};

    #[test]
    fn slow_rows_come_last() {
        type R = Row<[Result<Quality, Refusal>; 3], ()>;
        macro_rules! row {
            ($id:literal, $i:literal) => {
                Row {
                    id: KernelId($id),
                    op: OpKind::Copy,
                    fits: |env, _| env[$i].clone(),
                    run: (),
                }
            };
        }
        let rows: [R; 3] = [row!("a", 0), row!("b", 1), row!("c", 2)];
        let x = TensorDesc::new(DType::F32, &[2]).unwrap();
        let op = Op::from(Copy::new(&x, &x));
        let (slow, tuned) = (Ok(Quality::Slow), Ok(Quality::Tuned));
        let no = || Err(Refusal::Precision);
        let picked = |env: &_| select(&rows, env, &op, None).map(|(row, _)| row.id.0);
        assert_eq!(
            picked(&[slow.clone(), tuned.clone(), tuned.clone()]),
            Ok("b")
        );
        assert_eq!(picked(&[slow.clone(), no(), slow.clone()]), Ok("a"));
        assert_eq!(picked(&[no(), slow.clone(), tuned.clone()]), Ok("c"));
        assert_eq!(picked(&[no(), no(), no()]), Err(Refusal::Precision));
        let env = [slow, tuned, no()];
        let order: Vec<_> = fitting(&rows, &env, &op).map(|(r, _)| r.id.0).collect();
        assert_eq!(order, ["b", "a"]);
        let named = select(&rows, &env, &op, Some(KernelId("a")));
        assert_eq!(named.map(|(row, _)| row.id.0), Ok("a"));
    }
}
