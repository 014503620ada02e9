//! MatMul, MatMulMany and GroupedMatMul.

use super::rows::{Env, Row};
use crate::{device::Packed, error::Result, layout::TensorDesc};

/// Kernels, best first.
pub(crate) const ROWS: &[Row] = &[];

/// Weights in a layout of one of the kernels; `None` where rows as they are serve best. `host`
/// holds exactly the contiguous `w`.
pub(crate) fn prepack(_env: &Env, _w: &TensorDesc, _host: &[u8]) -> Result<Option<Packed>> {
    Ok(None)
}
