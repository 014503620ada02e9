//! The ops that move or touch each number once, and convolution.

mod conv;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) mod conv_simd;
mod copy;
mod elementwise;
mod gather;
mod norm;
mod quantize;
mod reduce;
mod rope;
mod softmax;
mod topk;

use super::rows::{Env, Row, Run};
use crate::{
    device::{KernelId, Quality},
    error::{Refusal, Result},
    layout::TensorDesc,
    op::{Op, OpKind},
};

type Fits = fn(&Env, &Op<TensorDesc>) -> Result<Quality, Refusal>;

/// Every legal op of the kind. These loops are bound by memory and compiled for each instruction
/// set, so they are the tuned form too.
fn any(env: &Env, _: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    Ok(if env.isa == super::isa::Isa::default() {
        Quality::Portable
    } else {
        Quality::Tuned
    })
}

const fn row(id: &'static str, op: OpKind, fits: Fits, run: Run) -> Row {
    Row {
        id: KernelId(id),
        op,
        fits,
        run,
    }
}

/// Kernels, best first.
pub(crate) const ROWS: &[Row] = &[
    row(
        "cpu-dequantize-portable",
        OpKind::Dequantize,
        any,
        quantize::dequantize,
    ),
    row(
        "cpu-quantize-portable",
        OpKind::Quantize,
        any,
        quantize::quantize,
    ),
    row(
        "cpu-kv-write-portable",
        OpKind::KvWrite,
        any,
        gather::kv_write,
    ),
    row(
        "cpu-gather-rows-portable",
        OpKind::GatherRows,
        gather::fits_gather_rows,
        gather::gather_rows,
    ),
    row("cpu-rope-portable", OpKind::Rope, any, rope::rope),
    row("cpu-norm-portable", OpKind::Norm, any, norm::norm),
    row(
        "cpu-softmax-portable",
        OpKind::Softmax,
        any,
        softmax::softmax,
    ),
    row("cpu-unary-portable", OpKind::Unary, any, elementwise::unary),
    row(
        "cpu-binary-portable",
        OpKind::Binary,
        any,
        elementwise::binary,
    ),
    row("cpu-glu-portable", OpKind::Glu, any, elementwise::glu),
    row("cpu-reduce-portable", OpKind::Reduce, any, reduce::reduce),
    row("cpu-top-k-portable", OpKind::TopK, any, topk::top_k),
    row("cpu-copy-portable", OpKind::Copy, any, copy::copy),
    row("cpu-conv2d-portable", OpKind::Conv2d, any, conv::conv2d),
    row(
        "cpu-upsample-portable",
        OpKind::Upsample,
        any,
        gather::upsample,
    ),
];
