//! [`Registry`] and [`Select`]: which backends there are, and which device to open.

use crate::{
    device::{Backend, Device, DeviceId, DeviceInfo, DeviceKind, OpenOptions},
    error::{Error, Result},
};
use std::{fmt, sync::Arc};

/// Environment variable that [`Select::from_env`] reads: `cuda:0`, `wgpu`, or a list such as
/// `cuda,wgpu,cpu` of which the first that opens is taken.
pub const DEVICE_VAR: &str = "GRISTMILL_DEVICE";

/// Which device to open.
pub enum Select {
    /// The best of this machine: discrete GPU, other accelerator, integrated GPU, CPU; never a
    /// GPU emulated in software while there is a CPU backend. Of equal kind, the backend that was
    /// registered first.
    Best,
    /// These, the first that opens.
    Named(Vec<DeviceId>),
    /// The best that satisfies a predicate.
    Matching(Box<dyn Fn(&DeviceInfo) -> bool + Send + Sync>),
}

impl fmt::Debug for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Select::Best => f.write_str("Best"),
            Select::Named(ids) => f.debug_tuple("Named").field(ids).finish(),
            Select::Matching(_) => f.write_str("Matching(..)"),
        }
    }
}

impl Select {
    /// `best`, `cuda:0`, `wgpu`, or a list with commas.
    ///
    /// # Errors
    /// [`Error::Selection`] when it is none of these.
    pub fn named(list: &str) -> Result<Self> {
        if list.trim().eq_ignore_ascii_case("best") || list.trim().is_empty() {
            return Ok(Select::Best);
        }
        list.split(',')
            .map(|s| s.trim().parse())
            .collect::<Result<_>>()
            .map(Select::Named)
    }

    /// `GRISTMILL_DEVICE`, or the best.
    ///
    /// # Errors
    /// [`Error::Selection`] when the variable does not name a device.
    pub fn from_env() -> Result<Self> {
        match std::env::var_os(DEVICE_VAR) {
            Some(list) => Select::named(&list.to_string_lossy()),
            None => Ok(Select::Best),
        }
    }
}

/// The backends of a program.
#[derive(Clone, Debug)]
pub struct Registry {
    backends: Vec<Arc<dyn Backend>>,
}

impl Registry {
    /// Those compiled into this crate: CUDA, wgpu, CPU.
    pub fn builtin() -> Self {
        Registry {
            backends: vec![
                #[cfg(feature = "cuda")]
                Arc::new(crate::backend::cuda::Cuda),
                #[cfg(feature = "wgpu")]
                Arc::new(crate::backend::wgpu::Wgpu),
                #[cfg(feature = "cpu")]
                Arc::new(crate::backend::cpu::Cpu),
            ],
        }
    }

    /// None.
    pub fn empty() -> Self {
        Registry {
            backends: Vec::new(),
        }
    }

    /// Adds a backend. One of the same name replaces the earlier one.
    #[must_use]
    pub fn with(mut self, backend: impl Backend) -> Self {
        self.backends.retain(|b| b.name() != backend.name());
        self.backends.push(Arc::new(backend));
        self
    }

    /// The backends, in the order of registration.
    pub fn backends(&self) -> &[Arc<dyn Backend>] {
        &self.backends
    }

    /// Every backend's devices, or the reason why it has none.
    pub async fn probe(&self) -> Vec<(&'static str, Result<Vec<DeviceInfo>>)> {
        let mut all = Vec::with_capacity(self.backends.len());
        for backend in &self.backends {
            all.push((backend.name(), backend.probe().await));
        }
        all
    }

    /// Opens a device with default options.
    ///
    /// # Errors
    /// [`Error::Selection`] for an unknown backend, [`Error::NotAvailable`] with the reason of
    /// each candidate.
    pub async fn open(&self, select: &Select) -> Result<Arc<dyn Device>> {
        self.open_with(select, &OpenOptions::default()).await
    }

    /// Opens a device.
    ///
    /// # Errors
    /// As [`Registry::open`].
    pub async fn open_with(
        &self,
        select: &Select,
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>> {
        let any: &(dyn Fn(&DeviceInfo) -> bool + Send + Sync) = &|_| true;
        match select {
            Select::Named(ids) => self.open_named(ids, options).await,
            Select::Best => self.open_best(any, options).await,
            Select::Matching(accept) => self.open_best(accept, options).await,
        }
    }

    /// Blocking [`Registry::open`], for everywhere but the browser.
    ///
    /// # Errors
    /// As [`Registry::open`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_blocking(&self, select: &Select) -> Result<Arc<dyn Device>> {
        pollster::block_on(self.open(select))
    }

    async fn open_named(&self, ids: &[DeviceId], options: &OpenOptions) -> Result<Arc<dyn Device>> {
        let mut reasons = Vec::new();
        for id in ids {
            let Some(backend) = self.backends.iter().find(|b| b.name() == id.backend) else {
                let names: Vec<_> = self.backends.iter().map(|b| b.name()).collect();
                return Err(Error::Selection(format!(
                    "no backend is named {:?}; this build has {}",
                    id.backend,
                    names.join(", ")
                )));
            };
            match backend.open(id, options).await {
                Ok(device) => return Ok(device),
                Err(e) if ids.len() == 1 => return Err(e),
                Err(e) => reasons.push(format!("{id}: {e}")),
            }
        }
        Err(Error::not_available(
            "every device named",
            reasons.join("; "),
        ))
    }

    async fn open_best(
        &self,
        accept: &(dyn Fn(&DeviceInfo) -> bool + Send + Sync),
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>> {
        let mut found = Vec::new();
        let mut reasons = Vec::new();
        for backend in &self.backends {
            match backend.probe().await {
                Ok(devices) => found.extend(
                    devices
                        .into_iter()
                        .filter(|d| accept(d))
                        .map(|d| (backend, d)),
                ),
                Err(e) => reasons.push(e.to_string()),
            }
        }
        // A stable sort keeps the order of registration among equals.
        found.sort_by_key(|(_, d)| std::cmp::Reverse(d.kind));
        for (backend, info) in found {
            // A device that shows but does not open is passed over; the reason is kept.
            match backend.open(&info.id, options).await {
                Ok(device) => {
                    if info.kind == DeviceKind::SoftwareGpu {
                        log::warn!("{} is a GPU emulated in software", info.name);
                    }
                    return Ok(device);
                }
                Err(e) => reasons.push(format!("{}: {e}", info.id)),
            }
        }
        if reasons.is_empty() {
            reasons.push("no device satisfies the selection".to_owned());
        }
        Err(Error::not_available("every backend", reasons.join("; ")))
    }
}
