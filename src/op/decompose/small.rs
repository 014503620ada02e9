//! The small ops in parts.

use super::{Plan, Slot};
use crate::element::DType;
use crate::op::{Binary, Conv2d, GatherRows, Glu, Norm, Softmax, Unary};

/// act(gate), then times up.
pub(super) fn glu(op: &Glu<Slot>, plan: &mut Plan) -> Option<()> {
    let t = plan.temp(DType::F32, op.y.desc.shape())?;
    plan.push(Unary::new(op.act, &op.gate, &t));
    plan.push(Binary::mul(&t, &op.up, &op.y));
    Some(())
}

pub(super) fn norm(_op: &Norm<Slot>, _plan: &mut Plan) -> Option<()> {
    None
}

pub(super) fn gather_rows(_op: &GatherRows<Slot>, _plan: &mut Plan) -> Option<()> {
    None
}

pub(super) fn softmax(_op: &Softmax<Slot>, _plan: &mut Plan) -> Option<()> {
    None
}

pub(super) fn conv2d(_op: &Conv2d<Slot>, _plan: &mut Plan) -> Option<()> {
    None
}
