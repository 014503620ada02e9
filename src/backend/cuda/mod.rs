//! The cuda backend.

use crate::{
    device::{Backend, BoxFuture, Device, DeviceId, DeviceInfo, OpenOptions},
    error::{Error, Result},
};
use std::sync::Arc;

/// The cuda backend.
#[derive(Debug)]
pub struct Cuda;

impl Backend for Cuda {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn probe(&self) -> BoxFuture<'_, Result<Vec<DeviceInfo>>> {
        Box::pin(async { Err(Error::not_available("cuda", "not built")) })
    }

    fn open<'a>(
        &'a self,
        _id: &'a DeviceId,
        _options: &'a OpenOptions,
    ) -> BoxFuture<'a, Result<Arc<dyn Device>>> {
        Box::pin(async { Err(Error::not_available("cuda", "not built")) })
    }
}
