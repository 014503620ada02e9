//! The option that picks a device.

use anyhow::Result;
use gristmill::{Device, Registry, Select};
use std::sync::Arc;

/// Which device.
#[derive(clap::Args)]
pub struct DeviceArg {
    /// The device: cpu, wgpu, cuda:1, or a list of which the first that opens is taken
    /// (default: GRISTMILL_DEVICE, else the best).
    #[arg(long)]
    device: Option<String>,
}

impl DeviceArg {
    /// What the option, or else the environment, asks for.
    ///
    /// # Errors
    /// It names no device.
    pub fn select(&self) -> Result<Select> {
        Ok(match &self.device {
            Some(name) => Select::named(name)?,
            None => Select::from_env()?,
        })
    }

    /// Opens it.
    ///
    /// # Errors
    /// There is no such device here; the reason of each candidate.
    pub fn open(&self) -> Result<Arc<dyn Device>> {
        Ok(Registry::builtin().open_blocking(&self.select()?)?)
    }
}
