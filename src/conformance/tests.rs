//! The suite tested on a device that computes by the reference, and on broken ones.

use super::*;
use crate::{
    Buffer, Error, KernelId, MatMul, OpKind, Quality, Refusal, Result, Support, Tensor, TensorDesc,
    Weight,
    device::{
        BoxFuture, Caps, Device, DeviceId, DeviceInfo, DeviceKind, Limits, RawBuffer, Stream,
        Ticket, Usage,
    },
    element::{DType, Element},
    op::Op,
    reference::{self, Array, cell_offsets, encode_plain},
};
use std::{
    any::Any,
    ops::Range,
    sync::{Arc, Mutex},
};

/// What a device does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// The first two rows of the output change places.
    SwappedRows,
    /// The last number is not written.
    UnwrittenTail,
    /// One number beyond the output is written.
    Overrun,
    /// One number before the output is written.
    Underrun,
    /// Each number is that of its left neighbour.
    OffByOne,
    /// Activations are rounded to bf16.
    LowPrecision,
    /// A second run differs in the last bit.
    Unstable,
    /// NaN becomes 0.
    NoNan,
    /// `supports` says yes, `encode` fails.
    Liar,
    /// None, but only the ops that others are made of are there.
    Basic,
}

#[derive(Debug)]
struct Toy {
    info: DeviceInfo,
    fault: Fault,
    runs: Mutex<u32>,
}

#[derive(Debug)]
struct Memory(Mutex<Vec<u8>>);

