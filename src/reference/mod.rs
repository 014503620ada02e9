//! The f64 reference: naive, one function per op, used by tests, conformance and `verify` alone.
//!
//! Inputs are taken as they are stored (decoded from their element type to f64) and results are
//! not rounded to the output type. Besides the values, each output carries what its tolerance
//! scales with: see [`Output`].

mod attention;
mod conv;
mod elementwise;
mod kv;
mod matmul;
mod nd;
mod norm;
mod numbers;
mod rope;
mod rows;
mod softmax;

pub use numbers::{decode_plain, encode_plain, round_to};

pub(crate) use nd::{Nd, cell_offsets};

use crate::{
    error::{Error, Result},
    layout::TensorDesc,
    op::{Arg, Op},
};
use std::{fmt, sync::Arc};

/// A view of host bytes.
#[derive(Clone)]
pub struct Array {
    /// Element type, shape and strides.
    pub desc: TensorDesc,
    /// The memory.
    pub bytes: Arc<Vec<u8>>,
    /// Where the first cell starts.
    pub byte_offset: u64,
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.desc, self.byte_offset)
    }
}

impl Array {
    /// A contiguous array that owns its bytes.
    pub fn new(desc: TensorDesc, bytes: Vec<u8>) -> Self {
        Array {
            desc,
            bytes: Arc::new(bytes),
            byte_offset: 0,
        }
    }

    /// The numbers, row-major; blocks are decoded. Empty when the view reaches beyond the bytes.
    pub fn numbers(&self) -> Vec<f64> {
        if self.fits() {
            Nd::of(self).v
        } else {
            Vec::new()
        }
    }

    fn fits(&self) -> bool {
        self.byte_offset
            .checked_add(self.desc.span_bytes())
            .is_some_and(|end| end <= self.bytes.len() as u64)
    }
}

/// What one written operand should hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The operand.
    pub arg: Arg,
    /// Its shape.
    pub shape: Vec<u32>,
    /// The exact numbers, row-major.
    pub values: Vec<f64>,
    /// For each number the sum of the absolute values of the terms that rounding errors of the
    /// arithmetic scale with: `|x| . |w|` for a product, the number itself for a function. Empty
    /// when the result is exact up to its own rounding.
    pub magnitudes: Vec<f64>,
    /// Absolute error that each number may have because the caller accepted rounded activations:
    /// six standard deviations of independent roundings. Empty when there is none.
    pub slack: Vec<f64>,
}

impl Output {
    pub(crate) fn exact(arg: Arg, shape: &[u32], values: Vec<f64>) -> Self {
        Output {
            arg,
            shape: shape.to_vec(),
            values,
            magnitudes: Vec::new(),
            slack: Vec::new(),
        }
    }
}

/// Evaluates `op`: one [`Output`] for each written operand, in operand order. An operand that is
/// read and written yields what it holds afterwards.
///
/// # Errors
/// [`Error::InvalidOp`] for operands that do not fit together, [`Error::InvalidTensor`] for views
/// beyond their bytes, [`Error::Unsupported`] for [`Op::Custom`] and prepacked weights.
pub fn eval(op: &Op<Array>) -> Result<Vec<Output>> {
    op.map(|_, a| a.desc).check()?;
    let mut outside = None;
    op.visit(|arg, a| {
        if !a.fits() {
            outside = Some((arg, a.clone()));
        }
    });
    if let Some((arg, a)) = outside {
        return Err(Error::InvalidTensor(
            format!("{}: {a:?} exceeds its {} bytes", arg.name, a.bytes.len()).into(),
        ));
    }
    match op {
        Op::MatMul(a) => Ok(vec![matmul::mat_mul(a)?]),
        Op::MatMulMany(a) => a.split().map(|m| matmul::mat_mul(&m)).collect(),
        Op::GroupedMatMul(a) => Ok(vec![matmul::grouped(a)?]),
        Op::Attention(a) => Ok(vec![attention::attention(a)]),
        Op::Dequantize(a) => Ok(vec![rows::dequantize(a)]),
        Op::Quantize(a) => Ok(vec![rows::quantize(a)?]),
        Op::KvWrite(a) => Ok(kv::kv_write(a)),
        Op::GatherRows(a) => Ok(vec![rows::gather_rows(a)?]),
        Op::Rope(a) => Ok(vec![rope::rope(a)]),
        Op::Norm(a) => Ok(norm::norm(a)),
        Op::Softmax(a) => Ok(vec![softmax::softmax(a)]),
        Op::Unary(a) => Ok(vec![elementwise::unary(a)]),
        Op::Binary(a) => Ok(vec![elementwise::binary(a)]),
        Op::Glu(a) => Ok(vec![elementwise::glu(a)]),
        Op::Reduce(a) => Ok(vec![rows::reduce(a)]),
        Op::TopK(a) => Ok(rows::top_k(a)),
        Op::Copy(a) => Ok(vec![rows::copy(a)]),
        Op::Conv2d(a) => Ok(vec![conv::conv2d(a)]),
        Op::Upsample(a) => Ok(vec![conv::upsample(a)]),
        Op::Custom(_) => Err(Error::unsupported("the reference", "a third party's op")),
    }
}

#[cfg(test)]
mod tests;
