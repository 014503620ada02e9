//! Properties that hold for any input: views, overlap, serialization, decomposition.
#![cfg(feature = "serde")]

// The maker of arbitrary ops is that of the fuzz targets; the tests need a part of it.
#[allow(dead_code)]
#[path = "../fuzz/src/ops.rs"]
mod ops;

use gristmill::*;
use ops::{Maker, Mood, Tape};
use proptest::{collection::vec, prelude::*};

/// A view as the list of the addresses of its elements, row-major: the model that
/// [`TensorDesc`]'s strides must agree with. The address of an element counts elements of the
/// blocks that lie before it.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    shape: Vec<u32>,
    at: Vec<u64>,
}

impl Model {
    fn of(d: &TensorDesc, byte_offset: u64) -> Model {
        let block = d.element.block_len() as u64;
        let start = byte_offset / d.element.block_bytes() as u64 * block;
        let at = indices(d.shape())
            .map(|index| {
                let mut at = start;
                for (axis, &i) in index.iter().enumerate() {
                    let (stride, i) = (d.strides()[axis] as u64, u64::from(i));
                    at += if axis + 1 == d.rank() {
                        i / block * stride * block + i % block
                    } else {
                        i * stride * block
                    };
                }
                at
            })
            .collect();
        Model {
            shape: d.shape().to_vec(),
            at,
        }
    }

    /// The view whose element `index` is this one's element `from(index)`.
    fn pick(&self, shape: &[u32], from: impl Fn(&[u32]) -> Vec<u32>) -> Model {
        let position = |index: &[u32]| {
            let zip = index.iter().zip(&self.shape);
            zip.fold(0, |at, (&i, &len)| at * len as usize + i as usize)
        };
        Model {
            shape: shape.to_vec(),
            at: indices(shape)
                .map(|i| self.at[position(&from(&i))])
                .collect(),
        }
    }

    /// Strides that give exactly this list, if there are any: what a plain view can express.
    fn strides(&self) -> Option<Vec<i64>> {
        let first = *self.at.first()?;
        let mut inner = 1;
        let mut strides = vec![0; self.shape.len()];
        for (axis, &len) in self.shape.iter().enumerate().rev() {
            if len > 1 {
                strides[axis] = self.at[inner] as i64 - first as i64;
            }
            inner *= len as usize;
        }
        let same = indices(&self.shape).zip(&self.at).all(|(index, &at)| {
            let steps = index.iter().zip(&strides).map(|(&i, &s)| i64::from(i) * s);
            first as i64 + steps.sum::<i64>() == at as i64
        });
        (same && strides.iter().all(|&s| s >= 0)).then_some(strides)
    }
}

/// Every index of a shape, row-major.
fn indices(shape: &[u32]) -> impl Iterator<Item = Vec<u32>> {
    let shape = shape.to_vec();
    let count: usize = shape.iter().map(|&d| d as usize).product();
    (0..count).map(move |mut n| {
        let mut index = vec![0; shape.len()];
        for (i, &len) in index.iter_mut().zip(&shape).rev() {
            *i = (n % len as usize) as u32;
            n /= len as usize;
        }
        index
    })
}

