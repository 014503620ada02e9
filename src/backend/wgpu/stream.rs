//! The ordered stream: one open encoder with one compute pass per submission.

use super::{
    caps::Caps,
    device::{BACKEND, Core, lock},
    launch::{Launch, Ready, Scratch},
    memory::{PAD, WgpuBuffer},
    pipeline::{PARAM_BYTES, Pipeline},
    rows,
};
use crate::{
    backend,
    device::{BoxFuture, Graph, KernelId, Stream, Ticket},
    error::{Error, Result},
    op::Op,
    tensor::{Buffer, Tensor},
};
use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

/// Dispatches after which work starts without waiting for `submit`: recording costs about a
/// microsecond each, so the device never waits long for its first work.
const DISPATCHES_PER_SUBMIT: u32 = 128;

/// Bytes per upload, so that staging memory stays bounded.
const UPLOAD_BYTES: usize = 64 << 20;

/// Submissions whose completion can be waited for one by one.
const TICKETS: usize = 256;

/// Constants kept.
const TABLES: usize = 64;

/// The stream of this backend. A recorded step shares the state.
pub(crate) struct WgpuStream(Arc<Mutex<State>>);

/// What ops are encoded into.
pub(crate) struct State {
    core: Arc<Core>,
    open: Option<Open>,
    dispatches: u32,
    ring: wgpu::Buffer,
    ring_id: u64,
    params: Vec<u8>,
    scratch: Vec<Option<Scratch>>,
    tables: HashMap<u64, Scratch>,
    recording: Option<Vec<Recorded>>,
    submitted: u64,
    indices: VecDeque<(u64, wgpu::SubmissionIndex)>,
}

/// An encoder whose compute pass is open.
struct Open {
    pass: wgpu::ComputePass<'static>,
    encoder: wgpu::CommandEncoder,
}

/// One dispatch of a recorded step.
#[derive(Clone)]
struct Recorded {
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    params: Vec<u8>,
    grid: [u32; 2],
}

impl WgpuStream {
    pub(crate) fn new(core: &Arc<Core>) -> Result<Self> {
        let slot = PARAM_BYTES.next_multiple_of(u64::from(core.caps.uniform_align));
        let ring = core
            .scoped(|| {
                core.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: slot * u64::from(DISPATCHES_PER_SUBMIT) + PARAM_BYTES,
                    usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            })
            .map_err(|e| Error::backend(BACKEND, e.to_string()))?;
        Ok(WgpuStream(Arc::new(Mutex::new(State {
            core: core.clone(),
            open: None,
            dispatches: 0,
            ring,
            ring_id: core.new_id(),
            params: Vec::new(),
            scratch: Vec::new(),
            tables: HashMap::new(),
            recording: None,
            submitted: 0,
            indices: VecDeque::new(),
        }))))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Work that was encoded must not vanish with its stream.
        let _ = self.submit();
        self.core.forget(self.ring_id);
    }
}

impl State {
    /// What the device can do.
    pub(crate) fn caps(&self) -> &Caps {
        &self.core.caps
    }

    /// Memory between the dispatches of one op. Its contents are whatever the last user left.
    pub(crate) fn scratch(&mut self, slot: usize, bytes: u64) -> Result<Scratch> {
        if self.scratch.len() <= slot {
            self.scratch.resize(slot + 1, None);
        }
        match &self.scratch[slot] {
            Some(s) if s.0.len >= bytes => Ok(s.clone()),
            _ => {
                let size = bytes.next_power_of_two().min(self.core.caps.max_binding);
                let made = Scratch(self.core.alloc(size.max(bytes))?);
                self.scratch[slot] = Some(made.clone());
                Ok(made)
            }
        }
    }

    /// Constants that a kernel computes on the host once per `key`.
    pub(crate) fn table(&mut self, key: u64, make: impl FnOnce() -> Vec<u32>) -> Result<Scratch> {
        if let Some(found) = self.tables.get(&key) {
            return Ok(found.clone());
        }
        let words = make();
        let made = Scratch(self.core.alloc(words.len() as u64 * 4)?);
        // The buffer is new, so no earlier work can see it change.
        let queue = &self.core.queue;
        queue.write_buffer(&made.0.buffer, 0, bytemuck::cast_slice(&words));
        if self.tables.len() >= TABLES {
            self.tables.clear();
        }
        self.tables.insert(key, made.clone());
        Ok(made)
    }

    /// Appends `groups` workgroups of a kernel.
    pub(crate) fn dispatch(&mut self, launch: Launch, groups: u64) -> Result<()> {
        if groups == 0 {
            return Ok(());
        }
        let core = self.core.clone();
        let ready = launch.prepare(&core, groups)?;
        let group = self.bind_group(&ready);
        let step = Recorded {
            pipeline: ready.pipeline,
            group,
            params: ready.params,
            grid: ready.grid,
        };
        match &mut self.recording {
            Some(steps) => steps.push(step),
            None => self.record(&step)?,
        }
        Ok(())
    }

