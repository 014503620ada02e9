//! The host's processor: SIMD kernels picked by run-time detection, portable Rust for the rest.
//!
//! Ops run as they are encoded, on the calling thread and the workers of a rayon pool.
//! `GRISTMILL_CPU_ISA` (`portable`, `avx2`, `avx512`, `neon`, `dotprod`) restricts the instruction
//! sets.

mod attention;
pub mod ceilings;
mod convert;
mod device;
mod isa;
mod math;
mod matmul;
mod memory;
mod ops;
mod parts;
mod pool;
mod rows;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod simd;
mod stream;
mod view;

pub use isa::{ISA_VAR, Level};

use crate::{
    device::{Backend, BoxFuture, Device, DeviceId, DeviceInfo, OpenOptions},
    error::{Error, Result},
};
use std::sync::Arc;

/// The host's processor as a backend; its one device is `cpu:0`.
#[derive(Debug)]
pub struct Cpu;

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn probe(&self) -> BoxFuture<'_, Result<Vec<DeviceInfo>>> {
        Box::pin(async { Ok(vec![device::info(isa::Isa::from_env()?)]) })
    }

    fn open<'a>(
        &'a self,
        id: &'a DeviceId,
        options: &'a OpenOptions,
    ) -> BoxFuture<'a, Result<Arc<dyn Device>>> {
        Box::pin(async move {
            if id.index != 0 {
                return Err(Error::not_available(
                    "cpu",
                    format!("{id} does not exist; the whole processor is cpu:0"),
                ));
            }
            device(options)
        })
    }
}

/// Opens the host's processor, with the instruction sets that `GRISTMILL_CPU_ISA` allows.
///
/// # Errors
/// [`Error::Selection`] when the variable holds an unknown word, [`Error::Backend`] when the
/// threads cannot be started.
pub fn device(options: &OpenOptions) -> Result<Arc<dyn Device>> {
    Ok(Arc::new(device::CpuDevice::open(
        isa::Isa::from_env()?,
        options,
    )?))
}

/// Opens the host's processor with no instruction set above `level`, whatever the environment
/// says: how one machine tests the kernels of lesser ones.
///
/// # Errors
/// [`Error::Backend`] when the threads cannot be started.
pub fn device_at(level: Level, options: &OpenOptions) -> Result<Arc<dyn Device>> {
    Ok(Arc::new(device::CpuDevice::open(
        isa::Isa::detect().masked(level),
        options,
    )?))
}
