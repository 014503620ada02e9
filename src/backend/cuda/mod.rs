//! NVIDIA GPUs of compute capability 7.5 and later, through the driver alone: the kernels are committed as PTX 8.0,
//! which drivers since version 525 compile for the GPU at hand, each module when one of its kernels is first used.
//!
//! The layers, from below: `driver` (raw calls, the only module that names cudarc), `preflight` (is there a driver?),
//! `modules` (PTX to kernels), one module per op family over `geometry`, `rows` (the kernel table), and `device` and
//! `stream`, which implement the contract.

mod args;
mod copy;
mod dequantize;
mod device;
mod driver;
mod elementwise;
mod error;
mod geometry;
mod matmul;
mod memory;
mod modules;
mod preflight;
mod rows;
mod stream;

pub use device::{Cuda, CudaDevice};
pub use memory::CudaBuffer;

/// Name of the backend.
const NAME: &str = "cuda";
