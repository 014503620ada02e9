//! The cpu backend.

use crate::{
    device::{Backend, BoxFuture, Device, DeviceId, DeviceInfo, OpenOptions},
    error::{Error, Result},
};
use std::sync::Arc;

/// The cpu backend.
#[derive(Debug)]
pub struct Cpu;

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn probe(&self) -> BoxFuture<'_, Result<Vec<DeviceInfo>>> {
        Box::pin(async { Err(Error::not_available("cpu", "not built")) })
    }

    fn open<'a>(
        &'a self,
        _id: &'a DeviceId,
        _options: &'a OpenOptions,
    ) -> BoxFuture<'a, Result<Arc<dyn Device>>> {
        Box::pin(async { Err(Error::not_available("cpu", "not built")) })
    }
}

/// Opens the host's processor.
///
/// # Errors
/// What [`Backend::open`] says.
pub fn device(_options: &OpenOptions) -> Result<Arc<dyn Device>> {
    Err(Error::not_available("cpu", "not built"))
}
