//! Attention.

use super::rows::Row;

/// Kernels, best first.
pub(crate) const ROWS: &[Row] = &[];
