//! The kernel table: every kernel of this backend in one place, best first within an op.
//!
//! To add a kernel: write `shaders/NAME.wgsl` and list it in `shaders.rs`; write
//! `fits(&Caps, &Op<TensorDesc>) -> Result<Quality, Refusal>` (legality, with the reason if not)
//! and `run(&mut State, &Op<Tensor>) -> Result<()>` in a file under `kernels/`; add one line
//! here. `run` builds a [`Launch`](super::launch::Launch) per dispatch and hands it to
//! [`State::dispatch`]; it may assume all that the queue validated and that `fits` said yes.

use super::{
    caps::Caps,
    kernels::{
        attention, conv, copy, elementwise, gather, image, kv_write, matmul, norm, plain_fits,
        reduce, rope, softmax, topk,
    },
    stream::State,
};
use crate::{
    backend::Row,
    device::{KernelId, Quality},
    error::{Refusal, Result},
    layout::TensorDesc,
    op::{Op, OpKind},
    tensor::Tensor,
};

/// Launches a kernel.
pub(crate) type Run = fn(&mut State, &Op<Tensor>) -> Result<()>;

/// A kernel of this backend.
pub(crate) type WgpuRow = Row<Caps, Run>;

const fn row(
    id: &'static str,
    op: OpKind,
    fits: fn(&Caps, &Op<TensorDesc>) -> Result<Quality, Refusal>,
    run: Run,
) -> WgpuRow {
    Row {
        id: KernelId(id),
        op,
        fits,
        run,
    }
}

/// Every kernel.
pub(crate) static ROWS: &[WgpuRow] = &[
    row(
        "wgpu-attention-split",
        OpKind::Attention,
        attention::fits_split,
        attention::run_split,
    ),
    row(
        "wgpu-attention-tile",
        OpKind::Attention,
        attention::fits_tile,
        attention::run_tile,
    ),
    row(
        "wgpu-matmul-vec-subgroup",
        OpKind::MatMul,
        matmul::fits_vec_subgroup,
        matmul::run_vec_subgroup,
    ),
    row(
        "wgpu-matmul-vec",
        OpKind::MatMul,
        matmul::fits_vec,
        matmul::run_vec,
    ),
    row(
        "wgpu-matmul-tile128",
        OpKind::MatMul,
        matmul::fits_tile128,
        matmul::run_tile128,
    ),
    row(
        "wgpu-matmul-tile64",
        OpKind::MatMul,
        matmul::fits_tile64,
        matmul::run_tile64,
    ),
    row(
        "wgpu-matmul-tile32",
        OpKind::MatMul,
        matmul::fits_tile32,
        matmul::run_tile32,
    ),
    row(
        "wgpu-matmul-many",
        OpKind::MatMulMany,
        matmul::fits_many,
        matmul::run_many,
    ),
    row(
        "wgpu-dequantize",
        OpKind::Dequantize,
        gather::dequantize_fits,
        gather::dequantize,
    ),
    row(
        "wgpu-quantize-q8_0",
        OpKind::Quantize,
        copy::quantize_fits,
        copy::quantize,
    ),
    row(
        "wgpu-kv-write",
        OpKind::KvWrite,
        kv_write::fits,
        kv_write::run,
    ),
    row(
        "wgpu-gather-rows",
        OpKind::GatherRows,
        gather::gather_fits,
        gather::gather,
    ),
    row("wgpu-rope", OpKind::Rope, rope::fits, rope::run),
    row("wgpu-norm", OpKind::Norm, plain_fits, norm::run),
    row("wgpu-softmax", OpKind::Softmax, plain_fits, softmax::run),
    row("wgpu-unary", OpKind::Unary, plain_fits, elementwise::unary),
    row(
        "wgpu-binary",
        OpKind::Binary,
        plain_fits,
        elementwise::binary,
    ),
    row("wgpu-glu", OpKind::Glu, plain_fits, elementwise::glu),
    row("wgpu-reduce", OpKind::Reduce, plain_fits, reduce::run),
    row("wgpu-top-k", OpKind::TopK, topk::fits, topk::run),
    row("wgpu-copy", OpKind::Copy, copy::fits, copy::run),
    row(
        "wgpu-upsample",
        OpKind::Upsample,
        plain_fits,
        image::upsample,
    ),
    row(
        "wgpu-conv2d-tile",
        OpKind::Conv2d,
        conv::fits_tile,
        conv::run_tile,
    ),
    row(
        "wgpu-conv2d-direct",
        OpKind::Conv2d,
        plain_fits,
        conv::run_direct,
    ),
];
