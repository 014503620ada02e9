//! Timing of every kernel of any device, third parties' included, over the cases of the
//! [`conformance`](crate::conformance) suite.
//!
//! Flops and bytes come from the op itself. Where few rows are multiplied the weights are rotated
//! over copies that exceed every cache, as they are in a decoding step.
//!
//! ```no_run
//! use gristmill::{Registry, Select, bench, conformance::{Tier, cases}};
//! use std::time::Duration;
//! # fn main() -> gristmill::Result<()> {
//! let device = Registry::builtin().open_blocking(&Select::Best)?;
//! for case in cases(Tier::Soak).iter().filter(|c| c.bench) {
//!     if let Some(mut prepared) = bench::Prepared::new(&device, case)? {
//!         for choice in prepared.choices() {
//!             let m = prepared.measure(&choice, Duration::from_millis(300))?;
//!             println!("{} {choice} {:.1} GFLOP/s", case.name, m.flops_per_second() / 1e9);
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```

use crate::{
    Select,
    conformance::{Case, Tier, cases, matches, pack, tensors, whole},
    device::{Device, DeviceKind, KernelId, Support, Usage},
    element::DType,
    error::{Error, Result},
    layout::TensorDesc,
    op::{Op, Role, Weight},
    queue::Queue,
    registry::{DEVICE_VAR, Registry},
    route::Fallback,
    tensor::{Buffer, Tensor},
};
use criterion::{BenchmarkId, Criterion, Throughput};
use std::{
    cell::RefCell,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// Weights are copied until they take this many bytes, which no cache holds.
const COLD_BYTES: u64 = 512 << 20;

/// Up to this many rows of x a matrix product is bound by reading its weights.
const FEW_ROWS: u32 = 16;

/// Which cases and kernels to time. Patterns as in [`matches()`].
#[derive(Clone, Debug, Default)]
pub struct BenchFilter {
    /// Of the case's name.
    pub case: Option<String>,
    /// Of the kernel's name.
    pub kernel: Option<String>,
}

impl BenchFilter {
    /// Cases whose name matches.
    pub fn case(pattern: impl Into<String>) -> Self {
        BenchFilter {
            case: Some(pattern.into()),
            kernel: None,
        }
    }

    /// Kernels whose name matches.
    #[must_use]
    pub fn kernel(mut self, pattern: impl Into<String>) -> Self {
        self.kernel = Some(pattern.into());
        self
    }

    /// The bench cases of the suite that pass.
    pub fn cases(&self) -> Vec<Case> {
        let mut all = cases(Tier::Soak);
        all.retain(|c| c.bench && self.case.as_ref().is_none_or(|p| matches(p, &c.name)));
        all
    }

    fn accepts(&self, choice: &Choice) -> bool {
        let name = choice.kernel.map_or("default", |k| k.0);
        self.kernel.as_ref().is_none_or(|p| matches(p, name))
    }
}

/// One way to run a case: a kernel, and the layout of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The kernel; none: the device's choice, for devices that name no kernels.
    pub kernel: Option<KernelId>,
    /// Weights in the device's own layout.
    pub packed: bool,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kernel.map_or("default", |k| k.0))?;
        f.write_str(if self.packed { "+packed" } else { "" })
    }
}

/// How fast one kernel ran one case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// Median time of one run, launch included.
    pub median: Duration,
    /// Number of samples.
    pub samples: usize,
    /// Arithmetic operations of one run.
    pub flops: u64,
    /// Bytes that one run must move.
    pub bytes: u64,
}

impl Measurement {
    /// Arithmetic operations per second.
    pub fn flops_per_second(&self) -> f64 {
        self.flops as f64 / self.median.as_secs_f64().max(1e-12)
    }

    /// Bytes per second.
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.median.as_secs_f64().max(1e-12)
    }
}

/// A case on a device, its operands uploaded.
#[derive(Debug)]
pub struct Prepared {
    queue: Queue,
    question: Op<TensorDesc>,
    plain: Vec<Op<Tensor>>,
    packed: Vec<Op<Tensor>>,
    turn: usize,
}

/// Ways to run a case; empty when the device refuses it.
///
/// # Errors
/// What [`Device::prepack`] says.
fn choices(device: &Arc<dyn Device>, question: &Op<TensorDesc>) -> Result<Vec<Choice>> {
    let kernels = |op: &Op<TensorDesc>, packed| -> Vec<Choice> {
        let named = device.kernels(op);
        let list = if named.is_empty() {
            vec![None]
        } else {
            named.into_iter().map(Some).collect()
        };
        list.into_iter()
            .map(|kernel| Choice { kernel, packed })
            .collect()
    };
    if let Support::No(_) = device.supports(question) {
        return Ok(Vec::new());
    }
    let mut all = kernels(question, false);
    if let Some(op) = packed_question(device, question)?
        && matches!(device.supports(&op), Support::Native(_))
    {
        all.extend(kernels(&op, true));
    }
    Ok(all)
}

/// The same question with weights in the device's own layout, where it has one.
fn packed_question(
    device: &Arc<dyn Device>,
    question: &Op<TensorDesc>,
) -> Result<Option<Op<TensorDesc>>> {
    let pack = |w: &Weight<TensorDesc>| -> Result<Option<Weight<TensorDesc>>> {
        let Weight::Rows(d) = w else { return Ok(None) };
        if !d.is_contiguous() {
            return Ok(None);
        }
        let zeros = vec![0u8; d.span_bytes() as usize];
        let Some(packed) = device.prepack(d, &zeros)? else {
            return Ok(None);
        };
        let len = u32::try_from(packed.bytes().len()).map_err(|_| Error::TooLarge {
            what: "prepacked weight",
            asked: packed.bytes().len() as u64,
            max: u64::from(u32::MAX),
        })?;
        Ok(Some(Weight::Packed {
            data: TensorDesc::new(DType::U8, &[len])?,
            tag: packed.tag,
            logical: *d,
        }))
    };
    let mut op = question.clone();
    let done = match &mut op {
        Op::MatMul(a) => pack(&a.w)?.map(|w| a.w = w).is_some(),
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

/// Rows that share one reading of the weights.
fn rows(question: &Op<TensorDesc>) -> Option<u32> {
    match question {
        Op::MatMul(a) => Some(a.m()),
        Op::MatMulMany(a) => Some(a.x.dim_back(1)),
        Op::Attention(a) => Some(a.q.dim(2)),
        Op::Dequantize(_) | Op::GatherRows(_) => Some(1),
        _ => None,
    }
}

impl Prepared {
    /// Uploads the operands of `case`; `None` when the device refuses it.
    ///
    /// # Errors
    /// What the device says, [`Error::OutOfMemory`] among it.
    pub fn new(device: &Arc<dyn Device>, case: &Case) -> Result<Option<Self>> {
        let question = case.question();
        let choices = choices(device, &question)?;
        if choices.is_empty() {
            return Ok(None);
        }
        let mut queue = Queue::with_kernel(device, None)?.fallback(Fallback::Deny);
        let memory = case.materialize()?;
        let mut read_only = vec![true; memory.buffers.len()];
        memory.op.visit(|arg, p| {
            if arg.role != Role::In {
                read_only[p.buffer] = false;
            }
        });
        let few = rows(&question).is_some_and(|r| r <= FEW_ROWS);
        let read: u64 = memory
            .buffers
            .iter()
            .zip(&read_only)
            .filter(|(_, r)| **r)
            .map(|(b, _)| b.len() as u64)
            .sum();
        let copies = if few {
            COLD_BYTES.div_ceil(read.max(1)).clamp(2, 64)
        } else {
            1
        };
        let mut first: Vec<Buffer> = Vec::new();
        let mut plain = Vec::new();
        for copy in 0..copies {
            let mut placed = Vec::with_capacity(memory.buffers.len());
            for (i, bytes) in memory.buffers.iter().enumerate() {
                if copy > 0 && !read_only[i] {
                    placed.push(first[i].clone());
                    continue;
                }
                let buffer = Buffer::new(device, bytes.len() as u64, Usage::Weights)?;
                queue.write_bytes(&whole(&buffer)?, bytes)?;
                placed.push(buffer);
            }
            plain.push(tensors(&memory.op, &placed)?);
            if copy == 0 {
                first = placed;
            }
        }
        let mut packed = Vec::new();
        if choices.iter().any(|c| c.packed) {
            for op in &plain {
                packed.extend(pack(&mut queue, op, &memory)?);
            }
        }
        Ok(Some(Prepared {
            queue,
            question,
            plain,
            packed,
            turn: 0,
        }))
    }

    /// Ways to run it, the device's favourite first.
    pub fn choices(&self) -> Vec<Choice> {
        choices(self.queue.device(), &self.question).unwrap_or_default()
    }

    /// Arithmetic operations of one run.
    pub fn flops(&self) -> u64 {
        self.question.flops()
    }

    /// Bytes that one run must move.
    pub fn bytes(&self) -> u64 {
        self.question.bytes()
    }

    /// Runs it `n` times and waits.
    ///
    /// # Errors
    /// What the device says.
    pub fn run(&mut self, choice: &Choice, n: u64) -> Result<Duration> {
        let ops = if choice.packed {
            &self.packed
        } else {
            &self.plain
        };
        let start = Instant::now();
        for _ in 0..n {
            self.turn += 1;
            let op = ops[self.turn % ops.len()].clone();
            match choice.kernel {
                Some(k) => self.queue.run_with(op, k)?,
                None => self.queue.run(op)?,
            }
        }
        self.queue.finish()?;
        Ok(start.elapsed())
    }

    /// Times choices in turns, so that what else the machine does falls on all of them: medians of
    /// one run, in the order of `choices`; `None` for those that need more than twice the time of
    /// the first. Takes about `budget` for each.
    ///
    /// # Errors
    /// What the device says.
    pub fn race(&mut self, choices: &[Choice], budget: Duration) -> Result<Vec<Option<Duration>>> {
        let mut runners: Vec<(usize, &Choice, u64, Vec<f64>)> = Vec::new();
        let mut first = f64::INFINITY;
        for (i, choice) in choices.iter().enumerate() {
            let once = self.run(choice, 1)?.min(self.run(choice, 1)?).as_secs_f64();
            if i == 0 {
                first = once;
            }
            if once <= 2.0 * first {
                let batch = (2e-3 / once.max(1e-9)).ceil().clamp(1.0, 1e4) as u64;
                runners.push((i, choice, batch, Vec::new()));
            }
        }
        let (start, total) = (Instant::now(), budget * runners.len() as u32);
        let mut rounds = 0;
        while rounds < 5 || (start.elapsed() < total && rounds < 1000) {
            for (_, choice, batch, samples) in &mut runners {
                samples.push(self.run(choice, *batch)?.as_secs_f64() / *batch as f64);
            }
            rounds += 1;
        }
        let mut medians = vec![None; choices.len()];
        for (i, _, _, mut samples) in runners {
            samples.sort_by(f64::total_cmp);
            medians[i] = Some(Duration::from_secs_f64(samples[samples.len() / 2]));
        }
        Ok(medians)
    }

    /// Times it for about `budget`: batches of at least 2 ms, so that waiting costs little.
    ///
    /// # Errors
    /// What the device says.
    pub fn measure(&mut self, choice: &Choice, budget: Duration) -> Result<Measurement> {
        self.run(choice, 1)?;
        let once = self.run(choice, 1)?;
        let batch = (2e-3 / once.as_secs_f64().max(1e-9)).ceil().clamp(1.0, 1e4) as u64;
        let (start, mut samples) = (Instant::now(), Vec::new());
        while samples.len() < 5 || (start.elapsed() < budget && samples.len() < 1000) {
            samples.push(self.run(choice, batch)?.as_secs_f64() / batch as f64);
        }
        samples.sort_by(f64::total_cmp);
        Ok(Measurement {
            median: Duration::from_secs_f64(samples[samples.len() / 2]),
            samples: samples.len(),
            flops: self.flops(),
            bytes: self.bytes(),
        })
    }
}

/// Times one case with one kernel (none: the device's choice) for about `budget`.
///
/// # Errors
/// [`Error::Unsupported`] when the device or the kernel refuses the case; what the device says.
pub fn measure(
    device: &Arc<dyn Device>,
    case: &Case,
    kernel: Option<KernelId>,
    budget: Duration,
) -> Result<Measurement> {
    let choice = Choice {
        kernel,
        packed: false,
    };
    match Prepared::new(device, case)? {
        Some(mut prepared) => prepared.measure(&choice, budget),
        None => Err(Error::Unsupported {
            backend: device.info().id.backend.clone(),
            op: Some(case.op.kind()),
            refusal: match device.supports(&case.question()) {
                Support::No(refusal) => refusal,
                Support::Native(_) => crate::Refusal::Op,
            },
        }),
    }
}

/// Registers every kernel of `device` for every bench case that passes, under
/// `{device}/{kernel}/{case}`. Throughput is in flops (criterion's elements) where there are 8 or
/// more to a byte, else in bytes. Operands are uploaded only when criterion runs the bench.
///
/// # Panics
/// A kernel fails on a case that it said it takes, or memory is full: there is no number to report.
pub fn register(criterion: &mut Criterion, device: &Arc<dyn Device>, filter: &BenchFilter) {
    let mut group = criterion.benchmark_group(device.info().id.to_string());
    for case in filter.cases() {
        let question = case.question();
        let list = match choices(device, &question) {
            Ok(list) => list,
            Err(e) => {
                eprintln!("{}: {e}", case.name);
                continue;
            }
        };
        let (flops, bytes) = (question.flops(), question.bytes());
        group.throughput(if flops >= 8 * bytes {
            Throughput::Elements(flops)
        } else {
            Throughput::Bytes(bytes)
        });
        let prepared: RefCell<Option<Prepared>> = RefCell::new(None);
        for choice in list.iter().filter(|c| filter.accepts(c)) {
            let id = BenchmarkId::new(choice.to_string(), &case.name);
            group.bench_function(id, |b| {
                let mut prepared = prepared.borrow_mut();
                let prepared = prepared.get_or_insert_with(|| {
                    let made = done(Prepared::new(device, &case), &case, choice);
                    made.expect("the device took the case when it was asked")
                });
                b.iter_custom(|n| done(prepared.run(choice, n), &case, choice));
            });
        }
    }
    group.finish();
}

fn done<T>(result: Result<T>, case: &Case, choice: &Choice) -> T {
    result.unwrap_or_else(|e| panic!("{} by {choice}: {e}", case.name))
}

/// [`register`] on the device that `GRISTMILL_DEVICE` names, or on every device of this machine
/// that is not a GPU emulated in software. Says on standard error which there are.
///
/// # Panics
/// `GRISTMILL_DEVICE` names no device that opens; as [`register`].
pub fn register_all(criterion: &mut Criterion, filter: &BenchFilter) {
    for device in devices() {
        register(criterion, &device, filter);
    }
}

fn devices() -> Vec<Arc<dyn Device>> {
    let registry = Registry::builtin();
    if std::env::var_os(DEVICE_VAR).is_some() {
        let opened = Select::from_env().and_then(|s| registry.open_blocking(&s));
        return vec![opened.unwrap_or_else(|e| panic!("{DEVICE_VAR}: {e}"))];
    }
    let mut all = Vec::new();
    for (backend, found) in pollster::block_on(registry.probe()) {
        let list = found.unwrap_or_else(|e| {
            eprintln!("{backend}: {e}");
            Vec::new()
        });
        for info in list {
            if info.kind == DeviceKind::SoftwareGpu {
                eprintln!("{}: software; {DEVICE_VAR} picks it", info.id);
                continue;
            }
            match registry.open_blocking(&Select::Named(vec![info.id.clone()])) {
                Ok(device) => all.push(device),
                Err(e) => eprintln!("{}: {e}", info.id),
            }
        }
    }
    all
}
