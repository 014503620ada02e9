//! gristmill

pub mod quant;
