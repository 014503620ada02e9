//! [`Queue`]: the safe front. It validates an op once, plans its route, and hands it to the
//! backend, which may assume all that was checked.

#[cfg(feature = "cpu")]
mod host;
mod tensors;

use crate::{
    device::{Device, Graph, KernelId, Stream, Ticket, Usage},
    error::{Error, Result},
    layout::TensorDesc,
    op::{
        Arg, Op, OpKind, Role,
        decompose::{Slot, Source},
    },
    route::{self, Fallback, Force, Planned, Route, RouteLog},
    tensor::{Buffer, Tensor},
};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Plans that a queue keeps. A step whose key count the host knows asks a new question each time.
const MAX_PLANS: usize = 4096;

/// Environment variable that forces kernels by a part of their name.
pub const KERNEL_VAR: &str = "GRISTMILL_KERNEL";

/// An ordered queue of ops on one device.
///
/// ```
/// use gristmill::{Binary, Queue, Registry, Select};
/// # fn main() -> gristmill::Result<()> {
/// let device = Registry::builtin().open_blocking(&Select::named("cpu")?)?;
/// let mut queue = Queue::new(&device)?;
/// let a = queue.upload(&[1.0f32, 2.0, 3.0], &[3])?;
/// let y = queue.zeros(gristmill::DType::F32, &[3])?;
/// queue.run(Binary::add(&a, &a, &y))?;
/// assert_eq!(queue.download::<f32>(&y)?, [2.0, 4.0, 6.0]);
/// # Ok(())
/// # }
/// ```
pub struct Queue {
    device: Arc<dyn Device>,
    stream: Box<dyn Stream>,
    fallback: Fallback,
    force: Force,
    planned: FxHashMap<Op<TensorDesc>, Arc<Planned>>,
    log: RouteLog,
    temps: Vec<Buffer>,
    #[cfg(feature = "cpu")]
    host: Option<Box<Queue>>,
    #[cfg(feature = "capture")]
    capture: Option<crate::capture::Recorder>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue on {}", self.device.info().id)
    }
}

impl Queue {
    /// A queue with [`Fallback::Decompose`]. Kernels may be forced with `GRISTMILL_KERNEL`; with
    /// the feature `capture`, `GRISTMILL_CAPTURE` names a folder that receives every op call.
    ///
    /// # Errors
    /// What the driver says; [`Error::Selection`] when `GRISTMILL_KERNEL` names no kernel.
    pub fn new(device: &Arc<dyn Device>) -> Result<Self> {
        let forced = std::env::var_os(KERNEL_VAR);
        let forced = forced.as_ref().map(|name| name.to_string_lossy());
        let mut queue = Self::with_kernel(device, forced.as_deref())?;
        queue.start_capture_from_env()?;
        Ok(queue)
    }

    /// A queue that takes kernels whose name contains `kernel`, where an op has one, whatever the
    /// environment says.
    ///
    /// # Errors
    /// What the driver says; [`Error::Selection`] when there is no such kernel.
    pub fn with_kernel(device: &Arc<dyn Device>, kernel: Option<&str>) -> Result<Self> {
        Ok(Queue {
            force: Force::new(&**device, kernel)?,
            stream: device.stream()?,
            device: device.clone(),
            fallback: Fallback::default(),
            planned: FxHashMap::default(),
            log: RouteLog::default(),
            temps: Vec::new(),
            #[cfg(feature = "cpu")]
            host: None,
            #[cfg(feature = "capture")]
            capture: None,
        })
    }

