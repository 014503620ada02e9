//! A whole backend to copy: put a driver's calls where this one uses host memory, then run the
//! conformance suite. Ops that `supports` refuses run in parts or on the host until you add them.
use gristmill::device::{BoxFuture, Ticket};
use gristmill::*;
use std::{any::Any, ops::Range, sync::{Arc, Mutex, MutexGuard, PoisonError}};
/// Register it with `Registry::with(Template)`, select it as `template`.
#[derive(Debug)]
pub struct Template;
#[derive(Debug)]
struct TemplateDevice(DeviceInfo); // In a port: the driver's context and what it told.
#[derive(Debug)]
struct Memory(Mutex<Vec<u8>>); // In a port: the driver's handle and a size.
struct TemplateStream; // In a port: the driver's queue.

impl Backend for Template {
    fn name(&self) -> &'static str { "template" }
    /// The devices of this machine; without a driver the answer is `Error::not_available`.
    fn probe(&self) -> BoxFuture<'_, Result<Vec<DeviceInfo>>> {
        let (id, limits) = (DeviceId::new("template", 0), Limits::new(1 << 40));
        let info = DeviceInfo::new(id, "host memory", DeviceKind::Accelerator, limits, Caps::BLOCKING);
        Box::pin(async { Ok(vec![info]) })
    }
    fn open<'a>(&'a self, id: &'a DeviceId, _: &'a OpenOptions) -> BoxFuture<'a, Result<Arc<dyn Device>>> {
        Box::pin(async move {
            let found = self.probe().await?.into_iter().find(|info| info.id == *id);
            let info = found.ok_or_else(|| Error::not_available("template", format!("no {id}")))?;
            Ok(Arc::new(TemplateDevice(info)) as Arc<dyn Device>)
        })
    }
}

impl Device for TemplateDevice {
    fn info(&self) -> &DeviceInfo { &self.0 }
    fn as_any(&self) -> &dyn Any { self }
    fn stream(&self) -> Result<Box<dyn Stream>> { Ok(Box::new(TemplateStream)) }
    fn alloc(&self, asked: u64, _: Usage) -> Result<Arc<dyn RawBuffer>> {
        let mut zeros = Vec::new();
        zeros.try_reserve_exact(asked as usize).map_err(|_| Error::OutOfMemory { asked, free: None })?;
        zeros.resize(asked as usize, 0);
        Ok(Arc::new(Memory(Mutex::new(zeros))))
    }
    /// `encode` must accept what this accepts, so it is the one place that decides.
    fn supports(&self, op: &Op<TensorDesc>) -> Support {
        let dense = |d: &TensorDesc| d.plain() == Some(DType::F32) && d.is_contiguous();
        let fits = match op {
            Op::MatMul(MatMul { x, w: Weight::Rows(w), y, epilogue, .. }) =>
                epilogue.is_identity() && y.rank() == 2 && dense(x) && dense(w) && dense(y),
            Op::Dequantize(d) => d.w.is_contiguous() && dense(&d.y),
            _ => return Support::No(Refusal::Op),
        };
        let refusal = Refusal::Layout { arg: "y", why: "only one dense f32 matrix as it is" };
        if fits { Support::Native(Quality::Slow) } else { Support::No(refusal) }
    }
}
impl Memory {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> { self.0.lock().unwrap_or_else(PoisonError::into_inner) }
    /// `Queue` hands a stream nothing but buffers of its own device.
    fn of(b: &Buffer) -> &Memory { b.raw().as_any().downcast_ref().expect("a buffer of this device") }
    fn read(b: &Buffer, r: Range<u64>) -> Vec<u8> {
        Memory::of(b).bytes()[r.start as usize..r.end as usize].to_vec()
    }
}
impl RawBuffer for Memory {
    fn len(&self) -> u64 { self.bytes().len() as u64 }
    fn as_any(&self) -> &dyn Any { self }
}

impl Stream for TemplateStream {
    fn write(&mut self, dst: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        Memory::of(dst).bytes()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
    /// Shapes, types, bounds and overlap were checked before, `supports` said yes: just launch.
    unsafe fn encode(&mut self, op: &Op<Tensor>, _: Option<KernelId>) -> Result<()> {
        let cells = |t: &Tensor| Memory::read(t.buffer(), t.byte_range());
        let floats = |t: &Tensor| bytemuck::pod_collect_to_vec::<u8, f32>(&cells(t));
        let (y, numbers) = match op {
            Op::MatMul(MatMul { x, w, y, .. }) => {
                let (k, x, w) = (x.shape()[1] as usize, floats(x), &floats(w.tensor()));
                let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                (y, x.chunks(k).flat_map(|a| w.chunks(k).map(move |b| dot(a, b))).collect::<Vec<_>>())
            }
            Op::Dequantize(Dequantize { w, y }) => {
                let mut numbers = vec![0.0; w.desc().elements() as usize];
                let format = w.element().quant().expect("checked by Dequantize");
                format.decode(&cells(w), &mut numbers).map_err(|e| Error::backend("template", e))?;
                (y, numbers)
            }
            _ => return Err(Error::unsupported("template", "this op")),
        };
        self.write(y.buffer(), y.byte_offset(), bytemuck::cast_slice(&numbers))
    }
    fn submit(&mut self) -> Result<Ticket> { Ok(Ticket(0)) } // Everything ran in `encode`.
    fn wait(&mut self, _: Ticket) -> Result<()> { Ok(()) }
    fn read(&mut self, src: &Buffer, range: Range<u64>) -> BoxFuture<'static, Result<Vec<u8>>> {
        let copy = Memory::read(src, range); // Later work must not change what is read.
        Box::pin(async { Ok(copy) })
    }
}
