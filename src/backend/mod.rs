//! The built-in backends, and the kernel table that they share.

#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "wgpu")]
pub mod wgpu;

#[cfg(any(feature = "cpu", feature = "cuda", feature = "wgpu"))]
mod table;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(crate) use table::first;
#[cfg(any(feature = "cpu", feature = "cuda", feature = "wgpu"))]
pub(crate) use table::{Row, fitting, select, supports};
