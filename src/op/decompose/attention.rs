//! Attention in parts: scores, softcap, biases, softmax, weighted values.

use super::{Plan, Slot};
use crate::op::Attention;

pub(super) fn attention(_op: &Attention<Slot>, _plan: &mut Plan) -> Option<()> {
    None
}