impl RawBuffer for Memory {
    fn len(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn memory(b: &Buffer) -> &Mutex<Vec<u8>> {
    &b.raw().as_any().downcast_ref::<Memory>().unwrap().0
}

impl Device for Toy {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    fn alloc(&self, bytes: u64, _: Usage) -> Result<Arc<dyn RawBuffer>> {
        Ok(Arc::new(Memory(Mutex::new(vec![0; bytes as usize]))))
    }
    fn supports(&self, op: &Op<TensorDesc>) -> Support {
        let basic = match op {
            Op::MatMul(a) => {
                a.epilogue.is_identity() && matches!(&a.w, Weight::Rows(w) if w.plain().is_some())
            }
            Op::Unary(_)
            | Op::Binary(_)
            | Op::Copy(_)
            | Op::Dequantize(_)
            | Op::Reduce(_)
            | Op::Softmax(_) => true,
            _ => false,
        };
        if op.kind() == OpKind::Custom || self.fault == Fault::Basic && !basic {
            Support::No(Refusal::Op)
        } else {
            Support::Native(Quality::Slow)
        }
    }
    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(ToyStream {
            fault: self.fault,
            runs: 0,
        }))
    }
    fn kernels(&self, _: &Op<TensorDesc>) -> Vec<KernelId> {
        *self.runs.lock().unwrap() += 1;
        vec![KernelId("toy-reference")]
    }
    fn all_kernels(&self) -> Vec<(OpKind, KernelId)> {
        vec![(OpKind::MatMul, KernelId("toy-reference"))]
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct ToyStream {
    fault: Fault,
    runs: u32,
}

impl Stream for ToyStream {
    fn write(&mut self, dst: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
        let offset = offset as usize;
        memory(dst).lock().unwrap()[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    unsafe fn encode(&mut self, op: &Op<Tensor>, _: Option<KernelId>) -> Result<()> {
        self.runs += 1;
        if self.fault == Fault::Liar {
            return Err(Error::unsupported("toy", "this op after all"));
        }
        let arrays = op.map(|_, t| Array {
            desc: t.desc(),
            bytes: Arc::new(memory(t.buffer()).lock().unwrap().clone()),
            byte_offset: t.byte_offset(),
        });
        let outputs = reference::eval(&arrays)?;
        let mut written = Vec::new();
        op.visit(|arg, t| {
            if arg.role.writes() {
                written.push(t.clone());
            }
        });
        for (t, mut o) in written.into_iter().zip(outputs) {
            self.spoil(&mut o, op);
            let mut bytes = memory(t.buffer()).lock().unwrap();
            let start = t.byte_offset() as usize;
            let cells = cell_offsets(&t.desc());
            match t.element() {
                Element::Plain(d) => {
                    let size = d.size();
                    let mut numbers = Vec::new();
                    o.values
                        .iter()
                        .for_each(|&v| encode_plain(d, v, &mut numbers));
                    let skip = usize::from(self.fault == Fault::UnwrittenTail);
                    let count = cells.len().saturating_sub(skip);
                    for (&c, n) in cells.iter().zip(numbers.chunks(size)).take(count) {
                        bytes[start + c..start + c + size].copy_from_slice(n);
                    }
                    let end = start + t.desc().span_bytes() as usize;
                    match self.fault {
                        Fault::Overrun => bytes[end..end + size].fill(0),
                        Fault::Underrun => bytes[start - size..start].fill(0),
                        _ => {}
                    }
                }
                Element::Quant(q) => {
                    let mut x: Vec<f32> = o.values.iter().map(|&v| v as f32).collect();
                    if let Op::Quantize(a) = &arrays {
                        x = reference::Nd::of(&a.x)
                            .v
                            .iter()
                            .map(|&v| v as f32)
                            .collect();
                    }
                    for (i, (c, x)) in cells.iter().zip(x.chunks(q.block_len())).enumerate() {
                        let at = start + c;
                        let block = &mut bytes[at..at + q.block_bytes()];
                        if let Op::Copy(a) = &arrays {
                            let d = a.x.desc.broadcast_to(t.shape()).unwrap();
                            let from = a.x.byte_offset as usize + cell_offsets(&d)[i];
                            block.copy_from_slice(&a.x.bytes[from..from + q.block_bytes()]);
                            continue;
                        }
                        // Blocks that stand for these numbers already stay as they are.
                        let mut now = vec![0f32; x.len()];
                        q.decode_block(block, &mut now);
                        if now != x {
                            q.encode(x, block).unwrap();
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<Ticket> {
        Ok(Ticket(0))
    }

    fn read(&mut self, src: &Buffer, range: Range<u64>) -> BoxFuture<'static, Result<Vec<u8>>> {
        let bytes = memory(src).lock().unwrap()[range.start as usize..range.end as usize].to_vec();
        Box::pin(async { Ok(bytes) })
    }

    fn wait(&mut self, _: Ticket) -> Result<()> {
        Ok(())
    }
}

impl ToyStream {
    fn spoil(&self, o: &mut reference::Output, op: &Op<Tensor>) {
        let v = &mut o.values;
        let width = o.shape.last().copied().unwrap_or(1) as usize;
        match self.fault {
            Fault::SwappedRows if v.len() >= 2 * width => {
                let (a, b) = v.split_at_mut(width);
                a.swap_with_slice(&mut b[..width]);
            }
            Fault::OffByOne => v.rotate_right(1),
            Fault::LowPrecision => {
                if let Op::MatMul(a) = op {
                    let k = f64::from(a.x.desc().dim_back(0));
                    for (i, v) in v.iter_mut().enumerate() {
                        let sign = if i % 2 == 0 { 1.0 } else { -1.0 };
                        *v += sign * 0.5 / 256.0 * k.sqrt() / 3f64.sqrt();
                    }
                }
            }
            Fault::Unstable if self.runs > 1 => {
                for v in v.iter_mut() {
                    *v = f64::from((*v as f32).next_up());
                }
            }
            Fault::NoNan => {
                for v in v.iter_mut().filter(|v| v.is_nan()) {
                    *v = 0.0;
                }
            }
            _ => {}
        }
    }
}

fn toy(fault: Fault) -> Arc<dyn Device> {
    let id = DeviceId::new("toy", 0);
    Arc::new(Toy {
        info: DeviceInfo::new(
            id,
            "toy",
            DeviceKind::Cpu,
            Limits::new(1 << 30),
            Caps::BLOCKING,
        ),
        fault,
        runs: Mutex::new(0),
    })
}

fn outcome(fault: Fault, case: Case) -> Status {
    let device = toy(fault);
    let report = pollster::block_on(run_cases(
        &device,
        &[case],
        &Filter::default(),
        &Expect::default(),
        &mut |_| {},
    ))
    .unwrap();
    report
        .failures()
        .next()
        .map_or(Status::Passed, |o| o.status.clone())
}

fn product(k: u32, fill: Fill) -> Case {
    let d = |shape: &[u32]| TensorDesc::new(DType::F32, shape).unwrap();
    let x = Spec::new(d(&[3, k]), fill);
    let w = Spec::new(d(&[5, k]), Fill::Normal(0.0, 1.0));
    let y = Spec::new(d(&[3, 5]), Fill::Keep);
    Case::new(format!("test/k{k}"), MatMul::new(&x, Weight::Rows(w), &y))
}

#[test]
fn a_sound_device_passes() {
    for k in [1, 64, 1024] {
        let status = outcome(Fault::None, product(k, Fill::Normal(0.0, 1.0)));
        assert_eq!(status, Status::Passed, "k = {k}");
    }
}

#[test]
fn broken_kernels_are_caught() {
    let faults = [
        (Fault::SwappedRows, "expected"),
        (Fault::UnwrittenTail, "[2, 4] is NaN"),
        (Fault::Overrun, "no output holds"),
        (Fault::Underrun, "no output holds"),
        (Fault::OffByOne, "expected"),
        (Fault::LowPrecision, "bound"),
        (Fault::Unstable, "different bits"),
        (Fault::Liar, "claims support"),
    ];
    for (fault, words) in faults {
        match outcome(fault, product(256, Fill::Normal(0.0, 1.0))) {
            Status::Failed(why) => assert!(why.contains(words), "{fault:?}: {why}"),
            other => panic!("{fault:?}: {other:?}"),
        }
    }
    let special = outcome(Fault::NoNan, product(64, Fill::Special));
    assert!(matches!(special, Status::Failed(why) if why.contains("expected NaN")));
}

#[test]
fn expectations_are_data() {
    let device = toy(Fault::OffByOne);
    let run = |device: &Arc<dyn Device>, failing: &[(&str, &str)]| {
        let expect = Expect {
            failing,
            ..Expect::default()
        };
        let case = product(64, Fill::Normal(0.0, 1.0));
        pollster::block_on(run_cases(
            device,
            &[case],
            &Filter::default(),
            &expect,
            &mut |_| {},
        ))
        .unwrap()
        .totals()
    };
    let failed = run(&device, &[]);
    assert_eq!((failed.passed, failed.failed), (0, 2));
    let listed = run(&device, &[("test/*", "shifts")]);
    assert_eq!((listed.failed, listed.expected), (0, 2));
    let by_kernel = run(&device, &[("toy-reference@*", "shifts")]);
    assert_eq!((by_kernel.failed, by_kernel.expected), (1, 1));
    let sound = run(&toy(Fault::None), &[("test/*", "shifts")]);
    assert_eq!((sound.passed, sound.failed), (0, 2));
}

#[test]
fn the_smoke_tier_passes_on_the_reference() {
    let report = run(
        &toy(Fault::None),
        &Filter::new(Tier::Smoke),
        &Expect::default(),
        &mut |_| {},
    )
    .unwrap();
    assert!(report.is_success(), "{}", report.text());
}

#[test]
fn the_full_tier_passes_on_the_reference_and_covers_every_op() {
    let report = run(
        &toy(Fault::None),
        &Filter::new(Tier::Full).kernel("toy-reference"),
        &Expect::default(),
        &mut |_| {},
    )
    .unwrap();
    assert!(report.is_success(), "{}", report.text());
    assert!(report.cases >= 2000, "{} cases", report.cases);
    for &op in OpKind::ALL.iter().filter(|&&op| op != OpKind::Custom) {
        let count = report.outcomes.iter().filter(|o| o.op == op).count();
        assert!(count >= 10, "{op}: {count}");
    }
}

#[test]
fn ops_in_parts_are_checked() {
    let device = toy(Fault::Basic);
    let run = |filter: &Filter| run(&device, filter, &Expect::default(), &mut |_| {}).unwrap();
    let refused = run(&Filter::new(Tier::Smoke)).totals();
    assert!(refused.refused > 0 && refused.failed == 0, "{refused:?}");
    for name in ["mat_mul/epilogue/*", "mat_mul_many/*", "glu/*"] {
        let report = run(&Filter::new(Tier::Full).name(name).decompose());
        assert!(report.is_success(), "{}", report.text());
        let parts = report.outcomes.iter().filter(|o| o.path == Path::Parts);
        assert!(parts.count() > 50, "{name}");
    }
}

#[test]
fn reports_are_written() {
    let reports = [Fault::None, Fault::Basic, Fault::OffByOne].map(|fault| {
        let filter = Filter::new(Tier::Smoke).name("*/smoke*");
        run(&toy(fault), &filter, &Expect::default(), &mut |_| {}).unwrap()
    });
    let matrix = support_matrix(&reports);
    let row = |start: &str| {
        matrix
            .lines()
            .find(|l| l.starts_with(start))
            .unwrap()
            .to_owned()
    };
    assert_eq!(row("| glu | f32 |"), "| glu | f32 | yes | no | 2 failing |");
    assert!(
        reports[0]
            .markdown()
            .contains("| binary | toy-reference | 1 | 0 | 0 |")
    );
    let json: serde_json::Value = serde_json::from_str(&reports[2].json()).unwrap();
    assert_eq!(
        json["outcomes"].as_array().unwrap().len(),
        reports[2].outcomes.len()
    );
    assert_eq!(json["failed"], reports[2].totals().failed);
    assert!(
        reports[2]
            .text()
            .contains("FAILED glu/smoke [native toy-reference]: ")
    );
}

#[test]
fn names_are_unique_and_cases_valid() {
    let all = cases(Tier::Soak);
    let mut names: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|w| w[0] == w[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
    for case in &all {
        if let Err(e) = case.question().check() {
            panic!("{}: {e}", case.name);
        }
    }
}

#[test]
fn patterns() {
    assert!(matches("mat_mul", "mat_mul/f32"));
    assert!(matches("mat*f32", "mat_mul/f32"));
    assert!(!matches("mat*f16", "mat_mul/f32"));
    assert!(matches("*@attention/?", "k@attention/x"));
    assert!(matches("*aab", "aaab"));
    // No pattern takes longer than its length times the name's.
    assert!(!matches(&("*a".repeat(40) + "*b"), &"a".repeat(200)));
}

/// The bound of a number scales with the largest of its block, which may be an infinity.
#[test]
fn an_infinity_excuses_no_other_number() {
    let want = reference::Output {
        arg: crate::op::Arg::output("y"),
        shape: vec![2],
        values: vec![f64::INFINITY, 1e38],
        magnitudes: vec![f64::INFINITY; 2],
        slack: Vec::new(),
    };
    let verdict = |got: [f64; 2]| tolerance::compare(&want, &got, DType::F32.into(), 1e-6).failure;
    assert_eq!(verdict([f64::INFINITY, 1e38]), None);
    assert!(verdict([f64::INFINITY, 1.1e38]).is_some());
}