    fn bind_group(&self, ready: &Ready) -> wgpu::BindGroup {
        let layout = &ready.pipeline.layout;
        let slices = ready.slices.iter().map(|(s, _)| s.clone()).collect();
        self.core.groups().get(layout, self.ring_id, slices, || {
            let mut entries = vec![wgpu::BindGroupEntry {
                binding: 0,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: &self.ring,
                    offset: 0,
                    size: std::num::NonZeroU64::new(PARAM_BYTES),
                }),
            }];
            entries.extend(ready.slices.iter().enumerate().map(|(i, (slice, buffer))| {
                wgpu::BindGroupEntry {
                    binding: i as u32 + 1,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset: slice.offset,
                        size: std::num::NonZeroU64::new(slice.size),
                    }),
                }
            }));
            self.core
                .device
                .create_bind_group(&wgpu::BindGroupDescriptor {
                    label: None,
                    layout: &layout.bindings,
                    entries: &entries,
                })
        })
    }

    /// Encodes one dispatch.
    fn record(&mut self, step: &Recorded) -> Result<()> {
        if self.dispatches >= DISPATCHES_PER_SUBMIT {
            self.submit()?;
        }
        let align = self.core.caps.uniform_align as usize;
        let offset = self.params.len().next_multiple_of(align);
        self.params.resize(offset, 0);
        self.params.extend_from_slice(&step.params);
        let core = &self.core;
        let open = self.open.get_or_insert_with(|| {
            let mut encoder = core.device.create_command_encoder(&Default::default());
            let pass = encoder
                .begin_compute_pass(&wgpu::ComputePassDescriptor::default())
                .forget_lifetime();
            Open { pass, encoder }
        });
        open.pass.set_pipeline(&step.pipeline.pipeline);
        open.pass.set_bind_group(0, &step.group, &[offset as u32]);
        open.pass.dispatch_workgroups(step.grid[0], step.grid[1], 1);
        self.dispatches += 1;
        Ok(())
    }

    /// Sends what is encoded, and `extra` after it.
    fn send(&mut self, extra: Option<wgpu::CommandBuffer>) -> Result<Ticket> {
        let mut commands = Vec::with_capacity(2);
        if let Some(Open { pass, encoder }) = self.open.take() {
            drop(pass);
            self.params
                .resize(self.params.len().next_multiple_of(PAD as usize), 0);
            self.core.queue.write_buffer(&self.ring, 0, &self.params);
            commands.push(encoder.finish());
        }
        self.params.clear();
        self.dispatches = 0;
        commands.extend(extra);
        if !commands.is_empty() {
            let index = self.core.queue.submit(commands);
            self.submitted += 1;
            if self.indices.len() >= TICKETS {
                self.indices.pop_front();
            }
            self.indices.push_back((self.submitted, index));
        }
        self.core.faults.check()?;
        Ok(Ticket(self.submitted))
    }

    fn submit(&mut self) -> Result<Ticket> {
        self.send(None)
    }

    fn write(&mut self, dst: &WgpuBuffer, offset: u64, data: &[u8]) -> Result<()> {
        if self.recording.is_some() {
            return Err(Error::unsupported(
                BACKEND,
                "writing from the host while a step is captured",
            ));
        }
        // Uploads run before the next submission, so what is encoded goes first.
        if self.open.is_some() {
            self.submit()?;
        }
        self.core.faults.check()?;
        let head = (offset.wrapping_neg() & 3).min(data.len() as u64) as usize;
        let tail = (data.len() - head) & 3;
        let (edge, rest) = data.split_at(head);
        let (body, last) = rest.split_at(rest.len() - tail);
        let mut at = offset + head as u64;
        for part in body.chunks(UPLOAD_BYTES) {
            self.core.queue.write_buffer(&dst.buffer, at, part);
            at += part.len() as u64;
            if body.len() > UPLOAD_BYTES {
                self.core.queue.submit([]);
            }
        }
        self.poke(dst, offset, edge)?;
        self.poke(dst, at, last)
    }

    /// Writes up to three bytes inside one word.
    fn poke(&mut self, dst: &WgpuBuffer, offset: u64, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let (mut bits, mut mask) = ([0u8; 4], [0u8; 4]);
        let from = (offset & 3) as usize;
        bits[from..from + data.len()].copy_from_slice(data);
        mask[from..from + data.len()].fill(0xff);
        let word = offset & !3;
        let launch = Launch::new("poke.wgsl")
            .words("w", dst, word..word + 4)
            .u32("at", 0)
            .u32("mask", u32::from_le_bytes(mask))
            .u32("bits", u32::from_le_bytes(bits));
        self.dispatch(launch, 1)
    }

    /// Copies bytes to memory that the host can map.
    fn stage(&mut self, src: &WgpuBuffer, range: Range<u64>) -> Result<Staged> {
        if self.recording.is_some() {
            return Err(Error::unsupported(
                BACKEND,
                "reading while a step is captured",
            ));
        }
        let (start, end) = (range.start & !3, range.end.next_multiple_of(4));
        let core = self.core.clone();
        let staging = core
            .scoped(|| {
                core.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: (end - start).max(4),
                    usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            })
            .map_err(|e| match e {
                wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory {
                    asked: end - start,
                    free: None,
                },
                other => Error::backend(BACKEND, other.to_string()),
            })?;
        let mut encoder = core.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&src.buffer, start, &staging, 0, end - start);
        let mapped = Mapped::default();
        let done = mapped.0.clone();
        encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, .., move |r| {
            let mut slot = lock(&done);
            slot.result = Some(r);
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        });
        self.send(Some(encoder.finish()))?;
        Ok(Staged {
            staging,
            mapped,
            index: self.indices.back().map(|(_, i)| i.clone()),
            skip: (range.start - start) as usize,
            len: (range.end - range.start) as usize,
        })
    }

    fn wait(&mut self, ticket: Ticket) -> Result<()> {
        let at = self.indices.iter().position(|(n, _)| *n >= ticket.0);
        if let Some(at) = at {
            poll(&self.core, Some(self.indices[at].1.clone()))?;
            self.indices.drain(..=at);
        }
        self.core.faults.check()
    }
}

