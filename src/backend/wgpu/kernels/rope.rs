//! Rope: one invocation per two pairs of a row.

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
    element::DType,
    error::{Refusal, Result},
    layout::TensorDesc,
    op::{Op, RopeKind},
    tensor::Tensor,
};

pub(crate) fn fits(caps: &Caps, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    if let Op::Rope(a) = op
        && a.factors.is_some()
        && a.theta < 1.0
    {
        // More than one turn per position cannot be divided after whole turns are dropped.
        return Err(Refusal::Feature("rope factors with theta below 1"));
    }
    plain_fits(caps, op)
}

/// Turns per position of each pair as 64-bit fractions, low word first. Whole turns drop out, so
/// that `position * fraction` modulo 2^64 is the exact phase at any position.
fn frequencies(theta: f32, n_rot: u32) -> Vec<u32> {
    let words = (0..n_rot / 2).flat_map(|i| {
        let exponent = -2.0 * f64::from(i) / f64::from(n_rot);
        let turns = f64::from(theta).powf(exponent) / std::f64::consts::TAU;
        let fraction = ((turns - turns.floor()) * 2f64.powi(64)) as u64;
        [fraction as u32, (fraction >> 32) as u32]
    });
    words.collect()
}

pub(crate) fn run(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, Rope);
    let (x, y, positions) = (a.x.desc(), a.y.desc(), a.positions.desc());
    let (d, half) = (x.dim(3), a.n_rot / 2);
    let split = a.kind != RopeKind::Interleaved;
    let pair = is_half(&y) && pairs(&a.y) && (!split || half.is_multiple_of(2));
    let sections = match a.kind {
        RopeKind::Sections(s) => s,
        _ => [0; 4],
    };
    let table = {
        let (theta, n_rot) = (a.theta, a.n_rot);
        let key = (u64::from(theta.to_bits()) << 32) | u64::from(n_rot);
        state.table(key, || frequencies(theta, n_rot))?
    };
    // Units of a row: two pairs, or two of the numbers that are copied.
    let (turning, copied) = (half.div_ceil(2), (d - a.n_rot).div_ceil(2));
    let units = turning + copied;
    // Strides of the positions along batch and sequence; sections have a row each.
    let (batch_step, step) = match positions.rank() {
        2 if sections == [0; 4] => (positions.strides()[0], positions.strides()[1]),
        2 => (0, positions.strides()[1]),
        _ => (0, positions.strides()[0]),
    };
    let section_step = if sections == [0; 4] {
        0
    } else {
        positions.strides()[0]
    };
    let rows: Vec<u32> = x.shape()[..3].to_vec();
    let along = [batch_step, 0, step];
    let walk = Walk::new(
        &rows,
        &[
            ("x", &x.strides()[..3]),
            ("y", &y.strides()[..3]),
            ("at", &along),
        ],
    );
    let l = Launch::new("rope.wgsl")
        .def("PAIR", pair)
        .def("SPLIT", split)
        .def("SECTIONS", sections != [0; 4])
        .def("FACTORS", a.factors.is_some())
        .input("x", &a.x)
        .input("positions", &a.positions)
        .input_opt("factors", a.factors.as_ref())
        .output_as("y", &a.y, pair)
        .scratch_in("turns", &table, DType::U32)
        .walk("row_at", &walk)
        .u32("units", units)
        .u32("turning", turning)
        .u32("half", half)
        .u32("width", d)
        .u32("x_step", x.strides()[3] as u32)
        .u32("y_step", y.strides()[3] as u32)
        .u32(
            "factor_step",
            a.factors
                .as_ref()
                .map_or(0, |f| f.desc().strides()[0] as u32),
        )
        .u32("section_step", section_step as u32)
        .list("section", &sections)
        .f32("magnitude", a.magnitude);
    let n: u64 = rows.iter().map(|&r| u64::from(r)).product::<u64>() * u64::from(units);
    let l = l.u32("n", n as u32);
    state.dispatch(l, groups(n))
}
