//! The ops that move or touch each number once.

use super::rows::Row;

/// Kernels, best first.
pub(crate) const ROWS: &[Row] = &[];