/// Blocks until a submission is done, where that is possible.
fn poll(core: &Core, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
    if core.caps.web {
        return Err(Error::WouldBlock);
    }
    core.device
        .poll(wgpu::PollType::Wait {
            submission_index,
            timeout: None,
        })
        .map_err(|e| Error::backend(BACKEND, e))?;
    Ok(())
}

/// A read on its way.
struct Staged {
    staging: wgpu::Buffer,
    mapped: Mapped,
    index: Option<wgpu::SubmissionIndex>,
    skip: usize,
    len: usize,
}

/// Resolves when the driver has mapped the staging buffer.
#[derive(Default)]
struct Mapped(Arc<Mutex<MapState>>);

#[derive(Default)]
struct MapState {
    result: Option<Result<(), wgpu::BufferAsyncError>>,
    waker: Option<Waker>,
}

impl Future for Mapped {
    type Output = Result<(), wgpu::BufferAsyncError>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.0);
        match state.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

async fn fetch(core: Arc<Core>, staged: Staged) -> Result<Vec<u8>> {
    if !core.caps.web {
        // Nobody else drives the device: the callback runs in here.
        poll(&core, staged.index)?;
    }
    let mapped = staged.mapped.await;
    core.faults.check()?;
    mapped.map_err(|e| Error::backend(BACKEND, e))?;
    let bytes = {
        let view = staged
            .staging
            .get_mapped_range(..)
            .map_err(|e| Error::backend(BACKEND, e.to_string()))?;
        view[staged.skip..staged.skip + staged.len].to_vec()
    };
    staged.staging.unmap();
    Ok(bytes)
}

impl Stream for WgpuStream {
    fn write(&mut self, dst: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        lock(&self.0).write(WgpuBuffer::of(dst)?, offset, data)
    }

    unsafe fn encode(&mut self, op: &Op<Tensor>, kernel: Option<KernelId>) -> Result<()> {
        let mut state = lock(&self.0);
        state.core.faults.check()?;
        let question = op.map(|_, t| t.desc());
        let chosen = backend::select(rows::ROWS, state.caps(), &question, kernel);
        let (row, _) = chosen.map_err(|refusal| Error::Unsupported {
            backend: BACKEND.into(),
            op: Some(op.kind()),
            refusal,
        })?;
        (row.run)(&mut state, op)
    }

    fn submit(&mut self) -> Result<Ticket> {
        lock(&self.0).submit()
    }

    fn read(&mut self, src: &Buffer, range: Range<u64>) -> BoxFuture<'static, Result<Vec<u8>>> {
        let mut state = lock(&self.0);
        let core = state.core.clone();
        let staged = WgpuBuffer::of(src).and_then(|src| state.stage(src, range));
        Box::pin(async move { fetch(core, staged?).await })
    }

    fn wait(&mut self, ticket: Ticket) -> Result<()> {
        lock(&self.0).wait(ticket)
    }

    fn begin_capture(&mut self) -> Result<()> {
        let mut state = lock(&self.0);
        if state.recording.is_some() {
            return Err(Error::unsupported(BACKEND, "a capture inside a capture"));
        }
        state.recording = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&mut self) -> Result<Box<dyn Graph>> {
        let steps = lock(&self.0).recording.take();
        let steps = steps
            .ok_or_else(|| Error::unsupported(BACKEND, "ending a capture that was not begun"))?;
        Ok(Box::new(Steps {
            state: self.0.clone(),
            steps,
        }))
    }
}

/// A recorded step. Bind groups hold the memory that it uses.
struct Steps {
    state: Arc<Mutex<State>>,
    steps: Vec<Recorded>,
}

impl Graph for Steps {
    fn replay(&self, _on: &mut dyn Stream) -> Result<()> {
        let mut state = lock(&self.state);
        state.core.faults.check()?;
        self.steps.iter().try_for_each(|step| state.record(step))
    }
}
