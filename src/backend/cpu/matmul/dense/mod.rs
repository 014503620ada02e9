//! Products of plain weights for AVX2, AVX-512 and NEON: f32, f16, bf16 and i8, from rows, from columns
//! or packed into panels.
//!
//! A panel holds a few columns of y along k, so that one word of x meets a vector of columns.
//! Rows of x become lines of words once per op, panels are filled by the task that uses them or
//! were packed when the weight was loaded.

mod acts;
#[cfg(target_arch = "x86_64")]
mod amx;
mod gather;
mod gemm;
mod kernel;
mod ops;
mod pack;
mod panel;
mod rows;
mod tile;
mod unit;

#[cfg(target_arch = "aarch64")]
mod mmla;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod terms;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
use neon as arch;
#[cfg(target_arch = "x86_64")]
use x86 as arch;

#[cfg(target_arch = "x86_64")]
pub(super) use arch::lines_of_bf16;
pub(in crate::backend::cpu) use pack::prepack;
pub(crate) use rows::ROWS;

#[cfg(all(test, feature = "conformance"))]
mod tests;
