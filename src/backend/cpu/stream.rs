//! The stream: ops run when they are encoded.

use super::{
    memory::{Guard, Memory},
    rows::{self, Ctx},
};
use crate::{
    backend,
    device::{BoxFuture, KernelId, Stream, Ticket},
    error::{Error, Result},
    op::Op,
    tensor::{Buffer, Tensor},
};
use std::ops::Range;

#[derive(Debug)]
pub(crate) struct CpuStream {
    pub ctx: Ctx,
    submitted: u64,
}

impl CpuStream {
    pub fn new(ctx: Ctx) -> Self {
        CpuStream { ctx, submitted: 0 }
    }
}

impl Stream for CpuStream {
    fn write(&mut self, dst: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        Memory::of(dst)?.write(offset, data)
    }

    unsafe fn encode(&mut self, op: &Op<Tensor>, kernel: Option<KernelId>) -> Result<()> {
        let question = op.map(|_, t| t.desc());
        let (row, _) =
            backend::select(rows::all(), &self.ctx.env, &question, kernel).map_err(|refusal| {
                Error::Unsupported {
                    backend: "cpu".into(),
                    op: Some(op.kind()),
                    refusal,
                }
            })?;
        let mut locks = Locks::default();
        op.try_map(|arg, t| {
            Memory::of(t.buffer()).map(|memory| locks.add(memory, arg.role.writes()))
        })?;
        // SAFETY: `op` keeps the memories of its operands alive, and the guards go first.
        let _held = unsafe { locks.hold()? };
        // SAFETY: the caller vouches for the op, `select` for the row; the locks keep every other
        // stream of this device from the operands.
        unsafe { (row.run)(&self.ctx, op) }
    }

    fn submit(&mut self) -> Result<Ticket> {
        self.submitted += 1;
        Ok(Ticket(self.submitted))
    }

    fn read(&mut self, src: &Buffer, range: Range<u64>) -> BoxFuture<'static, Result<Vec<u8>>> {
        let bytes = Memory::of(src).and_then(|m| m.read(range));
        Box::pin(async move { bytes })
    }

    fn wait(&mut self, _ticket: Ticket) -> Result<()> {
        Ok(())
    }
}

/// The buffers of one op, each once, in the order of their addresses: streams of several threads
/// that share buffers cannot wait for each other in a circle.
#[derive(Default)]
struct Locks(Vec<(*const Memory, bool)>);

impl Locks {
    fn add(&mut self, memory: *const Memory, writes: bool) {
        match self.0.iter_mut().find(|(m, _)| *m == memory) {
            Some((_, w)) => *w |= writes,
            None => self.0.push((memory, writes)),
        }
    }

    /// # Safety
    /// Every memory that was added outlives the guards.
    unsafe fn hold<'a>(mut self) -> Result<Vec<Guard<'a>>> {
        self.0.sort_unstable();
        self.0
            .into_iter()
            .map(|(memory, writes)| {
                // SAFETY: by this function's own condition.
                let memory = unsafe { &*memory };
                if writes {
                    memory.lock_mut()
                } else {
                    Ok(memory.lock())
                }
            })
            .collect()
    }
}
