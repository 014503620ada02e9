//! Copy (strided, casting) and Quantize to Q8_0.

use super::{
    super::{
        caps::Caps,
        launch::{Launch, pairs},
        stream::State,
        walk::Walk,
    },
    counted, groups, is_half, mismatch, op_args, plain_fits,
};
use crate::{
    device::Quality,
    element::{DType, Element},
    error::{Refusal, Result},
    layout::TensorDesc,
    op::Op,
    quant::QuantFormat,
    tensor::Tensor,
};

pub(crate) fn fits(caps: &Caps, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let Op::Copy(a) = op else {
        return Err(Refusal::Op);
    };
    counted(a.y.span_bytes())?;
    plain_fits(caps, op)
}

/// `t` as plain cells that are moved as they are: bytes for blocks and 8-bit types, words for the
/// rest; `None` where an element has to be converted or is a 16-bit cell.
fn raw(t: &Tensor) -> Result<Tensor> {
    let d = t.desc();
    let (element, per_cell) = match d.element {
        Element::Quant(q) => (DType::U8, q.block_bytes()),
        Element::Plain(p) if p.size() == 1 => (DType::U8, 1),
        Element::Plain(p) if p.size() == 4 => (DType::U32, 1),
        _ => return Ok(t.clone()),
    };
    let mut shape = d.shape().to_vec();
    let mut strides: Vec<i64> = d.strides().iter().map(|s| s * per_cell as i64).collect();
    if let (Element::Quant(q), Some(last), Some(step)) =
        (d.element, shape.last_mut(), strides.last_mut())
    {
        *last = *last / q.block_len() as u32 * per_cell as u32;
        *step = 1;
    }
    let desc = TensorDesc::strided(element, &shape, &strides)?;
    Tensor::new(t.buffer(), t.byte_offset(), desc)
}

/// Kind of number in a shader.
fn family(d: DType) -> i64 {
    match d {
        DType::I8 | DType::I32 => 1,
        DType::U8 | DType::U32 => 2,
        DType::I64 => 3,
        _ => 0,
    }
}

/// Range that a conversion to an integer type saturates at, as f32 and as i32 / u32.
fn range(d: DType) -> (i64, i64) {
    match d {
        DType::I8 => (-128, 127),
        DType::U8 => (0, 255),
        DType::U32 => (0, i64::from(u32::MAX)),
        _ => (i64::from(i32::MIN), i64::from(i32::MAX)),
    }
}

pub(crate) fn run(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, Copy);
    let same = a.x.element() == a.y.element();
    let (x, y) = if same {
        (raw(&a.x)?, raw(&a.y)?)
    } else {
        (a.x.clone(), a.y.clone())
    };
    let (dx, dy) = (x.desc(), y.desc());
    let (Some(from), Some(to)) = (dx.plain(), dy.plain()) else {
        return Err(mismatch());
    };
    let pair = is_half(&dy) && family(from) == 0 && pairs(&y);
    let n = dy.elements();
    let (least, most) = range(to);
    let l = Launch::new("copy.wgsl")
        .def("PAIR", pair)
        .def("FROM", family(from))
        .def("TO", family(to))
        .def("SAME", same)
        .def("LEAST", least)
        .def("MOST", most)
        .input("x", &x)
        .output_as("y", &y, pair)
        .walk("at", &Walk::over(dy.shape(), &[("x", &dx), ("y", &dy)]))
        .u32("n", n as u32);
    state.dispatch(l, groups(if pair { n / 2 } else { n }))
}

pub(crate) fn quantize_fits(caps: &Caps, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    if let Op::Quantize(a) = op
        && a.y.element != Element::Quant(QuantFormat::Q8_0)
    {
        return Err(Refusal::Element {
            arg: "y",
            element: a.y.element,
        });
    }
    plain_fits(caps, op)
}

pub(crate) fn quantize(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, Quantize);
    let (x, y) = (a.x.desc(), a.y.desc());
    let last = x.rank() - 1;
    let y_rows: Vec<i64> = (0..last).map(|i| y.stride_bytes(i)).collect();
    let blocks = x.elements() / 32;
    let l = Launch::new("quantize_q8_0.wgsl")
        .input("x", &a.x)
        .output("y", &a.y)
        .walk(
            "row_at",
            &Walk::new(
                &x.shape()[..last],
                &[("x", &x.strides()[..last]), ("y", &y_rows)],
            ),
        )
        .u32("n", blocks as u32)
        .u32("units", x.dim_back(0) / 32)
        .u32("x_step", x.stride_back(0) as u32);
    state.dispatch(l, groups(blocks))
}
