//! An op as products of matrices: where rows of x, rows of w and results lie, batch by batch.

use super::epilogue::{Floats, Matrix, Output};
use crate::backend::cpu::{isa::Isa, view::Dst};
use crate::{
    DType, Element, Tensor, TensorDesc,
    error::{Error, Result},
    op::{Act, MatMul},
};

/// One product of an op, batch by batch.
pub(in crate::backend::cpu::matmul) struct Product {
    pub w: *const u8,
    pub element: Element,
    /// Bytes from row to row.
    pub w_stride: usize,
    pub n: usize,
    pub k: usize,
    pub batches: Vec<Batch>,
}

/// One matrix of a product.
pub(in crate::backend::cpu::matmul) struct Batch {
    /// Bytes.
    pub w: usize,
    /// First row of x, counted in rows of the converted x.
    pub x_row: usize,
    pub out: Output,
}

// SAFETY: the pointers lead into operands that the op keeps alive; tasks write parts of their own.
unsafe impl Sync for Product {}
// SAFETY: as above.
unsafe impl Send for Product {}

/// First byte of a tensor's first cell.
pub(in crate::backend::cpu::matmul) fn start(t: &Tensor) -> Result<*mut u8> {
    Ok(Dst::of(t)?.ptr())
}

fn plain(t: &Tensor) -> Result<DType> {
    t.desc()
        .plain()
        .ok_or_else(|| Error::InvalidTensor("expected a plain type".into()))
}

pub(in crate::backend::cpu::matmul) fn floats(t: &Tensor) -> Result<Floats> {
    Ok(Floats {
        start: start(t)?,
        dtype: plain(t)?,
    })
}

/// Strides in cells of the batch axes of `t`, aligned at the back with those of `y`; 0 where
/// `t` is broadcast.
pub(in crate::backend::cpu::matmul) fn batch_strides(t: &TensorDesc, y: &TensorDesc) -> Vec<usize> {
    let axes = y.rank() - 2;
    (0..axes)
        .map(|axis| {
            let back = y.rank() - 1 - axis;
            if back >= t.rank() || t.dim_back(back) == 1 {
                0
            } else {
                t.stride_back(back) as usize
            }
        })
        .collect()
}

/// Cells from the start to matrix `b` of y's batches.
pub(in crate::backend::cpu::matmul) fn batch_offset(
    strides: &[usize],
    y: &TensorDesc,
    mut b: usize,
) -> usize {
    let mut at = 0;
    for (axis, stride) in strides.iter().enumerate().rev() {
        let len = y.dim(axis) as usize;
        at += b % len * stride;
        b /= len;
    }
    at
}

/// The matrices of x in memory, each once: rows, and where each of y's batches finds its x.
pub(in crate::backend::cpu::matmul) struct Xs {
    /// First elements, one per matrix.
    pub starts: Vec<usize>,
    pub stride: usize,
    pub m: usize,
    pub k: usize,
}

impl Xs {
    pub fn new(x: &TensorDesc) -> Xs {
        let m = x.dim_back(1) as usize;
        let matrices: usize = (0..x.rank() - 2).map(|a| x.dim(a) as usize).product();
        let strides: Vec<usize> = (0..x.rank() - 2)
            .map(|a| {
                if x.dim(a) == 1 {
                    0
                } else {
                    x.strides()[a] as usize
                }
            })
            .collect();
        Xs {
            starts: (0..matrices)
                .map(|b| batch_offset(&strides, x, b))
                .collect(),
            stride: if m == 1 { 0 } else { x.stride_back(1) as usize },
            m,
            k: x.dim_back(0) as usize,
        }
    }
}

/// One product of an op. `w` describes the weights, for a pack those that were packed: offsets of
/// batches count its cells.
pub(in crate::backend::cpu::matmul) fn product(
    op: &MatMul<Tensor>,
    w: &TensorDesc,
    isa: Isa,
) -> Result<Product> {
    let (x, y) = (op.x.desc(), op.y.desc());
    let e = &op.epilogue;
    let batches: usize = (0..y.rank() - 2).map(|a| y.dim(a) as usize).product();
    let m = y.dim_back(1) as usize;
    // Number of x's matrix, from the axes of y that x has.
    let mut step = 1;
    let mut x_steps = vec![0; y.rank() - 2];
    for axis in (0..y.rank() - 2).rev() {
        let back = y.rank() - 1 - axis;
        if back < x.rank() && x.dim_back(back) != 1 {
            x_steps[axis] = step;
            step *= x.dim_back(back) as usize;
        }
    }
    let cell = w.element.block_bytes();
    let w_steps = batch_strides(w, &y);
    let view = |t: &Tensor, b: usize| -> Result<Matrix> {
        let d = t.desc();
        let matrix = Matrix {
            data: floats(t)?,
            stride: d.stride_back(1) as usize,
        };
        // SAFETY: an offset of an element of the tensor.
        Ok(unsafe { matrix.offset(batch_offset(&batch_strides(&d, &y), &y, b)) })
    };
    let out = |b: usize| -> Result<Output> {
        Ok(Output {
            y: view(&op.y, b)?,
            scale: e.scale.unwrap_or(1.0),
            bias: e.bias.as_ref().map(floats).transpose()?,
            act: e.act.unwrap_or(Act::Identity),
            isa,
            gate: e.gate.as_ref().map(|t| view(t, b)).transpose()?,
            residual: e.residual.as_ref().map(|t| view(t, b)).transpose()?,
            accumulate: e.accumulate,
        })
    };
    Ok(Product {
        w: start(op.w.tensor())?,
        element: w.element,
        w_stride: w.stride_back(1) as usize * cell,
        n: y.dim_back(0) as usize,
        k: x.dim_back(0) as usize,
        batches: (0..batches)
            .map(|b| {
                Ok(Batch {
                    w: batch_offset(&w_steps, &y, b) * cell,
                    x_row: batch_offset(&x_steps, &y, b) * m,
                    out: out(b)?,
                })
            })
            .collect::<Result<_>>()?,
    })
}
