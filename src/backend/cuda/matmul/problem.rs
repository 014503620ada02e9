//! Sizes and strides of a MatMul, folded into what one launch can walk.

use super::super::{
    geometry::{Axis, collapse, count},
    rows::stride,
};
use crate::{error::Refusal, layout::TensorDesc, op::MatMul};

// Operands of an axis.
pub(super) const X: usize = 0;
pub(super) const W: usize = 1;
pub(super) const Y: usize = 2;
pub(super) const GATE: usize = 3;
pub(super) const RESIDUAL: usize = 4;
pub(super) const OPERANDS: usize = 5;

/// Largest grid.z.
pub(super) const GRID_Z: u32 = 65_535;

/// A MatMul as the kernels see it. Strides count elements, those of quantized w count bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Problem {
    pub(super) m: u32,
    pub(super) n: u32,
    pub(super) k: u32,
    /// Distance between rows: of x, w (its stored rows), y, gate, residual.
    pub(super) ld: [u64; OPERANDS],
    /// Axis that goes into grid.z of the tiled kernels.
    pub(super) z: Axis<OPERANDS>,
    /// Axes of which every index is a launch of its own.
    pub(super) outer: Vec<Axis<OPERANDS>>,
}

pub(super) const ONE: Axis<OPERANDS> = Axis {
    len: 1,
    strides: [0; OPERANDS],
};

impl Problem {
    /// Folds the batch axes that share w into the rows, where all strides allow it.
    pub(super) fn new(op: &MatMul<TensorDesc>, gemv: bool) -> Result<Problem, Refusal> {
        let w = op.w.logical();
        let batch = &op.y.shape()[..op.y.rank() - 2];
        let (gate, residual) = (op.epilogue.gate.as_ref(), op.epilogue.residual.as_ref());
        let residual = residual.or(op.epilogue.accumulate.then_some(&op.y));
        let mut ld = [0; OPERANDS];
        let mut axes = vec![ONE; batch.len()];
        for (at, t) in [
            (X, Some(&op.x)),
            (W, Some(w)),
            (Y, Some(&op.y)),
            (GATE, gate),
            (RESIDUAL, residual),
        ] {
            let Some(t) = t else { continue };
            let unit = if at == W && t.plain().is_none() {
                t.element.block_bytes() as u64
            } else {
                1
            };
            let shape: Vec<u32> = batch
                .iter()
                .copied()
                .chain([t.dim_back(1), t.dim_back(0)])
                .collect();
            let t = t.broadcast_to(&shape).map_err(|_| Refusal::Layout {
                arg: "w",
                why: "must broadcast to y",
            })?;
            ld[at] = if t.dim_back(1) == 1 {
                0
            } else {
                stride(t.stride_back(1)) * unit
            };
            for (axis, &len) in batch.iter().enumerate() {
                axes[axis].len = len;
                axes[axis].strides[at] = stride(t.strides()[axis]) * unit;
            }
        }
        let mut m = op.m();
        let mut axes = collapse(axes);
        while let Some(last) = axes.last() {
            let rows_too =
                |at: usize| at == W || m == 1 || last.strides[at] == u64::from(m) * ld[at];
            let (true, true, Some(folded)) = (
                last.strides[W] == 0,
                (0..OPERANDS).all(rows_too),
                m.checked_mul(last.len),
            ) else {
                break;
            };
            if m == 1 {
                (0..OPERANDS)
                    .filter(|&at| at != W)
                    .for_each(|at| ld[at] = last.strides[at]);
            }
            m = folded;
            axes.pop();
        }
        let z = if gemv { None } else { axes.pop() };
        Ok(Problem {
            m,
            n: op.n(),
            k: op.k(),
            ld,
            z: z.unwrap_or(ONE),
            outer: axes,
        })
    }

    /// Whether an operand changes along any axis beside the rows.
    pub(super) fn walks(&self, at: usize) -> bool {
        self.outer
            .iter()
            .chain([&self.z])
            .any(|a| a.strides[at] != 0)
    }

    pub(super) fn launches(&self) -> u64 {
        count(&self.outer).saturating_mul(u64::from(self.z.len.div_ceil(GRID_Z)))
    }
}
