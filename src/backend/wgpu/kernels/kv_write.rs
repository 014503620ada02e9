//! KvWrite: keys, then values, each a scatter of rows.

use super::{
    super::{
        caps::Caps,
        launch::{Launch, pairs},
        stream::State,
        walk::Walk,
    },
    groups, is_half, op_args, plain_fits,
};
use crate::{
    device::Quality,
    element::{DType, Element},
    error::{Refusal, Result},
    layout::TensorDesc,
    op::{Kv, Op},
    quant::QuantFormat,
    tensor::Tensor,
};

/// Element types of a cache.
fn stores(arg: &'static str, d: &TensorDesc) -> Result<(), Refusal> {
    match d.element {
        Element::Plain(DType::F32 | DType::F16 | DType::BF16)
        | Element::Quant(QuantFormat::Q8_0) => Ok(()),
        element => Err(Refusal::Element { arg, element }),
    }
}

pub(crate) fn fits(caps: &Caps, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let Op::KvWrite(a) = op else {
        return Err(Refusal::Op);
    };
    stores("k_cache", a.kv.k())?;
    stores("v_cache", a.kv.v())?;
    plain_fits(caps, op)
}

pub(crate) fn run(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, KvWrite);
    let paged = matches!(a.kv, Kv::Paged { .. });
    for (new, cache) in [(&a.k, a.kv.k()), (&a.v, a.kv.v())] {
        if !new.desc().is_empty() && !cache.desc().is_empty() {
            scatter(state, new, cache, &a.slots, paged)?;
        }
    }
    Ok(())
}

fn scatter(
    state: &mut State,
    new: &Tensor,
    cache: &Tensor,
    slots: &Tensor,
    paged: bool,
) -> Result<()> {
    let (x, y, s) = (new.desc(), cache.desc(), slots.desc());
    let width = x.dim(3);
    let blocks = matches!(y.element, Element::Quant(_));
    let pair = is_half(&y) && pairs(cache);
    let unit = match (blocks, pair) {
        (true, _) => 32,
        (_, true) => 2,
        _ => 1,
    };
    // Strides of the cache in elements, or bytes for blocks; the sequence axis of a pool is the
    // page.
    let cell = if blocks {
        y.element.block_bytes() as i64
    } else {
        1
    };
    let step = |axis: usize| y.strides()[axis] * cell;
    let along_sequence = if paged { 0 } else { step(0) };
    let slot_steps = match s.rank() {
        2 => [s.strides()[0], 0, s.strides()[1]],
        _ => [0, 0, s.strides()[0]],
    };
    let walk = Walk::new(
        &x.shape()[..3],
        &[
            ("x", &x.strides()[..3]),
            ("y", &[along_sequence, step(1), 0]),
            ("slots", &slot_steps),
        ],
    );
    let pages = if paged { y.dim(0) } else { 1 };
    let units = width / unit;
    let n = x.elements() / u64::from(unit);
    let l = Launch::new(if blocks {
        "kv_write_q8_0.wgsl"
    } else {
        "kv_write.wgsl"
    })
    .def("PAIR", pair)
    .input("x", new)
    .input("slots", slots)
    .output_as("y", cache, pair)
    .walk("row_at", &walk)
    .u32("n", n as u32)
    .u32("units", units)
    .u32("page", y.dim(2))
    // Overflow would need a pool beyond any binding.
    .u32(
        "capacity",
        (u64::from(pages) * u64::from(y.dim(2))).min(u64::from(u32::MAX)) as u32,
    )
    .u32("page_step", if paged { step(0) as u32 } else { 0 })
    .u32("row_step", step(2) as u32)
    .u32("x_step", x.strides()[3] as u32)
    .u32("y_step", if blocks { 0 } else { y.strides()[3] as u32 });
    state.dispatch(l, groups(n))
}
