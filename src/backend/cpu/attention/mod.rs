//! Attention.

mod portable;
pub(crate) mod seqs;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod simd;

use super::rows::Row;
use crate::{device::KernelId, op::OpKind};

/// Kernels, best first.
pub(crate) const ROWS: &[Row] = &[Row {
    id: KernelId("cpu-attention-portable"),
    op: OpKind::Attention,
    fits: portable::fits,
    run: portable::attention,
}];