/// Takes a view of a view; the numbers choose which. `None`: the layout refuses, and may.
fn step(
    kind: u8,
    a: usize,
    b: usize,
    d: TensorDesc,
    model: &Model,
) -> Option<(TensorDesc, u64, Model)> {
    let rank = d.rank();
    let block = d.element.block_len() as u32;
    let shape = d.shape().to_vec();
    match kind % 5 {
        0 if rank > 0 => {
            let axis = a % rank;
            let unit = if axis + 1 == rank { block } else { 1 };
            let cells = (shape[axis] / unit) as usize;
            let (x, y) = (b % (cells + 1), (b / 7) % (cells + 1));
            let (start, end) = (x.min(y) as u32 * unit, x.max(y) as u32 * unit);
            let (view, skip) = d
                .narrowed(axis, start, end)
                .expect("a range inside the axis");
            let model = model.pick(view.shape(), |i| {
                let mut i = i.to_vec();
                i[axis] += start;
                i
            });
            Some((view, skip, model))
        }
        1 if rank > 0 => {
            let free = if block > 1 { rank - 1 } else { rank };
            let mut order: Vec<usize> = (0..rank).collect();
            order[..free].rotate_left(a % free.max(1));
            if free > 1 {
                order.swap(b % free, a % free);
            }
            let view = d.permuted(&order).expect("an order that keeps blocks");
            let model = model.pick(view.shape(), |i| {
                let mut back = vec![0; rank];
                order.iter().zip(i).for_each(|(&o, &i)| back[o] = i);
                back
            });
            Some((view, 0, model))
        }
        2 => {
            // One axis becomes two, or two become one.
            let mut to = shape.clone();
            if a.is_multiple_of(2) && rank < MAX_RANK && rank > 0 {
                let axis = b % rank;
                let unit = if axis + 1 == rank { block } else { 1 };
                let n = shape[axis] / unit;
                let divisor = (1..=n)
                    .rev()
                    .find(|i| n.is_multiple_of(*i) && *i as usize <= 1 + b % 4)?;
                to[axis] /= divisor;
                to.insert(axis, divisor);
            } else if rank > 1 {
                let axis = b % (rank - 1);
                let next = to.remove(axis + 1);
                to[axis] *= next;
            }
            let want = Model {
                shape: to.clone(),
                at: model.at.clone(),
            };
            match d.reshaped(&to) {
                Ok(view) => Some((view, 0, want)),
                Err(_) => {
                    assert!(
                        block > 1 || want.strides().is_none(),
                        "{d} as {to:?} needs no copy but was refused"
                    );
                    None
                }
            }
        }
        3 => {
            let mut to = shape.clone();
            for (axis, len) in to.iter_mut().enumerate() {
                if *len == 1 && b >> axis & 1 == 1 {
                    *len = 1 + (a % 3) as u32;
                }
            }
            if rank < MAX_RANK && a.is_multiple_of(2) {
                to.insert(0, 1 + (b % 3) as u32);
            }
            let view = d.broadcast_to(&to).expect("axes of length 1 repeat");
            let lead = to.len() - rank;
            let model = model.pick(&to, |i| {
                let pairs = i[lead..].iter().zip(&shape);
                pairs
                    .map(|(&i, &len)| if len == 1 { 0 } else { i })
                    .collect()
            });
            Some((view, 0, model))
        }
        _ if rank > 1 && block == 1 => {
            let (a, b) = (a % rank, b % rank);
            let view = d.transposed(a, b).expect("two axes");
            let model = model.pick(view.shape(), |i| {
                let mut i = i.to_vec();
                i.swap(a, b);
                i
            });
            Some((view, 0, model))
        }
        _ => None,
    }
}

/// Bytes of the cells of a view.
fn bytes(d: &TensorDesc, offset: u64) -> Vec<u64> {
    let size = d.element.block_bytes() as u64;
    let block = d.element.block_len() as u64;
    let cells = Model::of(d, 0).at.into_iter().filter(|at| at % block == 0);
    let starts = cells.map(|at| offset + at / block * size);
    starts.flat_map(|s| s..s + size).collect()
}

