//! [`CudaStream`]: the order of work on a device.

use super::args::{Args, Launch};
use super::device::{CudaDevice, failed};
use super::driver::{Event, Memory, Stream as DriverStream};
use super::memory::CudaBuffer;
use super::rows::{DeviceEnv, ROWS, Scratch, Sink, View, question_of};
use super::{NAME, dequantize::unsupported};
use crate::{
    backend,
    device::{BoxFuture, KernelId, Stream, Ticket},
    error::{Error, Result},
    op::Op,
    tensor::{Buffer, Tensor},
};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// A CUDA stream and what it needs between ops. Work starts when it is encoded.
#[derive(Debug)]
pub(super) struct CudaStream {
    stream: DriverStream,
    scratch: HashMap<Scratch, Memory>,
    submitted: u64,
    /// Ends of the submissions that may still run, oldest first.
    running: VecDeque<(Ticket, Event)>,
    device: Arc<CudaDevice>,
}

impl CudaStream {
    pub(super) fn new(device: Arc<CudaDevice>) -> Result<CudaStream> {
        let stream = DriverStream::new(&device.context).map_err(failed)?;
        Ok(CudaStream {
            stream,
            scratch: HashMap::new(),
            submitted: 0,
            running: VecDeque::new(),
            device,
        })
    }

    /// Forgets the submissions that have ended.
    fn forget_ended(&mut self) -> Result<()> {
        while let Some((_, event)) = self.running.front() {
            if !event.is_done().map_err(failed)? {
                break;
            }
            self.running.pop_front();
        }
        Ok(())
    }
}

fn own(buffer: &Buffer) -> Result<&CudaBuffer> {
    buffer
        .raw()
        .as_any()
        .downcast_ref()
        .ok_or_else(|| Error::InvalidTensor("the buffer is not one of the CUDA backend".into()))
}

/// Bytes `range` of a buffer as an address.
fn part(buffer: &Buffer, range: &Range<u64>) -> Result<u64> {
    let raw = own(buffer)?;
    if range.start > range.end || range.end > buffer.len() {
        return Err(Error::InvalidTensor(
            format!(
                "bytes {}..{} of a buffer of {}",
                range.start,
                range.end,
                buffer.len()
            )
            .into(),
        ));
    }
    Ok(raw.address() + range.start)
}

fn view(tensor: &Tensor) -> Result<View> {
    Ok(View {
        address: own(tensor.buffer())?.address() + tensor.byte_offset(),
        desc: tensor.desc(),
    })
}

impl Sink for CudaStream {
    fn env(&self) -> DeviceEnv {
        self.device.env
    }

    fn scratch(&mut self, of: Scratch, bytes: u64) -> Result<u64> {
        if let Some(memory) = self.scratch.get(&of)
            && memory.len() as u64 >= bytes
        {
            return Ok(memory.ptr());
        }
        // The old one first: both may not fit. Dropping waits for the launches that use it.
        self.scratch.remove(&of);
        // Some room, so that a slowly growing batch does not allocate at each step.
        let memory = self.device.allocate(
            bytes
                .max(1)
                .next_power_of_two()
                .min(bytes + bytes / 4 + (1 << 20)),
        )?;
        let address = memory.ptr();
        self.scratch.insert(of, memory);
        Ok(address)
    }

    fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<()> {
        // SAFETY: the row's contract (see `launch`).
        unsafe { self.stream.copy(to, from, bytes as usize) }.map_err(failed)
    }

    fn launch(&mut self, kernel: &str, launch: Launch, mut args: Args) -> Result<()> {
        let function = self
            .device
            .modules
            .function(kernel, launch.shared)
            .map_err(failed)?;
        // SAFETY: only rows of the table call this, from `encode`, whose caller promises valid operands; tests compare
        // each row's parameters with the PTX and its sizes with the operands.
        unsafe { self.stream.launch(&function, launch, &mut args) }.map_err(|error| {
            failed(super::error::CudaError {
                log: Some(format!("kernel {kernel}, {launch:?}")),
                ..error
            })
        })
    }
}

impl Stream for CudaStream {
    fn write(&mut self, dst: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        let to = part(dst, &(offset..offset.saturating_add(data.len() as u64)))?;
        // SAFETY: `part` checked that the range lies in the buffer.
        unsafe { self.stream.upload(to, data) }.map_err(failed)
    }

    unsafe fn encode(&mut self, op: &Op<Tensor>, kernel: Option<KernelId>) -> Result<()> {
        let op = op.try_map(|_, tensor| view(tensor))?;
        let asked = question_of(&op);
        let (row, _) = backend::select(ROWS, &self.device.env, &asked, kernel)
            .map_err(|refusal| unsupported(op.kind(), refusal))?;
        (row.run)(self, &op)
    }

    fn submit(&mut self) -> Result<Ticket> {
        self.forget_ended()?;
        self.submitted += 1;
        let ticket = Ticket(self.submitted);
        let event = self.stream.record().map_err(failed)?;
        self.running.push_back((ticket, event));
        Ok(ticket)
    }

    fn read(&mut self, src: &Buffer, range: Range<u64>) -> BoxFuture<'static, Result<Vec<u8>>> {
        let read = part(src, &range).and_then(|from| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            // SAFETY: `part` checked that the range lies in the buffer.
            unsafe { self.stream.download(&mut bytes, from) }.map_err(failed)?;
            Ok(bytes)
        });
        Box::pin(async { read })
    }

    fn wait(&mut self, ticket: Ticket) -> Result<()> {
        if ticket.0 > self.submitted {
            return Err(Error::backend(
                NAME,
                format!("ticket {} was not given out by this stream", ticket.0),
            ));
        }
        while let Some((running, event)) = self.running.front() {
            if *running > ticket {
                break;
            }
            event.wait().map_err(failed)?;
            self.running.pop_front();
        }
        Ok(())
    }
}
