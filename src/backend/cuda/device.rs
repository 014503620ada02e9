//! [`Cuda`] and [`CudaDevice`]: finding, opening and asking.

use super::NAME;
use super::driver::{Attribute, Context, Memory, Stream as DriverStream};
use super::error::{CudaError, code};
use super::memory::CudaBuffer;
use super::modules::Modules;
use super::preflight::{Driver, driver, version_text};
use super::rows::{DeviceEnv, ROWS};
use super::stream::CudaStream;
use crate::{
    backend,
    device::{
        Backend, BoxFuture, Caps, Device, DeviceId, DeviceInfo, DeviceKind, KernelId, Limits,
        OpenOptions, RawBuffer, Stream, Support, Usage,
    },
    error::{Error, Result},
    layout::TensorDesc,
    op::{Op, OpKind},
};
use std::any::Any;
use std::sync::Arc;

/// Oldest compute capability that the PTX is compiled for, 10 * major + minor.
const MIN_CC: u32 = 75;

/// The CUDA backend.
#[derive(Debug)]
pub struct Cuda;

impl Backend for Cuda {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self) -> BoxFuture<'_, Result<Vec<DeviceInfo>>> {
        Box::pin(async { probe() })
    }

    fn open<'a>(
        &'a self,
        id: &'a DeviceId,
        _options: &'a OpenOptions,
    ) -> BoxFuture<'a, Result<Arc<dyn Device>>> {
        Box::pin(async { Ok(CudaDevice::open(id)? as Arc<dyn Device>) })
    }
}

fn unavailable(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::not_available(NAME, why)
}

fn probe() -> Result<Vec<DeviceInfo>> {
    let driver = driver().map_err(unavailable)?;
    let mut found = Vec::new();
    let mut passed = Vec::new();
    for index in 0..driver.devices {
        match Found::look(driver, index) {
            Ok(device) if device.env.cc >= MIN_CC => found.push(device.info(driver, index, None)),
            Ok(device) => passed.push(device.too_old()),
            Err(error) => passed.push(format!("{NAME}:{index}: {error}")),
        }
    }
    if found.is_empty() {
        return Err(unavailable(passed.join("; ")));
    }
    for why in passed {
        log::info!("passed over: {why}");
    }
    Ok(found)
}

/// What the driver tells of a device before it is opened.
struct Found {
    raw: i32,
    name: String,
    env: DeviceEnv,
    memory: u64,
    integrated: bool,
}

impl Found {
    fn look(driver: &Driver, index: u32) -> Result<Found, CudaError> {
        let api = &driver.api;
        // `index` is below the driver's own count, which is an i32.
        let raw = api.device(index as i32)?;
        // No property asked for here is ever negative.
        let ask = |attribute| Ok::<u32, CudaError>(api.attribute(raw, attribute)?.max(0) as u32);
        Ok(Found {
            raw,
            name: api.device_name(raw)?,
            env: DeviceEnv {
                cc: 10 * ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
                    + ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
                sms: ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
                shared: ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            },
            memory: api.total_memory(raw)?,
            integrated: ask(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
        })
    }

    fn too_old(&self) -> String {
        format!(
            "{} has compute capability {}.{}; 7.5 (Turing) or later is needed",
            self.name,
            self.env.cc / 10,
            self.env.cc % 10
        )
    }

    fn info(&self, driver: &Driver, index: u32, memory: Option<(u64, u64)>) -> DeviceInfo {
        let kind = if self.integrated {
            DeviceKind::IntegratedGpu
        } else {
            DeviceKind::DiscreteGpu
        };
        let id = DeviceId::new(NAME, index);
        let mut info = DeviceInfo::new(
            id,
            self.name.clone(),
            kind,
            Limits::new(self.memory),
            Caps::BLOCKING,
        );
        info.memory = memory;
        info.features = vec![
            format!(
                "compute capability {}.{}",
                self.env.cc / 10,
                self.env.cc % 10
            ),
            format!("{} SMs", self.env.sms),
            format!("driver for CUDA {}", version_text(driver.version)),
        ];
        info
    }
}

/// An open CUDA device.
#[derive(Debug)]
pub struct CudaDevice {
    info: DeviceInfo,
    pub(super) env: DeviceEnv,
    pub(super) context: Arc<Context>,
    pub(super) modules: Modules,
    /// Clears new buffers.
    clearing: DriverStream,
    this: std::sync::Weak<CudaDevice>,
}

impl CudaDevice {
    fn open(id: &DeviceId) -> Result<Arc<CudaDevice>> {
        let driver = driver().map_err(unavailable)?;
        if id.index >= driver.devices {
            return Err(unavailable(format!(
                "there is no {id}; the driver sees {} device(s)",
                driver.devices
            )));
        }
        let look = |error: CudaError| unavailable(format!("{id} does not open: {error}"));
        let found = Found::look(driver, id.index).map_err(look)?;
        if found.env.cc < MIN_CC {
            return Err(unavailable(found.too_old()));
        }
        let context = Context::new(&driver.api, found.raw).map_err(look)?;
        let memory = context.memory().map_err(look)?;
        let clearing = DriverStream::new(&context).map_err(look)?;
        Ok(Arc::new_cyclic(|this| CudaDevice {
            info: found.info(driver, id.index, Some(memory)),
            env: found.env,
            modules: Modules::new(&context),
            context,
            clearing,
            this: this.clone(),
        }))
    }