/// A small strided view of a few bytes and where it starts.
fn small_view() -> impl Strategy<Value = (TensorDesc, u64)> {
    let element = prop_oneof![
        Just(Element::from(DType::F32)),
        Just(Element::from(DType::U8)),
        Just(Element::from(DType::F16)),
        Just(Element::from(QuantFormat::Q8_0)),
    ];
    let axes = vec((0u32..5, 0i64..10), 0..4);
    (element, axes, 0u64..12).prop_map(|(element, axes, start)| {
        let (mut shape, mut strides): (Vec<u32>, Vec<i64>) = axes.into_iter().unzip();
        if element.block_len() > 1 {
            shape.push(element.block_len() as u32 * 2);
            strides.push(1);
        }
        let d = TensorDesc::strided(element, &shape, &strides).expect("a small view");
        (d, start * element.align())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn views_agree_with_their_index_model(
        shape in vec(0u32..5, 0..5),
        blocks in any::<bool>(),
        steps in vec((any::<u8>(), any::<u8>(), any::<u8>()), 0..8),
    ) {
        let (element, shape) = if blocks {
            let mut shape = shape;
            shape.push(64);
            (Element::from(QuantFormat::Q8_0), shape)
        } else {
            (DType::F32.into(), shape)
        };
        let mut d = TensorDesc::new(element, &shape).expect("a small shape");
        let whole = d.span_bytes();
        let (mut offset, mut model) = (0, Model::of(&d, 0));
        for (kind, a, b) in steps {
            let Some((view, skip, next)) = step(kind, a.into(), b.into(), d, &model) else {
                continue;
            };
            (d, offset, model) = (view, offset + skip, next);
            prop_assert_eq!(&Model::of(&d, offset), &model);
            prop_assert!(offset + d.span_bytes() <= whole);
            prop_assert_eq!(d.elements(), model.at.len() as u64);
            let mut cells = bytes(&d, offset);
            cells.sort_unstable();
            cells.dedup();
            let distinct = cells.len() as u64;
            prop_assert!(distinct <= d.data_bytes());
            if d.is_injective() {
                prop_assert_eq!(distinct, d.elements() / element.block_len() as u64 * element.block_bytes() as u64);
            }
            if d.is_contiguous() && !d.is_empty() {
                prop_assert_eq!(d.span_bytes(), distinct);
                prop_assert!(model.at.windows(2).all(|w| w[0] + 1 == w[1]));
            }
        }
    }

    #[test]
    fn injective_views_name_no_cell_twice((d, offset) in small_view()) {
        let all = bytes(&d, offset);
        let mut once = all.clone();
        once.sort_unstable();
        once.dedup();
        if d.is_injective() {
            prop_assert_eq!(once.len(), all.len());
        }
    }

    #[test]
    fn serialized_ops_come_back(tape in vec(any::<u8>(), 0..200)) {
        for mood in [Mood::Tame, Mood::Wild] {
            let op = Maker { tape: Tape(&tape), mood }.op();
            if op.check().is_err() {
                continue;
            }
            let json = serde_json::to_string(&op).expect("an op");
            let back: Op<TensorDesc> = serde_json::from_str(&json).expect("what was written");
            prop_assert_eq!(back, op, "{}", json);
        }
    }

    #[test]
    fn checks_and_counts_are_total(tape in vec(any::<u8>(), 0..400)) {
        let op = Maker { tape: Tape(&tape), mood: Mood::Wild }.op();
        let _ = (op.flops(), op.bytes(), op.is_noop());
        if op.check().is_ok() {
            let _ = op::decompose::plan(&op, &mut |_| false);
            let simple = |q: &Op<TensorDesc>| match q {
                Op::MatMul(m) => m.epilogue.is_identity(),
                other => !matches!(other.kind(), OpKind::Attention | OpKind::Norm | OpKind::Glu),
            };
            if let Ok(plan) = op::decompose::plan(&op, &mut |q| simple(q)) {
                let total = plan.temp_bytes();
                prop_assert!(plan.temps.iter().all(|t| t.span_bytes() <= total));
                for part in &plan.parts {
                    let part = op::decompose::question(part);
                    prop_assert!(part.check().is_ok(), "{:?}: {:?}", part.check(), part);
                }
            }
        }
    }
}

/// What needs memory.
#[cfg(feature = "cpu")]
mod on_a_device {
    use super::*;
    use gristmill::device::{BoxFuture, Graph, Ticket};
    use proptest::strategy::ValueTree;
    use std::sync::{Arc, LazyLock};

    static CPU: LazyLock<Arc<dyn Device>> = LazyLock::new(|| {
        let select = Select::named("cpu").expect("a name");
        Registry::builtin().open_blocking(&select).expect("the CPU")
    });

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn overlap_is_never_overlooked(a in small_view(), b in small_view()) {
            let buffer = Buffer::new(&CPU, 4096, Usage::Activations).expect("a page");
            let view = |(d, offset)| Tensor::new(&buffer, offset, d).expect("inside the page");
            let (x, y) = (view(a), view(b));
            let theirs = bytes(&b.0, b.1);
            let shared = bytes(&a.0, a.1).iter().any(|byte| theirs.contains(byte));
            prop_assert!(!shared || x.overlaps(&y), "{:?} and {:?} share bytes", x, y);
            prop_assert_eq!(x.overlaps(&y), y.overlaps(&x));
            let apart = x.byte_range().end <= y.byte_range().start
                || y.byte_range().end <= x.byte_range().start;
            prop_assert!(!(apart && x.overlaps(&y)));
        }
    }

    /// The CPU device without the kernels of the ops that have parts.
    #[derive(Debug)]
    struct Poor(DeviceInfo);

    impl Device for Poor {
        fn info(&self) -> &DeviceInfo {
            &self.0
        }
        fn alloc(&self, bytes: u64, usage: Usage) -> Result<Arc<dyn RawBuffer>> {
            CPU.alloc(bytes, usage)
        }
        fn supports(&self, op: &Op<TensorDesc>) -> Support {
            let f32s = |d: &TensorDesc| d.plain() == Some(DType::F32) && d.is_contiguous();
            let kept = match op {
                Op::MatMul(MatMul {
                    x,
                    w: Weight::Rows(w),
                    y,
                    epilogue,
                    ..
                }) => epilogue.is_identity() && w.plain() == Some(DType::F32) && f32s(x) && f32s(y),
                Op::GatherRows(GatherRows {
                    table: Weight::Rows(t),
                    y,
                    ..
                }) => f32s(t) && f32s(y),
                Op::Conv2d(c) => c.epilogue.is_identity() && c.w.shape()[2..] != [1, 1],
                other => !matches!(
                    other.kind(),
                    OpKind::MatMul
                        | OpKind::MatMulMany
                        | OpKind::Attention
                        | OpKind::Glu
                        | OpKind::Norm
                        | OpKind::GatherRows
                ),
            };
            if kept {
                CPU.supports(op)
            } else {
                Support::No(Refusal::Op)
            }
        }
        fn stream(&self) -> Result<Box<dyn Stream>> {
            Ok(Box::new(PoorStream(CPU.stream()?)))
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }

    struct PoorStream(Box<dyn Stream>);

    impl Stream for PoorStream {
        fn write(&mut self, dst: &Buffer, offset: u64, data: &[u8]) -> Result<()> {
            self.0.write(dst, offset, data)
        }
        unsafe fn encode(&mut self, op: &Op<Tensor>, kernel: Option<KernelId>) -> Result<()> {
            // SAFETY: what `Poor` supports the CPU device supports too.
            unsafe { self.0.encode(op, kernel) }
        }
        fn submit(&mut self) -> Result<Ticket> {
            self.0.submit()
        }
        fn read(
            &mut self,
            src: &Buffer,
            range: std::ops::Range<u64>,
        ) -> BoxFuture<'static, Result<Vec<u8>>> {
            self.0.read(src, range)
        }
        fn wait(&mut self, ticket: Ticket) -> Result<()> {
            self.0.wait(ticket)
        }
        fn end_capture(&mut self) -> Result<Box<dyn Graph>> {
            self.0.end_capture()
        }
    }

    fn poor() -> Arc<dyn Device> {
        let mut info = CPU.info().clone();
        info.id = DeviceId::new("poor", 0);
        Arc::new(Poor(info))
    }

    /// Bytes of an operand: small floats, small ids, valid blocks.
    fn fill(d: &TensorDesc, seed: u32) -> Vec<u8> {
        let cells = (d.span_bytes() / d.element.block_bytes() as u64) as usize;
        let wave = |n: usize| (0..n).map(move |i| ((i as f32 + seed as f32) * 0.7).sin());
        match d.element {
            Element::Plain(DType::F32) => wave(cells).flat_map(f32::to_le_bytes).collect(),
            Element::Plain(DType::F16) => wave(cells)
                .flat_map(|v| half::f16::from_f32(v).to_le_bytes())
                .collect(),
            Element::Plain(DType::BF16) => wave(cells)
                .flat_map(|v| half::bf16::from_f32(v).to_le_bytes())
                .collect(),
            Element::Plain(DType::I32 | DType::U32) => (0..cells)
                .flat_map(|i| ((i as u32 * 3 + seed) % 4).to_le_bytes())
                .collect(),
            Element::Quant(q) if q.can_encode() => {
                let x: Vec<f32> = wave(cells * q.block_len()).collect();
                let mut out = vec![0; cells * q.block_bytes()];
                q.encode(&x, &mut out).expect("small numbers");
                out
            }
            other => vec![1; cells * other.block_bytes()],
        }
    }

    /// Uploads what `fill` says and runs the op; the numbers of its outputs as f32.
    fn results(queue: &mut Queue, op: &Op<TensorDesc>) -> Result<Vec<Vec<f32>>> {
        let mut seed = 0;
        let order = op.try_map(|_, d| {
            seed += 1;
            let buffer = Buffer::new(queue.device(), d.span_bytes(), Usage::Activations)?;
            let all = TensorDesc::new(DType::U8, &[d.span_bytes() as u32])?;
            queue.write_bytes(&Tensor::new(&buffer, 0, all)?, &fill(d, seed))?;
            Tensor::new(&buffer, 0, *d)
        })?;
        queue.run(order.clone())?;
        let mut outputs = Vec::new();
        for (arg, t) in order.operands() {
            if arg.role.writes() {
                let y = queue.zeros(DType::F32, t.shape())?;
                queue.run(Copy::new(&t, &y))?;
                outputs.push(queue.download(&y)?);
            }
        }
        Ok(outputs)
    }

    fn small(op: &Op<TensorDesc>) -> bool {
        let mut ok = op.flops() < 2_000_000;
        op.visit(|arg, d| {
            ok &= d.span_bytes() < 1 << 16 && (d.is_injective() || !arg.role.writes());
        });
        ok
    }

    #[test]
    fn parts_give_the_result_of_the_whole() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let kinds = [
            OpKind::MatMul,
            OpKind::MatMulMany,
            OpKind::Attention,
            OpKind::Glu,
            OpKind::Norm,
            OpKind::GatherRows,
            OpKind::Conv2d,
        ];
        let mut compared = [0; 7];
        let mut native = Queue::new(&CPU).expect("a queue").fallback(Fallback::Deny);
        let mut parts = Queue::new(&poor()).expect("a queue");
        let tapes = vec(any::<u8>(), 20..160);
        for round in 0..700 {
            let which = round % kinds.len();
            let tape = tapes.new_tree(&mut runner).expect("bytes").current();
            let mut maker = Maker {
                tape: Tape(&tape),
                mood: Mood::Tame,
            };
            let op = maker.op_of(kinds[which]);
            if op.check().is_err() || op.is_noop() || !small(&op) {
                continue;
            }
            if !matches!(parts.plan(&op), Ok(Route::Decomposed { .. })) || native.plan(&op).is_err()
            {
                continue;
            }
            let want = results(&mut native, &op).expect("the native kernel");
            let got = results(&mut parts, &op).expect("the parts");
            for (got, want) in got.iter().zip(&want) {
                let scale = want
                    .iter()
                    .fold(0f32, |m, v| if v.is_finite() { m.max(v.abs()) } else { m });
                for (g, w) in got.iter().zip(want) {
                    // Half results round twice; 8-bit activations are the caller's leave.
                    let near = (g - w).abs() <= 0.03 * scale + 1e-4;
                    let same = g.is_nan() == w.is_nan() && (near || g == w || !w.is_finite());
                    assert!(same || w.is_nan() && g.is_nan(), "{g} is not {w} in {op:?}");
                }
            }
            compared[which] += 1;
        }
        assert!(compared.iter().all(|&n| n >= 5), "{kinds:?}: {compared:?}");
    }
}
