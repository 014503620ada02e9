//! The open device: what its streams share.

use super::{
    caps::{self, Caps, Mask},
    memory::{PAD, WgpuBuffer},
    pipeline::{BindGroups, Pipelines},
    rows,
    stream::WgpuStream,
};
use crate::{
    backend,
    device::{
        Caps as DeviceCaps, Device, DeviceId, DeviceInfo, External, KernelId, RawBuffer, Stream,
        Support, Usage,
    },
    error::{Error, Result},
    layout::TensorDesc,
    op::{Op, OpKind},
};
use std::{
    any::Any,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Name of the backend.
pub(crate) const BACKEND: &str = "wgpu";

/// Locks; a panic elsewhere leaves nothing half done that matters here.
pub(crate) fn lock<T: ?Sized>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Errors that arrive outside of any call; they surface at the next one.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    lost: Mutex<Option<String>>,
    error: Mutex<Option<String>>,
}

impl Faults {
    /// The error that happened since the last call; a lost device stays lost.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(why) = &*lock(&self.lost) {
            return Err(Error::DeviceLost { why: why.clone() });
        }
        match lock(&self.error).take() {
            Some(why) => Err(Error::backend(BACKEND, why)),
            None => Ok(()),
        }
    }

    pub(crate) fn lose(&self, why: String) {
        lock(&self.lost).get_or_insert(why);
    }

    fn record(&self, error: &wgpu::Error) {
        lock(&self.error).get_or_insert_with(|| error.to_string());
    }
}

/// Device, queue and the caches of pipelines and bind groups.
pub(crate) struct Core {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) caps: Caps,
    pub(crate) faults: Arc<Faults>,
    pub(crate) pipelines: Mutex<Pipelines>,
    groups: Mutex<BindGroups>,
    next_id: AtomicU64,
}

impl Core {
    fn new(device: wgpu::Device, queue: wgpu::Queue, caps: Caps) -> Arc<Self> {
        let faults = Arc::new(Faults::default());
        let seen = faults.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            log::error!("wgpu: {e}");
            seen.record(&e);
        }));
        let seen = faults.clone();
        device.set_device_lost_callback(move |reason, why| {
            // Dropping the device at the end is no loss.
            if reason != wgpu::DeviceLostReason::Destroyed {
                seen.lose(why);
            }
        });
        Arc::new(Core {
            device,
            queue,
            caps,
            faults,
            pipelines: Mutex::default(),
            groups: Mutex::default(),
            next_id: AtomicU64::new(1),
        })
    }

    /// A number that no other buffer has.
    pub(crate) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Zeroed memory.
    pub(crate) fn alloc(self: &Arc<Self>, bytes: u64) -> Result<Arc<WgpuBuffer>> {
        self.faults.check()?;
        let size = bytes.max(1).next_multiple_of(PAD);
        if size > self.caps.max_buffer {
            return Err(Error::TooLarge {
                what: "buffer",
                asked: bytes,
                max: self.caps.max_buffer,
            });
        }
        let create = || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let buffer = self.scoped(create).map_err(|e| match e {
            wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory {
                asked: bytes,
                free: None,
            },
            other => Error::backend(BACKEND, other.to_string()),
        })?;
        Ok(Arc::new(WgpuBuffer {
            id: self.new_id(),
            buffer,
            len: bytes,
            core: Arc::downgrade(self),
        }))
    }

    /// Runs `f` and returns the error that the driver or the validation raised in it. In a
    /// browser errors arrive later, so they go to [`Faults`] there.
    pub(crate) fn scoped<T>(&self, f: impl FnOnce() -> T) -> Result<T, wgpu::Error> {
        if cfg!(target_arch = "wasm32") {
            return Ok(f());
        }
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let valid = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let inner = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let made = f();
        // Native error scopes are ready at once, so nothing blocks here.
        let errors = [inner, valid, memory].map(|scope| pollster::block_on(scope.pop()));
        match errors.into_iter().flatten().next() {
            Some(error) => Err(error),
            None => Ok(made),
        }
    }

    pub(crate) fn groups(&self) -> MutexGuard<'_, BindGroups> {
        lock(&self.groups)
    }

    /// Drops what the caches hold of a buffer.
    pub(crate) fn forget(&self, buffer: u64) {
        self.groups().forget(buffer);
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("caps", &self.caps).finish()
    }
}

/// The [`Device`] of this backend.
#[derive(Debug)]
pub(crate) struct WgpuDevice {
    pub(crate) core: Arc<Core>,
    info: DeviceInfo,
}

/// Description of an adapter, for [`Device::info`] and the probe.
pub(crate) fn info(index: u32, adapter: &wgpu::AdapterInfo, caps: &Caps) -> DeviceInfo {
    let mut abilities = if caps.web {
        DeviceCaps::default()
    } else {
        DeviceCaps::BLOCKING
    };
    if adapter.device_type != wgpu::DeviceType::DiscreteGpu {
        abilities = abilities.with_unified_memory();
    }
    let info = DeviceInfo::new(
        DeviceId::new(BACKEND, index),
        adapter.name.clone(),
        caps::kind(adapter),
        caps.limits(),
        abilities.with_capture().with_import(),
    );
    caps::describe(info, adapter, caps)
}

impl WgpuDevice {
    pub(crate) fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        adapter: &wgpu::AdapterInfo,
        index: u32,
        mask: &Mask,
    ) -> Self {
        let caps = Caps::new(device.features(), &device.limits(), adapter, mask);
        let info = info(index, adapter, &caps);
        WgpuDevice {
            core: Core::new(device, queue, caps),
            info,
        }
    }
}

impl Device for WgpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, bytes: u64, _usage: Usage) -> Result<Arc<dyn RawBuffer>> {
        Ok(self.core.alloc(bytes)?)
    }

    fn supports(&self, op: &Op<TensorDesc>) -> Support {
        backend::supports(rows::ROWS, &self.core.caps, op)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.core.faults.check()?;
        Ok(Box::new(WgpuStream::new(&self.core)?))
    }

    fn kernels(&self, op: &Op<TensorDesc>) -> Vec<KernelId> {
        backend::fitting(rows::ROWS, &self.core.caps, op)
            .map(|(row, _)| row.id)
            .collect()
    }

    fn all_kernels(&self) -> Vec<(OpKind, KernelId)> {
        rows::ROWS.iter().map(|row| (row.op, row.id)).collect()
    }

    fn import(&self, external: External) -> Result<Arc<dyn RawBuffer>> {
        const NEEDS: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
            .union(wgpu::BufferUsages::COPY_SRC)
            .union(wgpu::BufferUsages::COPY_DST);
        let External::Native(object) = external else {
            return Err(Error::unsupported(
                BACKEND,
                "importing host memory (upload it, or import a wgpu::Buffer)",
            ));
        };
        let buffer = *object
            .downcast::<wgpu::Buffer>()
            .map_err(|_| Error::unsupported(BACKEND, "importing anything but a wgpu::Buffer"))?;
        if !buffer.usage().contains(NEEDS) || !buffer.size().is_multiple_of(PAD) {
            return Err(Error::InvalidTensor(
                format!(
                    "the imported buffer has {} bytes and usage {:?}; expected a multiple of {PAD} \
                     bytes and usage {NEEDS:?}",
                    buffer.size(),
                    buffer.usage()
                )
                .into(),
            ));
        }
        Ok(Arc::new(WgpuBuffer {
            id: self.core.new_id(),
            len: buffer.size(),
            buffer,
            core: Arc::downgrade(&self.core),
        }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