    /// Memory that may hold anything.
    pub(super) fn allocate(&self, bytes: u64) -> Result<Memory> {
        let max = self.info.limits.max_buffer;
        let len = usize::try_from(bytes).ok().filter(|_| bytes <= max);
        let len = len.ok_or(Error::TooLarge {
            what: "buffer",
            asked: bytes,
            max,
        })?;
        Memory::new(&self.context, len).map_err(|error| match error.code {
            code::OUT_OF_MEMORY => Error::OutOfMemory {
                asked: bytes,
                free: self.context.memory().ok().map(|(free, _)| free),
            },
            _ => failed(error),
        })
    }
}

/// A driver's error as this crate's.
pub(super) fn failed(error: CudaError) -> Error {
    if error.is_fatal() {
        return Error::DeviceLost {
            why: error.to_string(),
        };
    }
    Error::backend(NAME, error)
}

impl Device for CudaDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, bytes: u64, _usage: Usage) -> Result<Arc<dyn RawBuffer>> {
        let memory = self.allocate(bytes)?;
        // SAFETY: the range is the allocation just made.
        unsafe { self.clearing.fill(memory.ptr(), 0, memory.len()) }.map_err(failed)?;
        // Other streams do not wait for this one.
        self.clearing.synchronize().map_err(failed)?;
        Ok(Arc::new(CudaBuffer::new(memory)))
    }

    fn supports(&self, op: &Op<TensorDesc>) -> Support {
        backend::supports(ROWS, &self.env, op)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        let device = self
            .this
            .upgrade()
            .ok_or_else(|| unavailable("the device is being closed"))?;
        Ok(Box::new(CudaStream::new(device)?))
    }

    fn kernels(&self, op: &Op<TensorDesc>) -> Vec<KernelId> {
        backend::fitting(ROWS, &self.env, op)
            .map(|(row, _)| row.id)
            .collect()
    }

    fn all_kernels(&self) -> Vec<(OpKind, KernelId)> {
        ROWS.iter().map(|row| (row.op, row.id)).collect()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a driver the answer is an error with a way out; with one, devices.
    #[test]
    fn probe_and_open_never_panic() {
        let probed = pollster::block_on(Cuda.probe());
        let opened =
            pollster::block_on(Cuda.open(&DeviceId::new(NAME, 0), &OpenOptions::default()));
        match probed {
            Ok(devices) => {
                assert!(!devices.is_empty());
                assert!(
                    devices
                        .iter()
                        .all(|d| d.id.backend == NAME && d.limits.max_buffer > 0)
                );
            }
            Err(Error::NotAvailable { backend, why }) => {
                assert_eq!(backend, NAME);
                assert!(
                    why.contains("driver") || why.contains("compute capability"),
                    "{why}"
                );
                assert!(matches!(opened, Err(Error::NotAvailable { .. })));
            }
            Err(other) => panic!("{other}"),
        }
        let far = pollster::block_on(
            Cuda.open(&DeviceId::new(NAME, 4_000_000_000), &OpenOptions::default()),
        );
        assert!(matches!(far, Err(Error::NotAvailable { .. })));
    }
}
