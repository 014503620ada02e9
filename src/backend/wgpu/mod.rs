//! The WGSL backend: Vulkan, Metal, DX12 and WebGPU through wgpu.

mod accessors;
mod caps;
mod device;
mod kernels;
mod launch;
mod memory;
mod pipeline;
mod rows;
mod shaders;
mod stream;
mod template;
mod walk;

pub use caps::Mask;

use crate::{
    device::{Backend, BoxFuture, Device, DeviceId, DeviceInfo, OpenOptions},
    error::{Error, Result},
};
use caps::Caps;
use device::{BACKEND, WgpuDevice};
use std::sync::Arc;

/// The wgpu backend. `WGPU_BACKEND=vulkan|metal|dx12` restricts which drivers are asked; it is read
/// until adapters are found.
#[derive(Debug)]
pub struct Wgpu;

/// What to do when there is no adapter.
const NO_ADAPTER: &str = "no adapter found: install a Vulkan driver and its loader (on Debian \
    `libvulkan1` with the vendor's driver, or `mesa-vulkan-drivers` for a software one), or on the \
    web use a browser with WebGPU";

/// The instance that found adapters, kept for the life of the process: with the last instance the
/// loader unloads the drivers, and NVIDIA's leaves destructors behind that a thread which used it
/// calls as it ends.
#[cfg(not(target_arch = "wasm32"))]
static KEPT: std::sync::OnceLock<wgpu::Instance> = std::sync::OnceLock::new();

fn instance() -> wgpu::Instance {
    #[cfg(not(target_arch = "wasm32"))]
    if let Some(kept) = KEPT.get() {
        return kept.clone();
    }
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::from_env().unwrap_or(wgpu::Backends::all()),
        flags: wgpu::InstanceFlags::empty().with_env(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    })
}

async fn adapters() -> Vec<wgpu::Adapter> {
    let instance = instance();
    let found = instance.enumerate_adapters(wgpu::Backends::all()).await;
    #[cfg(not(target_arch = "wasm32"))]
    if !found.is_empty() {
        let _ = KEPT.set(instance);
    }
    found
}

/// Can the kernels run on this adapter?
fn usable(adapter: &wgpu::Adapter) -> bool {
    adapter
        .get_downlevel_capabilities()
        .flags
        .contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
}

impl Backend for Wgpu {
    fn name(&self) -> &'static str {
        BACKEND
    }

    fn probe(&self) -> BoxFuture<'_, Result<Vec<DeviceInfo>>> {
        Box::pin(async {
            let found: Vec<DeviceInfo> = adapters()
                .await
                .iter()
                .filter(|a| usable(a))
                .enumerate()
                .map(|(i, a)| {
                    let info = a.get_info();
                    let features = Caps::request(a.features());
                    let caps = Caps::new(features, &a.limits(), &info, &Mask::default());
                    device::info(i as u32, &info, &caps)
                })
                .collect();
            if found.is_empty() {
                return Err(Error::not_available(BACKEND, NO_ADAPTER));
            }
            Ok(found)
        })
    }

    fn open<'a>(
        &'a self,
        id: &'a DeviceId,
        _options: &'a OpenOptions,
    ) -> BoxFuture<'a, Result<Arc<dyn Device>>> {
        Box::pin(open_masked(id.index, Mask::default()))
    }
}

/// Opens adapter `index` with some of its abilities hidden, as tests for lesser hardware do.
///
/// # Errors
/// [`Error::NotAvailable`] when there is no such adapter or its driver does not open.
pub async fn open_masked(index: u32, mask: Mask) -> Result<Arc<dyn Device>> {
    let found: Vec<wgpu::Adapter> = adapters().await.into_iter().filter(usable).collect();
    let Some(adapter) = found.get(index as usize) else {
        return Err(match found.len() {
            0 => Error::not_available(BACKEND, NO_ADAPTER),
            n => Error::not_available(
                BACKEND,
                format!("there is no adapter {index}; this machine has {n}, from 0"),
            ),
        });
    };
    let (device, queue) = adapter
        .request_device(&wgpu::DeviceDescriptor {
            label: Some("gristmill"),
            required_features: Caps::request(adapter.features()),
            required_limits: adapter.limits(),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        })
        .await
        .map_err(|e| {
            Error::not_available(
                BACKEND,
                format!("{} does not open: {e}", adapter.get_info().name),
            )
        })?;
    let device = WgpuDevice::new(device, queue, &adapter.get_info(), index, &mask);
    Ok(Arc::new(device))
}

/// Wraps a device that the program already has. The features and limits that it was opened with
/// decide what runs. Its handlers for uncaptured errors and loss are replaced: both surface as
/// errors of this crate.
#[must_use]
pub fn adopt(
    device: wgpu::Device,
    queue: wgpu::Queue,
    adapter: &wgpu::AdapterInfo,
) -> Arc<dyn Device> {
    Arc::new(WgpuDevice::new(device, queue, adapter, 0, &Mask::default()))
}
