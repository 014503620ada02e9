//! The runner.

use super::{
    case::{Case, Memory, Placed},
    cases::cases,
    filter::{Expect, Filter},
    report::{Outcome, Path, Report, Status},
    tolerance,
    truth::{Truth, encoder_input},
};
use crate::{
    device::{Device, KernelId, Support, Usage},
    element::DType,
    error::{Error, Result},
    layout::TensorDesc,
    op::{Op, Weight},
    queue::Queue,
    reference,
    route::{Fallback, Route},
    tensor::{Buffer, Tensor},
};
use std::sync::Arc;

/// Where a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Cases done.
    pub done: usize,
    /// Cases in all.
    pub total: usize,
    /// The case just done.
    pub case: &'a str,
    /// Its outcomes, one for each kernel.
    pub outcomes: &'a [Outcome],
}

/// Runs the cases that pass `filter` on `device`.
///
/// # Errors
/// Errors of the device itself ([`Error::DeviceLost`], no memory for a queue). What a case does
/// wrong is in the report.
pub fn run(
    device: &Arc<dyn Device>,
    filter: &Filter,
    expect: &Expect<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report> {
    pollster::block_on(run_async(device, filter, expect, progress))
}

/// [`run`] for devices that cannot block.
///
/// # Errors
/// As [`run`].
pub async fn run_async(
    device: &Arc<dyn Device>,
    filter: &Filter,
    expect: &Expect<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report> {
    run_cases(device, &cases(filter.tier), filter, expect, progress).await
}

/// Runs cases of one's own.
///
/// # Errors
/// As [`run`].
pub async fn run_cases(
    device: &Arc<dyn Device>,
    cases: &[Case],
    filter: &Filter,
    expect: &Expect<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report> {
    let selected: Vec<&Case> = cases.iter().filter(|c| filter.accepts(c)).collect();
    let mut report = Report::new(device.info(), filter.tier);
    let mut bench = Bench::new(device)?;
    for (i, case) in selected.iter().enumerate() {
        let first = report.outcomes.len();
        let outcomes = bench.case(case, filter).await?;
        report.outcomes.extend(outcomes.into_iter().map(|mut o| {
            o.status = expect.judge(&o.case, o.kernel.as_deref(), o.status);
            o
        }));
        progress(Progress {
            done: i + 1,
            total: selected.len(),
            case: &case.name,
            outcomes: &report.outcomes[first..],
        });
    }
    report.cases = selected.len();
    Ok(report)
}

/// A device with two queues: one refuses what is not native, the other runs parts.
struct Bench {
    device: Arc<dyn Device>,
    native: Queue,
    parts: Queue,
}

/// How one op is put to the device.
enum Order {
    Kernel(KernelId),
    Default,
    Parts,
}

impl Bench {
    fn new(device: &Arc<dyn Device>) -> Result<Self> {
        Ok(Bench {
            device: device.clone(),
            native: Queue::with_kernel(device, None)?.fallback(Fallback::Deny),
            parts: Queue::with_kernel(device, None)?.fallback(Fallback::Decompose),
        })
    }

    async fn case(&mut self, case: &Case, filter: &Filter) -> Result<Vec<Outcome>> {
        let question = case.question();
        let outcome = |path, kernel: Option<KernelId>, status| {
            Outcome::new(
                case,
                &question,
                path,
                kernel.map(|k| k.0.to_owned()),
                status,
            )
        };
        let broken = |why: String| vec![outcome(Path::None, None, Status::Failed(why))];
        if let Err(e) = question.check() {
            return Ok(broken(format!("the case itself is invalid: {e}")));
        }
        let refusal = match self.device.supports(&question) {
            Support::Native(_) => None,
            Support::No(refusal) => Some(refusal.to_string()),
        };
        let noop = question.is_noop();
        let in_parts = refusal.is_some() && filter.decompose && !noop;
        let parts_run =
            in_parts && matches!(self.parts.plan(&question), Ok(Route::Decomposed { .. }));
        if let Some(why) = refusal
            && !parts_run
            && !noop
        {
            if filter.kernel.is_some() {
                return Ok(Vec::new());
            }
            return Ok(vec![outcome(Path::None, None, Status::Refused(why))]);
        }
        let mut orders = Vec::new();
        if parts_run {
            if filter.kernel.is_none() {
                orders.push(Order::Parts);
            }
        } else {
            let kernels = if noop {
                Vec::new()
            } else {
                self.device.kernels(&question)
            };
            if filter.kernel.is_none() {
                orders.push(Order::Default);
            }
            orders.extend(
                kernels
                    .into_iter()
                    .filter(|k| filter.accepts_kernel(Some(*k)))
                    .map(Order::Kernel),
            );
        }
        if orders.is_empty() && filter.kernel.is_some() && !has_rows(&question) {
            return Ok(Vec::new());
        }
        let memory = match case.materialize() {
            Ok(m) => m,
            Err(e) => return Ok(broken(e.to_string())),
        };
        let arrays = memory.arrays();
        let want = match reference::eval(&arrays) {
            Ok(w) => w,
            Err(e) => return Ok(broken(format!("the reference: {e}"))),
        };
        let truth = Truth {
            want,
            encoded: encoder_input(&arrays),
        };
        let mut out = Vec::new();
        let placed = self.upload(&memory)?;
        // The default route is the first kernel: running both shows that a kernel gives the same
        // bits twice.
        let mut default_bytes: Option<Vec<Vec<u8>>> = None;
        for (i, order) in orders.iter().enumerate() {
            if i > 0 {
                self.reset(&memory, &placed)?;
            }
            let c = tolerance::coefficient(&question);
            let (path, kernel, c) = match order {
                Order::Kernel(k) => (Path::Native, Some(*k), c),
                Order::Default => (Path::Native, None, c),
                Order::Parts => (Path::Parts, None, 4.0 * c),
            };
            let sent = self.send(&memory.op, &placed, order);
            let mut result = outcome(path, kernel, Status::Passed);
            match sent {
                Err(e) if is_fatal(&e) => return Err(e),
                Err(e) => {
                    let claim = "the device claims support, but";
                    result.status = Status::Failed(format!("{claim}: {e}"));
                }
                Ok(()) => {
                    let after = self.download(&placed).await?;
                    let verdict = truth.judge(&memory, &after, c);
                    result.error = verdict.worst;
                    result.nmse = verdict.nmse;
                    if let Some(why) = verdict.failure {
                        result.status = Status::Failed(why);
                    } else if let (Order::Kernel(_), 1, Some(first)) = (order, i, &default_bytes)
                        && *first != after
                    {
                        result.status = Status::Failed(
                            "two runs of the same kernel gave different bits".to_owned(),
                        );
                    }
                    if matches!(order, Order::Default) {
                        default_bytes = Some(after);
                    }
                }
            }
            out.push(result);
        }
        if !noop && !parts_run {
            let packed = self
                .packed(case, &question, &memory, &placed, &truth, filter)
                .await?;
            out.extend(packed);
        }
        Ok(out)
    }

    /// The op with its weights in the device's own layout, where it has one.
    async fn packed(
        &mut self,
        case: &Case,
        question: &Op<TensorDesc>,
        memory: &Memory,
        placed: &[Buffer],
        truth: &Truth,
        filter: &Filter,
    ) -> Result<Vec<Outcome>> {
        let tensors = tensors(&memory.op, placed)?;
        let Some(op) = pack(&mut self.native, &tensors, memory)? else {
            return Ok(Vec::new());
        };
        let asked = op.map(|_, t| t.desc());
        let fail = |kernel: Option<KernelId>, why| {
            let name = kernel.map(|k| k.0.to_owned());
            Outcome::new(case, question, Path::Packed, name, Status::Failed(why))
        };
        let kernels: Vec<KernelId> = self
            .device
            .kernels(&asked)
            .into_iter()
            .filter(|k| filter.accepts_kernel(Some(*k)))
            .collect();
        if let Support::No(why) = self.device.supports(&asked) {
            let why = format!("the device prepacks this weight, then refuses it: {why}");
            return Ok(vec![fail(None, why)]);
        }
        let mut orders: Vec<Option<KernelId>> = kernels.into_iter().map(Some).collect();
        if orders.is_empty() && filter.kernel.is_none() {
            orders.push(None);
        }
        let mut out = Vec::new();
        for kernel in orders {
            self.reset(memory, placed)?;
            let sent = match kernel {
                Some(k) => self.native.run_with(op.clone(), k),
                None => self.native.run(op.clone()),
            };
            let mut result = match sent {
                Err(e) if is_fatal(&e) => return Err(e),
                Err(e) => fail(kernel, format!("the device claims support, but: {e}")),
                Ok(()) => fail(kernel, String::new()),
            };
            if matches!(&result.status, Status::Failed(why) if why.is_empty()) {
                let after = self.download(placed).await?;
                let verdict = truth.judge(memory, &after, tolerance::coefficient(question));
                result.error = verdict.worst;
                result.nmse = verdict.nmse;
                result.status = verdict.failure.map_or(Status::Passed, Status::Failed);
            }
            out.push(result);
        }
        Ok(out)
    }

    fn upload(&mut self, memory: &Memory) -> Result<Vec<Buffer>> {
        let mut buffers = Vec::with_capacity(memory.buffers.len());
        for bytes in &memory.buffers {
            let buffer = Buffer::new(&self.device, bytes.len() as u64, Usage::Activations)?;
            self.native.write_bytes(&whole(&buffer)?, bytes)?;
            buffers.push(buffer);
        }
        Ok(buffers)
    }

    /// Puts back what the op wrote.
    fn reset(&mut self, memory: &Memory, placed: &[Buffer]) -> Result<()> {
        for (buffer, bytes) in placed.iter().zip(&memory.buffers) {
            self.native.write_bytes(&whole(buffer)?, bytes)?;
        }
        Ok(())
    }

    async fn download(&mut self, placed: &[Buffer]) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::with_capacity(placed.len());
        for buffer in placed {
            all.push(self.native.read_bytes(&whole(buffer)?).await?);
        }
        Ok(all)
    }

    fn send(&mut self, op: &Op<Placed>, placed: &[Buffer], order: &Order) -> Result<()> {
        let op = tensors(op, placed)?;
        match order {
            Order::Kernel(k) => self.native.run_with(op, *k),
            Order::Default => self.native.run(op),
            Order::Parts => {
                // Two queues are two streams: each waits for the other's work.
                self.flush_native()?;
                self.parts.run(op)?;
                self.flush_parts()
            }
        }
    }

    fn flush_native(&mut self) -> Result<()> {
        match self.native.finish() {
            Err(Error::WouldBlock) => Ok(()),
            other => other,
        }
    }

    fn flush_parts(&mut self) -> Result<()> {
        match self.parts.finish() {
            Err(Error::WouldBlock) => self.parts.submit().map(|_| ()),
            other => other,
        }
    }
}

/// Prepacks every weight; `None` when the device keeps the plain layout of any of them.
pub(crate) fn pack(
    queue: &mut Queue,
    op: &Op<Tensor>,
    memory: &Memory,
) -> Result<Option<Op<Tensor>>> {
    let mut places = Vec::new();
    memory.op.visit(|_, p| places.push(*p));
    let mut tensors = Vec::new();
    op.visit(|_, t| tensors.push(t.clone()));
    let mut pack = |w: &Weight<Tensor>| -> Result<Option<Weight<Tensor>>> {
        let Weight::Rows(t) = w else { return Ok(None) };
        let desc = t.desc();
        if !desc.is_contiguous() || desc.is_empty() {
            return Ok(None);
        }
        let Some(i) = tensors.iter().position(|u| u.is_same(t)) else {
            return Ok(None);
        };
        let place: Placed = places[i];
        let start = place.byte_offset as usize;
        let bytes = &memory.buffers[place.buffer][start..start + desc.span_bytes() as usize];
        let packed = queue.upload_weight(desc.element, desc.shape(), bytes)?;
        Ok(match packed {
            Weight::Packed { .. } => Some(packed),
            _ => None,
        })
    };
    let mut op = op.clone();
    let done = match &mut op {
        Op::MatMul(a) => pack(&a.w)?.map(|w| a.w = w).is_some(),
        Op::GroupedMatMul(a) => pack(&a.w)?.map(|w| a.w = w).is_some(),
        Op::GatherRows(a) => pack(&a.table)?.map(|w| a.table = w).is_some(),
        Op::MatMulMany(a) => {
            let mut all = true;
            for part in &mut a.parts {
                all &= pack(&part.w)?.map(|w| part.w = w).is_some();
            }
            all
        }
        _ => false,
    };
    Ok(done.then_some(op))
}

pub(crate) fn tensors(op: &Op<Placed>, placed: &[Buffer]) -> Result<Op<Tensor>> {
    op.try_map(|_, p| Tensor::new(&placed[p.buffer], p.byte_offset, p.desc))
}

pub(crate) fn whole(buffer: &Buffer) -> Result<Tensor> {
    let len = u32::try_from(buffer.len()).map_err(|_| Error::TooLarge {
        what: "conformance buffer",
        asked: buffer.len(),
        max: u64::from(u32::MAX),
    })?;
    Tensor::new(buffer, 0, TensorDesc::new(DType::U8, &[len])?)
}

/// Errors after which no further case can run.
fn is_fatal(e: &Error) -> bool {
    matches!(e, Error::DeviceLost { .. })
}

fn has_rows(op: &Op<TensorDesc>) -> bool {
    matches!(
        op,
        Op::MatMul(_) | Op::MatMulMany(_) | Op::GroupedMatMul(_) | Op::GatherRows(_)
    )
}
