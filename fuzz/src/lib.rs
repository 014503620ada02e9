//! What the fuzz targets share.

pub mod ops;
pub mod work;
