//! Reduce: one workgroup per result.

use super::{
    super::{launch::Launch, stream::State, walk::Walk},
    op_args,
};
use crate::{
    error::Result,
    op::{Op, RedOp},
    tensor::Tensor,
};

pub(crate) fn run(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, Reduce);
    let (x, y) = (a.x.desc(), a.y.desc());
    let axis = usize::from(a.axis);
    let width = x.dim(axis);
    let function = RedOp::ALL
        .iter()
        .position(|&f| f == a.function)
        .unwrap_or(0) as i64;
    let l = Launch::new("reduce.wgsl")
        .def("WG", if width <= 256 { 64 } else { 256 })
        .def("FUNCTION", function)
        .input("x", &a.x)
        .output("y", &a.y)
        // y has length 1 along the axis, so its shape walks over what remains of x.
        .walk(
            "row_at",
            &Walk::new(y.shape(), &[("x", x.strides()), ("y", y.strides())]),
        )
        .u32("width", width)
        .u32("x_step", x.strides()[axis] as u32);
    state.dispatch(l, y.elements())
}
