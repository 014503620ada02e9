//! Captures of op calls.

use crate::{error::Result, op::Op, queue::Queue, tensor::Tensor};

/// Environment variable that names the folder for captures.
pub const CAPTURE_VAR: &str = "GRISTMILL_CAPTURE";

/// Writes op calls to files.
#[derive(Debug)]
pub struct Recorder {}

/// A call whose inputs are recorded.
#[derive(Debug)]
pub struct Call {}

impl Recorder {
    /// Writes to `dir`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(_dir: std::path::PathBuf) -> Result<Self> {
        Ok(Recorder {})
    }

    pub(crate) fn record_inputs(&mut self, _queue: &mut Queue, _op: &Op<Tensor>) -> Result<Call> {
        Ok(Call {})
    }

    pub(crate) fn record_outputs(
        &mut self,
        _queue: &mut Queue,
        _op: &Op<Tensor>,
        _call: Call,
    ) -> Result<()> {
        Ok(())
    }
}
