//! MatMul, MatMulMany and GroupedMatMul.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod dense;
pub(crate) mod epilogue;
#[cfg(target_arch = "x86_64")]
mod even;
mod mixed;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod packed;
mod portable;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod simd;
mod strided;
pub(crate) mod tile;

use super::rows::{Ctx, Row};
use crate::{
    device::{KernelId, Packed},
    element::Element,
    error::Result,
    layout::TensorDesc,
    op::OpKind,
};

/// Kernels, best first.
pub(crate) const ROWS: &[Row] = &[
    Row {
        id: KernelId("cpu-matmul-packed-strided"),
        op: OpKind::MatMul,
        fits: strided::fits,
        run: strided::run,
    },
    Row {
        id: KernelId("cpu-matmul-portable"),
        op: OpKind::MatMul,
        fits: portable::fits,
        run: portable::mat_mul,
    },
    Row {
        id: KernelId("cpu-matmul-many-mixed"),
        op: OpKind::MatMulMany,
        fits: mixed::fits,
        run: mixed::run,
    },
    Row {
        id: KernelId("cpu-matmul-many-packed-strided"),
        op: OpKind::MatMulMany,
        fits: strided::fits,
        run: strided::run,
    },
    Row {
        id: KernelId("cpu-matmul-many-portable"),
        op: OpKind::MatMulMany,
        fits: portable::fits,
        run: portable::mat_mul_many,
    },
    Row {
        id: KernelId("cpu-grouped-matmul-packed-strided"),
        op: OpKind::GroupedMatMul,
        fits: strided::fits,
        run: strided::run,
    },
    Row {
        id: KernelId("cpu-grouped-matmul-portable"),
        op: OpKind::GroupedMatMul,
        fits: portable::fits,
        run: portable::grouped,
    },
];

/// Weights in a layout of one of the kernels; `None` where rows as they are serve best. `host`
/// holds exactly the contiguous `w`.
pub(crate) fn prepack(ctx: &Ctx, w: &TensorDesc, host: &[u8]) -> Result<Option<Packed>> {
    match w.element {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        Element::Quant(_) => packed::prepack(ctx, w, host),
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        Element::Plain(_) => dense::prepack(ctx, w, host),
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        Element::Quant(_) | Element::Plain(_) => {
            let _ = (ctx, host);
            Ok(None)
        }
    }
}
