//! Softmax: one workgroup per row.

use super::{
    super::{
        launch::{Launch, pairs},
        stream::State,
        walk::Walk,
    },
    is_half, op_args,
};
use crate::{element::DType, error::Result, op::Op, tensor::Tensor};

pub(crate) fn run(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, Softmax);
    let (x, y) = (a.x.desc(), a.y.desc());
    let width = x.dim_back(0);
    let mask = a.mask.as_ref().map(|m| m.desc());
    let pair = is_half(&y) && pairs(&a.y);
    let mut operands = vec![("x", &x), ("y", &y)];
    operands.extend(mask.as_ref().map(|m| ("mask", m)));
    let mask_step = mask.map_or(0, |m| {
        if m.dim_back(0) == 1 {
            0
        } else {
            m.stride_back(0)
        }
    });
    let mask_kind = match mask.map(|m| m.plain()) {
        None => 0,
        Some(Some(DType::U8)) => 1,
        Some(_) => 2,
    };
    let l = Launch::new("softmax.wgsl")
        .def("WG", if width <= 256 { 64 } else { 256 })
        .def("PAIR", pair)
        .def("MASK", mask_kind)
        .input("x", &a.x)
        .input_opt("mask", a.mask.as_ref())
        .output_as("y", &a.y, pair)
        .walk("row_at", &Walk::rows(x.shape(), &operands))
        .u32("width", width)
        .u32("x_step", x.stride_back(0) as u32)
        .u32("y_step", y.stride_back(0) as u32)
        .u32("mask_step", mask_step as u32)
        .f32("scale", a.scale);
    state.dispatch(l, x.elements() / u64::from(width.max(1)))
}
