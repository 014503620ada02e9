//! Upsample.

use super::{
    super::{
        launch::{Launch, pairs},
        stream::State,
        walk::Walk,
    },
    groups, is_half, op_args,
};
use crate::{error::Result, op::Op, tensor::Tensor};

pub(crate) fn upsample(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, Upsample);
    let (x, y) = (a.x.desc(), a.y.desc());
    let pair = is_half(&y) && pairs(&a.y);
    let n = y.elements();
    let s = x.strides();
    // x's rows and columns by their own steps; planes by the walk.
    let l = Launch::new("upsample.wgsl")
        .def("PAIR", pair)
        .input("x", &a.x)
        .output_as("y", &a.y, pair)
        .walk(
            "at",
            &Walk::new(y.shape(), &[("x", &[s[0], s[1], 0, 0]), ("y", y.strides())]),
        )
        .u32("n", n as u32)
        .u32("high", y.dim(2))
        .u32("wide", y.dim(3))
        .u32("times_high", y.dim(2) / x.dim(2).max(1))
        .u32("times_wide", y.dim(3) / x.dim(3).max(1))
        .u32("x_row", s[2] as u32)
        .u32("x_step", s[3] as u32);
    state.dispatch(l, groups(if pair { n / 2 } else { n }))
}
