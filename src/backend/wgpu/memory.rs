//! Device memory.

use super::device::{BACKEND, Core};
use crate::{
    device::RawBuffer,
    error::{Error, Result},
    tensor::Buffer,
};
use std::{any::Any, fmt, sync::Weak};

/// Buffers are padded so that a 16-byte load at the last element stays inside.
pub(crate) const PAD: u64 = 16;

/// A `wgpu::Buffer` and the number that caches know it by.
pub(crate) struct WgpuBuffer {
    pub(crate) id: u64,
    pub(crate) buffer: wgpu::Buffer,
    pub(crate) len: u64,
    pub(crate) core: Weak<Core>,
}

impl WgpuBuffer {
    /// The backend's object inside a buffer that the queue accepted.
    pub(crate) fn of(buffer: &Buffer) -> Result<&WgpuBuffer> {
        buffer
            .raw()
            .as_any()
            .downcast_ref()
            .ok_or_else(|| Error::backend(BACKEND, "a buffer of another backend"))
    }
}

impl fmt::Debug for WgpuBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WgpuBuffer {} of {} bytes", self.id, self.len)
    }
}

impl Drop for WgpuBuffer {
    fn drop(&mut self) {
        // Cached bind groups hold the memory; without this a freed tensor would stay allocated.
        if let Some(core) = self.core.upgrade() {
            core.forget(self.id);
        }
    }
}

impl RawBuffer for WgpuBuffer {
    fn len(&self) -> u64 {
        self.len
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
