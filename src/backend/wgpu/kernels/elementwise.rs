//! Unary, Binary and Glu.

use super::{
    super::{
        launch::{Launch, pairs},
        stream::State,
        walk::Walk,
    },
    act_number, groups, is_half, op_args,
};
use crate::{
    error::Result,
    op::{BinOp, Op},
    tensor::Tensor,
};

/// Adds what every elementwise kernel has: y, the walk, the count. One invocation makes one
/// element, or two that share a word of y.
fn finish(
    state: &mut State,
    l: Launch,
    y: &Tensor,
    inputs: &[(&'static str, &Tensor)],
) -> Result<()> {
    let pair = is_half(&y.desc()) && pairs(y);
    let unit = if pair { 2 } else { 1 };
    let descs: Vec<_> = inputs
        .iter()
        .map(|(n, t)| (*n, t.desc()))
        .chain([("y", y.desc())])
        .collect();
    let operands: Vec<_> = descs.iter().map(|(n, d)| (*n, d)).collect();
    let n = y.desc().elements();
    let l = l
        .def("PAIR", pair)
        .output_as("y", y, pair)
        .walk("at", &Walk::over(y.shape(), &operands))
        .u32("n", n as u32);
    state.dispatch(l, groups(n / unit))
}

pub(crate) fn unary(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, Unary);
    let l = Launch::new("unary.wgsl")
        .def("ACT", act_number(a.act))
        .input("x", &a.x)
        .f32("scale", a.scale)
        .f32("offset", a.offset);
    finish(state, l, &a.y, &[("x", &a.x)])
}

pub(crate) fn binary(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, Binary);
    let function = BinOp::ALL
        .iter()
        .position(|&f| f == a.function)
        .unwrap_or(0) as i64;
    let l = Launch::new("binary.wgsl")
        .def("FUNCTION", function)
        .input("a", &a.a)
        .input("b", &a.b);
    finish(state, l, &a.y, &[("a", &a.a), ("b", &a.b)])
}

pub(crate) fn glu(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, Glu);
    let l = Launch::new("glu.wgsl")
        .def("ACT", act_number(a.act))
        .input("gate", &a.gate)
        .input("up", &a.up);
    finish(state, l, &a.y, &[("gate", &a.gate), ("up", &a.up)])
}
