//! Device buffers.

use super::driver::Memory;
use crate::device::RawBuffer;
use std::any::Any;

/// Memory of a CUDA device.
#[derive(Debug)]
pub struct CudaBuffer {
    memory: Memory,
}

impl CudaBuffer {
    pub(super) fn new(memory: Memory) -> Self {
        CudaBuffer { memory }
    }

    /// Device address of the first byte (a `CUdeviceptr`), valid while the buffer lives.
    pub fn address(&self) -> u64 {
        self.memory.ptr()
    }
}

impl RawBuffer for CudaBuffer {
    fn len(&self) -> u64 {
        self.memory.len() as u64
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
