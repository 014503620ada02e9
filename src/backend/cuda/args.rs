//! What a kernel is launched with.

use std::ffi::c_void;

/// Kernel arguments by value: scalars and device addresses of at most 8 bytes each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args {
    slots: Vec<Slot>,
}

/// A value, and how many of its bytes (from the low end) the kernel takes.
#[derive(Clone, Copy, Debug)]
struct Slot {
    value: u64,
    #[cfg_attr(not(test), allow(dead_code, reason = "tests compare it with the PTX"))]
    bytes: usize,
}

impl Args {
    /// No arguments yet.
    pub(crate) fn new() -> Args {
        Args {
            slots: Vec::with_capacity(24),
        }
    }

    fn push(mut self, value: u64, bytes: usize) -> Args {
        self.slots.push(Slot { value, bytes });
        self
    }

    /// Appends a device address; 0 is the null pointer.
    pub(crate) fn ptr(self, address: u64) -> Args {
        self.push(address, 8)
    }

    /// Appends a 64-bit integer.
    pub(crate) fn u64(self, value: u64) -> Args {
        self.push(value, 8)
    }

    /// Appends a 32-bit integer.
    pub(crate) fn u32(self, value: u32) -> Args {
        self.push(value.into(), 4)
    }

    /// Appends a 32-bit float.
    pub(crate) fn f32(self, value: f32) -> Args {
        self.push(value.to_bits().into(), 4)
    }

    /// Where each argument lies, in order, as a launch takes them.
    pub(crate) fn addresses(&mut self) -> Vec<*mut c_void> {
        let slots = self.slots.iter_mut();
        slots
            .map(|slot| std::ptr::from_mut(&mut slot.value).cast())
            .collect()
    }

    /// Sizes in bytes.
    #[cfg(test)]
    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.slots.iter().map(|s| s.bytes).collect()
    }

    /// Values, zero-extended.
    #[cfg(test)]
    pub(crate) fn values(&self) -> Vec<u64> {
        self.slots.iter().map(|s| s.value).collect()
    }
}

/// The low bytes of a slot come first in memory; [`Args`] relies on it.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "the CUDA backend is for little-endian hosts"
);

/// Grid, block and dynamic shared memory of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// CTAs in x, y, z.
    pub(crate) grid: [u32; 3],
    /// Threads of a CTA, all in x.
    pub(crate) block: u32,
    /// Dynamic shared memory in bytes.
    pub(crate) shared: u32,
}
