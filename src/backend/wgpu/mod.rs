//! The wgpu backend.

use crate::{
    device::{Backend, BoxFuture, Device, DeviceId, DeviceInfo, OpenOptions},
    error::{Error, Result},
};
use std::sync::Arc;

/// The wgpu backend.
#[derive(Debug)]
pub struct Wgpu;

impl Backend for Wgpu {
    fn name(&self) -> &'static str {
        "wgpu"
    }

    fn probe(&self) -> BoxFuture<'_, Result<Vec<DeviceInfo>>> {
        Box::pin(async { Err(Error::not_available("wgpu", "not built")) })
    }

    fn open<'a>(
        &'a self,
        _id: &'a DeviceId,
        _options: &'a OpenOptions,
    ) -> BoxFuture<'a, Result<Arc<dyn Device>>> {
        Box::pin(async { Err(Error::not_available("wgpu", "not built")) })
    }
}
