//! The stream: ops run when they are encoded, or are kept for later while a step is captured.

use super::{
    memory::{Guard, Memory},
    rows::{self, Ctx, Row},
};
use crate::{
    backend,
    device::{BoxFuture, Graph, KernelId, Stream, Ticket},
    error::{Error, Result},
    op::Op,
    tensor::{Buffer, Tensor},
};
use std::{ops::Range, sync::Arc};

#[derive(Debug)]
pub(crate) struct CpuStream {
    ctx: Arc<Ctx>,
    submitted: u64,
    recording: Option<Vec<Call>>,
}

/// An op and the kernel that was picked for it.
#[derive(Debug)]
struct Call {
    row: &'static Row,
    op: Op<Tensor>,
}

impl CpuStream {
    pub fn new(ctx: Ctx) -> Self {
        CpuStream {
            ctx: Arc::new(ctx),
            submitted: 0,
            recording: None,
        }
    }

    /// Host copies have no place in a recorded step.
    fn not_recording(&self, what: &'static str) -> Result<()> {
        match self.recording {
            None => Ok(()),
            Some(_) => Err(Error::unsupported("cpu", what)),
        }
    }
}

impl Stream for CpuStream {
    fn write(&mut self, dst: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        self.not_recording("writing from the host while a step is captured")?;
        Memory::of(dst)?.write(&self.ctx.pool, offset, data)
    }

    unsafe fn encode(&mut self, op: &Op<Tensor>, kernel: Option<KernelId>) -> Result<()> {
        let question = op.map(|_, t| t.desc());
        let (row, _) = backend::select(rows::all(), &self.ctx.env, &question, kernel)
            .map_err(|refusal| rows::unsupported(op.kind(), refusal))?;
        let mut locks = Locks::default();
        locks.add_all(op)?;
        let held = locks.hold()?;
        if let Some(calls) = &mut self.recording {
            drop(held);
            let op = op.clone();
            calls.push(Call { row, op });
            return Ok(());
        }
        // SAFETY: the caller vouches for the op, `select` for the row; the locks keep every other
        // stream of this device from the operands.
        unsafe { (row.run)(&self.ctx, op) }
    }

    fn submit(&mut self) -> Result<Ticket> {
        self.submitted += 1;
        Ok(Ticket(self.submitted))
    }

    fn read(&mut self, src: &Buffer, range: Range<u64>) -> BoxFuture<'static, Result<Vec<u8>>> {
        let bytes = self
            .not_recording("reading while a step is captured")
            .and_then(|()| Memory::of(src)?.read(range));
        Box::pin(async move { bytes })
    }

    fn wait(&mut self, _ticket: Ticket) -> Result<()> {
        Ok(())
    }

    fn begin_capture(&mut self) -> Result<()> {
        self.not_recording("a capture inside a capture")?;
        self.recording = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&mut self) -> Result<Box<dyn Graph>> {
        let calls = self
            .recording
            .take()
            .ok_or_else(|| Error::unsupported("cpu", "ending a capture that was not begun"))?;
        let mut locks = Locks::default();
        calls.iter().try_for_each(|call| locks.add_all(&call.op))?;
        Ok(Box::new(Step {
            ctx: self.ctx.clone(),
            calls,
            locks,
        }))
    }
}

/// A recorded step: what validation and selection decided stays decided.
#[derive(Debug)]
struct Step {
    ctx: Arc<Ctx>,
    calls: Vec<Call>,
    locks: Locks,
}

impl Graph for Step {
    fn replay(&self, _on: &mut dyn Stream) -> Result<()> {
        let _held = self.locks.hold()?;
        for Call { row, op } in &self.calls {
            // SAFETY: `encode` was told that the op is valid and selected the row for it; the
            // locks keep every other stream of this device from the operands of the whole step.
            unsafe { (row.run)(&self.ctx, op)? };
        }
        Ok(())
    }
}

/// The buffers of some ops, each once, in the order of their addresses: streams of several
/// threads that share buffers cannot wait for each other in a circle.
#[derive(Debug, Default)]
struct Locks(Vec<(Buffer, bool)>);

impl Locks {
    fn add_all(&mut self, op: &Op<Tensor>) -> Result<()> {
        let mut result = Ok(());
        op.visit(|arg, t| {
            if result.is_ok() {
                result = self.add(t.buffer(), arg.role.writes());
            }
        });
        result
    }

    fn add(&mut self, buffer: &Buffer, writes: bool) -> Result<()> {
        let address = |b: &Buffer| Memory::of(b).map(std::ptr::from_ref);
        let new = address(buffer)?;
        match self
            .0
            .binary_search_by_key(&new, |(b, _)| address(b).unwrap_or(std::ptr::null()))
        {
            Ok(i) => self.0[i].1 |= writes,
            Err(i) => self.0.insert(i, (buffer.clone(), writes)),
        }
        Ok(())
    }

    fn hold(&self) -> Result<Vec<Guard<'_>>> {
        self.0
            .iter()
            .map(|(buffer, writes)| {
                let memory = Memory::of(buffer)?;
                if *writes {
                    memory.lock_mut()
                } else {
                    Ok(memory.lock())
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Binary, MatMul, OpenOptions, Queue, TensorDesc, backend::cpu};

    #[test]
    fn a_recorded_step_runs_again_on_what_its_buffers_hold() {
        let device = cpu::device(&OpenOptions { threads: Some(2) }).unwrap();
        let mut queue = Queue::with_kernel(&device, None).unwrap();
        let a = queue.upload(&[1.0f32, 2.0, 3.0], &[1, 3]).unwrap();
        let w = queue.upload(&[1.0f32; 3], &[1, 3]).unwrap();
        let y = queue.upload(&[0.0f32; 3], &[1, 3]).unwrap();
        let sum = queue.upload(&[0.0f32], &[1, 1]).unwrap();
        assert!(queue.end_capture().is_err(), "no capture is open");
        queue.begin_capture().unwrap();
        queue.run(Binary::add(&a, &y, &y)).unwrap();
        queue.run(MatMul::new(&y, &w, &sum)).unwrap();
        assert!(queue.write(&a, &[9.0f32; 3]).is_err());
        assert!(queue.download::<f32>(&y).is_err());
        assert!(queue.begin_capture().is_err());
        let short = queue.alloc(
            TensorDesc::new(crate::DType::F32, &[1, 2]).unwrap(),
            crate::device::Usage::Activations,
        );
        assert!(
            queue.run(Binary::add(&a, &short.unwrap(), &y)).is_err(),
            "what is recorded is validated"
        );
        let step = queue.end_capture().unwrap();
        assert_eq!(
            queue.download::<f32>(&y).unwrap(),
            [0.0; 3],
            "nothing ran yet"
        );
        queue.replay(&*step).unwrap();
        queue.write(&a, &[1.0f32; 3]).unwrap();
        queue.replay(&*step).unwrap();
        assert_eq!(queue.download::<f32>(&y).unwrap(), [2.0, 3.0, 4.0]);
        assert_eq!(queue.download::<f32>(&sum).unwrap(), [9.0]);
    }
}
