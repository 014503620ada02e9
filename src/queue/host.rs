//! The last route of a [`Queue`]: an op runs on the host's CPU, over copies.

use super::Queue;
use crate::{
    device::Usage,
    error::Result,
    op::{Op, Role},
    tensor::{Buffer, Tensor},
};

impl Queue {
    /// Copies the bytes that the op touches to the host, runs it on the CPU backend, copies back
    /// what it wrote.
    pub(super) fn run_on_host(&mut self, op: &Op<Tensor>) -> Result<()> {
        const ALIGN: u64 = 64;
        struct Touched {
            buffer: Buffer,
            start: u64,
            end: u64,
            written: bool,
        }
        let mut touched: Vec<Touched> = Vec::new();
        op.visit(|arg, t| {
            let range = t.byte_range();
            let start = range.start / ALIGN * ALIGN;
            match touched.iter_mut().find(|b| b.buffer.is_same(t.buffer())) {
                Some(b) => {
                    b.start = b.start.min(start);
                    b.end = b.end.max(range.end);
                    b.written |= arg.role.writes();
                }
                None => touched.push(Touched {
                    buffer: t.buffer().clone(),
                    start,
                    end: range.end,
                    written: arg.role != Role::In,
                }),
            }
        });
        let mut host = match self.host.take() {
            Some(host) => host,
            None => Box::new(Queue::with_kernel(
                &crate::backend::cpu::device(&Default::default())?,
                None,
            )?),
        };
        let mut copies = Vec::with_capacity(touched.len());
        for t in &touched {
            let bytes = pollster::block_on(self.stream.read(&t.buffer, t.start..t.end))?;
            let copy = Buffer::new(host.device(), bytes.len() as u64, Usage::Staging)?;
            if !bytes.is_empty() {
                host.stream.write(&copy, 0, &bytes)?;
            }
            copies.push(copy);
        }
        let order = op.try_map(|_, t| {
            let i = touched
                .iter()
                .position(|b| b.buffer.is_same(t.buffer()))
                .unwrap_or_default();
            Tensor::new(&copies[i], t.byte_offset() - touched[i].start, t.desc())
        })?;
        host.run(order)?;
        for (t, copy) in touched.iter().zip(&copies).filter(|(t, _)| t.written) {
            let bytes = pollster::block_on(host.stream.read(copy, 0..copy.len()))?;
            self.stream.write(&t.buffer, t.start, &bytes)?;
        }
        self.host = Some(host);
        Ok(())
    }
}
