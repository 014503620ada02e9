//! Running arbitrary ops on the CPU device.

use crate::ops::Tape;
use gristmill::*;
use std::sync::{Arc, LazyLock};

/// One thread: a crash is then where it was caused.
pub static CPU: LazyLock<Arc<dyn Device>> = LazyLock::new(|| {
    let mut options = OpenOptions::default();
    options.threads = Some(1);
    let id = Select::named("cpu").expect("a device name");
    let open = Registry::builtin();
    let device = pollster_lite(open.open_with(&id, &options));
    device.expect("the CPU is always there")
});

/// Runs a future that never waits, as those of the CPU backend are.
fn pollster_lite<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => unreachable!("the CPU backend does not wait"),
    }
}

/// Small enough to run many times a second.
pub fn is_small(op: &Op<TensorDesc>) -> bool {
    let mut bytes = 0u64;
    let mut elements = 0u64;
    op.visit(|_, d| {
        bytes = bytes.saturating_add(d.span_bytes());
        elements = elements.saturating_add(d.elements());
    });
    // Zeros in an activation of huge rank cost time that neither counts: bound the elements too.
    bytes < 1 << 18 && elements < 1 << 18 && op.flops() < 1 << 22
}

/// Tensors for `op`, filled with what the tape says, repeated. Now and then two operands share
/// memory: the queue decides whether they may.
pub fn order(queue: &mut Queue, op: &Op<TensorDesc>, tape: &mut Tape<'_>) -> Result<Op<Tensor>> {
    let mut last: Option<Tensor> = None;
    op.try_map(|_, d| {
        if tape.rarely(16)
            && let Some(other) = &last
            && let Ok(t) = Tensor::new(other.buffer(), other.byte_offset(), *d)
        {
            return Ok(t);
        }
        let skip = tape.below(3) as u64 * d.element.align();
        let all = TensorDesc::new(DType::U8, &[(skip + d.span_bytes()) as u32])?;
        let tensor = queue.alloc(all, Usage::Activations)?;
        let seed: Vec<u8> = (0..1 + tape.below(9)).map(|_| tape.byte()).collect();
        let small = tape.rarely(2);
        let bytes: Vec<u8> = (0..all.span_bytes() as usize)
            .map(|i| match d.plain() {
                // Ids, slots and lengths that are mostly near the valid range.
                Some(DType::I32 | DType::U32) if small && i % 4 == 0 => {
                    seed[i / 4 % seed.len()] % 8
                }
                Some(DType::I32 | DType::U32) if small => 0,
                _ => seed[i % seed.len()].wrapping_add((i / seed.len()) as u8),
            })
            .collect();
        queue.write_bytes(&tensor, &bytes)?;
        let t = Tensor::new(tensor.buffer(), skip, *d)?;
        last = Some(t.clone());
        Ok(t)
    })
}

/// Puts the weights of a product into the device's own layout, where it has one; the data may be
/// cut short, which the device must notice.
pub fn pack(op: Op<TensorDesc>, tape: &mut Tape<'_>) -> Op<TensorDesc> {
    let mut repack = |w: &Weight<TensorDesc>| -> Weight<TensorDesc> {
        let Weight::Rows(d) = w else {
            return w.clone();
        };
        if d.span_bytes() > 1 << 16 {
            return w.clone();
        }
        let bytes = vec![tape.byte(); d.contiguous().span_bytes() as usize];
        let packed = CPU.prepack(&d.contiguous(), &bytes);
        let Ok(Some(packed)) = packed else {
            return w.clone();
        };
        let mut len = packed.bytes().len() as u32;
        if tape.rarely(4) {
            len = len.saturating_sub(u32::from(tape.byte()));
        }
        let Ok(data) = TensorDesc::new(DType::U8, &[len]) else {
            return w.clone();
        };
        let logical = if tape.rarely(8) { *d } else { d.contiguous() };
        Weight::Packed {
            data,
            tag: packed.tag,
            logical,
        }
    };
    match op {
        Op::MatMul(mut m) => {
            m.w = repack(&m.w);
            Op::MatMul(m)
        }
        Op::GroupedMatMul(mut m) => {
            m.w = repack(&m.w);
            Op::GroupedMatMul(m)
        }
        Op::GatherRows(mut m) => {
            m.table = repack(&m.table);
            Op::GatherRows(m)
        }
        Op::MatMulMany(mut m) => {
            for part in &mut m.parts {
                part.w = repack(&part.w);
            }
            Op::MatMulMany(m)
        }
        other => other,
    }
}