    /// Sets what happens to ops that the device lacks.
    #[must_use]
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.fallback = fallback;
        self.planned.clear();
        self
    }

    #[cfg(feature = "capture")]
    fn start_capture_from_env(&mut self) -> Result<()> {
        if let Some(dir) = std::env::var_os(crate::capture::CAPTURE_VAR) {
            self.capture = Some(crate::capture::Recorder::new(dir.into())?);
        }
        Ok(())
    }

    #[cfg(not(feature = "capture"))]
    fn start_capture_from_env(&mut self) -> Result<()> {
        if std::env::var_os("GRISTMILL_CAPTURE").is_some() {
            log::warn!("GRISTMILL_CAPTURE is set, and this build lacks the feature `capture`");
        }
        Ok(())
    }

    #[cfg(feature = "capture")]
    fn writes_calls(&self) -> bool {
        self.capture.is_some()
    }

    #[cfg(not(feature = "capture"))]
    fn writes_calls(&self) -> bool {
        false
    }

    /// Writes every op call from now on to a file in `dir`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    #[cfg(feature = "capture")]
    pub fn record_to(&mut self, dir: impl Into<std::path::PathBuf>) -> Result<()> {
        self.capture = Some(crate::capture::Recorder::new(dir.into())?);
        Ok(())
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Ops that did not run natively so far.
    pub fn routes(&self) -> &RouteLog {
        &self.log
    }

    /// How `op` would run here; nothing is allocated or run.
    ///
    /// # Errors
    /// [`Error::InvalidOp`] for operands that do not fit together, [`Error::Unsupported`] when
    /// the fallback does not help.
    pub fn plan(&self, op: &Op<TensorDesc>) -> Result<Route> {
        op.check()?;
        let planned = route::plan(&*self.device, op, self.fallback, &self.force)?;
        Ok(planned.route)
    }

    /// Validates an op and appends it.
    ///
    /// # Errors
    /// [`Error::InvalidOp`] for operands that do not fit together, overlap or belong to another
    /// device; [`Error::Unsupported`] when the device cannot run it under this queue's fallback.
    pub fn run(&mut self, op: impl Into<Op<Tensor>>) -> Result<()> {
        self.run_op(op.into(), None)
    }

    /// As [`Queue::run`] with one kernel by name, and no fallback.
    ///
    /// # Errors
    /// As [`Queue::run`]; [`Error::Unsupported`] when that kernel does not take the op.
    pub fn run_with(&mut self, op: impl Into<Op<Tensor>>, kernel: KernelId) -> Result<()> {
        self.run_op(op.into(), Some(kernel))
    }

    fn run_op(&mut self, op: Op<Tensor>, kernel: Option<KernelId>) -> Result<()> {
        let question = self.own_operands(&op)?;
        // What was planned was checked: only memory can differ between two equal questions.
        if kernel.is_some() || !self.planned.contains_key(&question) {
            check(&question)?;
            if question.is_noop() {
                return Ok(());
            }
        }
        check_overlap(&op, &question)?;
        #[cfg(feature = "capture")]
        if let Some(mut recorder) = self.capture.take() {
            let done = recorder.record_inputs(self, &op).and_then(|call| {
                self.dispatch(&op, question, kernel)?;
                recorder.record_outputs(self, &op, call)
            });
            self.capture = Some(recorder);
            return done;
        }
        self.dispatch(&op, question, kernel)
    }

    fn dispatch(
        &mut self,
        op: &Op<Tensor>,
        question: Op<TensorDesc>,
        kernel: Option<KernelId>,
    ) -> Result<()> {
        if let Some(id) = kernel {
            if !self.device.kernels(&question).contains(&id) {
                return Err(Error::Unsupported {
                    backend: self.device.info().id.backend.clone(),
                    op: Some(op.kind()),
                    refusal: crate::Refusal::Kernel(id.0.to_owned()),
                });
            }
            // SAFETY: `run_op` validated the op and the device lists the kernel for it.
            return unsafe { self.stream.encode(op, kernel) };
        }
        let planned = match self.planned.get(&question) {
            Some(planned) => planned.clone(),
            None => self.plan_new(question)?,
        };
        match &planned.route {
            Route::Native { kernel, .. } => {
                // SAFETY: `run_op` validated the op and the device supports it.
                unsafe { self.stream.encode(op, *kernel) }
            }
            Route::Decomposed { .. } => self.run_parts(op, &planned),
            Route::Host { .. } => self.run_on_host(op),
        }
    }

    fn plan_new(&mut self, question: Op<TensorDesc>) -> Result<Arc<Planned>> {
        let planned = Arc::new(route::plan(
            &*self.device,
            &question,
            self.fallback,
            &self.force,
        )?);
        if !matches!(planned.route, Route::Native { .. }) {
            log::warn!(
                "{} on {} runs {}",
                question.kind(),
                self.device.info().id,
                planned.route
            );
            self.log.push(&question, &planned.route);
        }
        if self.planned.len() >= MAX_PLANS {
            self.planned.clear();
        }
        self.planned.insert(question, planned.clone());
        Ok(planned)
    }

    /// Starts everything so far.
    ///
    /// # Errors
    /// What the driver says.
    pub fn submit(&mut self) -> Result<Ticket> {
        self.stream.submit()
    }

    /// Blocks until everything so far is done.
    ///
    /// # Errors
    /// Errors of the work; [`Error::WouldBlock`] where blocking is impossible.
    pub fn finish(&mut self) -> Result<()> {
        self.can_block()?;
        let ticket = self.stream.submit()?;
        self.stream.wait(ticket)
    }

    /// Can steps be recorded here? Not on devices without
    /// [`Caps::capture`](crate::Caps::capture), and not while op calls are written to files,
    /// which needs what each op reads and writes.
    pub fn can_capture(&self) -> bool {
        self.device.info().caps.capture && !self.writes_calls()
    }

    /// Records ops from now on instead of running them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where [`Queue::can_capture`] says no.
    pub fn begin_capture(&mut self) -> Result<()> {
        if self.writes_calls() {
            return Err(Error::unsupported(
                self.device.info().id.backend.clone(),
                "capturing a step while op calls are written to files",
            ));
        }
        self.stream.begin_capture()
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on devices without [`Caps::capture`](crate::Caps::capture).
    pub fn end_capture(&mut self) -> Result<Box<dyn Graph>> {
        self.stream.end_capture()
    }

    /// Runs a recorded step with what its buffers hold now.
    ///
    /// # Errors
    /// What the driver says.
    pub fn replay(&mut self, graph: &dyn Graph) -> Result<()> {
        graph.replay(&mut *self.stream)
    }

    // ---- inside -----------------------------------------------------------------------------

    fn can_block(&self) -> Result<()> {
        if self.device.info().caps.can_block {
            Ok(())
        } else {
            Err(Error::WouldBlock)
        }
    }

    fn own(&self, what: &str, t: &Tensor) -> Result<()> {
        if same_device(t.buffer().device(), &self.device) {
            Ok(())
        } else {
            Err(Error::InvalidTensor(
                format!(
                    "{what}: the tensor belongs to another device ({}) than the queue ({})",
                    t.buffer().device().info().id,
                    self.device.info().id
                )
                .into(),
            ))
        }
    }

    fn own_operands(&self, op: &Op<Tensor>) -> Result<Op<TensorDesc>> {
        let mut foreign = None;
        let question = op.map(|arg, t| {
            if !same_device(t.buffer().device(), &self.device) {
                foreign = Some(arg.name);
            }
            t.desc()
        });
        match foreign {
            None => Ok(question),
            Some(arg) => Err(Error::invalid(
                op.kind(),
                arg,
                format!("belongs to another device than {}", self.device.info().id),
            )),
        }
    }

    fn run_parts(&mut self, op: &Op<Tensor>, planned: &Planned) -> Result<()> {
        let operands = op.operands();
        let temps = planned
            .plan
            .temps
            .iter()
            .map(|desc| self.take_temp(*desc))
            .collect::<Result<Vec<Tensor>>>()?;
        for (part, kernel) in planned.plan.parts.iter().zip(&planned.kernels) {
            let order = part.try_map(|_, slot: &Slot| {
                let base = match slot.source {
                    Source::Operand(i) => &operands[i].1,
                    Source::Temp(i) => &temps[i],
                };
                Tensor::new(
                    base.buffer(),
                    base.byte_offset() + slot.byte_offset,
                    slot.desc,
                )
            })?;
            if part.map(|_, s| s.desc).is_noop() {
                continue;
            }
            // SAFETY: the whole op was validated; `decompose` keeps views inside their operands
            // (`Tensor::new` checks it again) and the device supports each part.
            unsafe { self.stream.encode(&order, *kernel)? };
        }
        self.temps.extend(temps.iter().map(|t| t.buffer().clone()));
        Ok(())
    }

    /// The stream is ordered, so a temporary is free again as soon as its last reader is encoded.
    fn take_temp(&mut self, desc: TensorDesc) -> Result<Tensor> {
        let need = desc.span_bytes();
        let fits = |b: &Buffer| b.len() >= need && b.len() <= need.saturating_mul(4).max(4096);
        let found = self
            .temps
            .iter()
            .enumerate()
            .filter(|(_, b)| fits(b))
            .min_by_key(|(_, b)| b.len())
            .map(|(i, _)| i);
        let buffer = match found {
            Some(i) => self.temps.swap_remove(i),
            None => Buffer::new(
                &self.device,
                need.next_power_of_two()
                    .min(self.device.info().limits.max_buffer.max(need)),
                Usage::Activations,
            )?,
        };
        Tensor::new(&buffer, 0, desc)
    }
    #[cfg(not(feature = "cpu"))]
    fn run_on_host(&mut self, op: &Op<Tensor>) -> Result<()> {
        Err(Error::Unsupported {
            backend: self.device.info().id.backend.clone(),
            op: Some(op.kind()),
            refusal: crate::Refusal::Feature("host fallback without the feature `cpu`"),
        })
    }
}

/// Everything that the descriptions alone decide.
fn check(question: &Op<TensorDesc>) -> Result<()> {
    question.check()?;
    let mut twice = None;
    question.visit(|arg, d| {
        if arg.role.writes() && !d.is_injective() {
            twice = Some((arg.name, *d));
        }
    });
    match twice {
        None => Ok(()),
        Some((arg, d)) => Err(Error::invalid(
            question.kind(),
            arg,
            format!("is written but its view {d:?} names cells twice"),
        )),
    }
}

/// An output shares memory with nothing, or exactly with an input where the op allows it.
fn check_overlap(op: &Op<Tensor>, question: &Op<TensorDesc>) -> Result<()> {
    let mut operands: Vec<(Arg, &Tensor)> = Vec::with_capacity(12);
    op.visit(|arg, t| operands.push((arg, t)));
    for (i, &(out, t)) in operands.iter().enumerate() {
        if !out.role.writes() {
            continue;
        }
        for (j, &(other, u)) in operands.iter().enumerate() {
            if i == j || (other.role.writes() && j < i) || !t.overlaps(u) {
                continue;
            }
            // Where an op has several products, one's gate and residual must not be another's
            // result: the order in which they are written is the backend's own.
            let own = op.kind() != OpKind::MatMulMany
                || j < i && operands[j..i].iter().all(|(a, _)| !a.role.writes());
            if t.is_same(u) && own && op_in_place(question, out, other) {
                continue;
            }
            let hint = match question.in_place(other.name) {
                true => ", or to exactly the same view",
                false => "",
            };
            return Err(Error::invalid(
                op.kind(),
                out.name,
                format!(
                    "overlaps {} in memory; write to a buffer of its own{hint}",
                    other.name
                ),
            ));
        }
    }
    Ok(())
}

/// May `out` be exactly `other`?
fn op_in_place(question: &Op<TensorDesc>, out: Arg, other: Arg) -> bool {
    other.role == Role::In && out.role.writes() && question.in_place(other.name)
}

fn same_device(a: &Arc<dyn Device>, b: &Arc<dyn Device>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}
