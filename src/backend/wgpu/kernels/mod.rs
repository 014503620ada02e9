//! How each kernel is chosen and launched.

pub(crate) mod attention;
pub(crate) mod matmul;
pub(crate) mod weights;
