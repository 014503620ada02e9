//! Unary, Binary and Glu: kernels/elementwise.cu.

use super::args::Args;
use super::dequantize::{unsupported, wrong_op};
use super::geometry::{Axis, collapse, count, linear};
use super::rows::{DeviceEnv, Sink, View, float, question_of, stride, type_code};
use crate::{
    device::Quality,
    error::{Refusal, Result},
    layout::TensorDesc,
    op::{Act, BinOp, Op},
};

/// Axes of the widest kernel.
const AXES: usize = 6;

/// Any of the three ops: y = act(scale * a + offset), combined with b where there is one.
struct Parts<'a, T> {
    a: (&'static str, &'a T),
    b: Option<(&'static str, &'a T)>,
    y: &'a T,
    act: Act,
    /// GM_OP_*; 0 without b.
    function: u32,
    scale: f32,
    offset: f32,
}

impl<'a, T> Parts<'a, T> {
    fn of(op: &'a Op<T>) -> Option<Self> {
        let plain = |a, b, y, act, function| Parts {
            a,
            b,
            y,
            act,
            function,
            scale: 1.0,
            offset: 0.0,
        };
        Some(match op {
            Op::Unary(o) => Parts {
                scale: o.scale,
                offset: o.offset,
                ..plain(("x", &o.x), None, &o.y, o.act, 0)
            },
            Op::Binary(o) => {
                let function = match o.function {
                    BinOp::Add => 1,
                    BinOp::Sub => 2,
                    BinOp::Mul => 3,
                    BinOp::Div => 4,
                    BinOp::Max => 5,
                    BinOp::Min => 6,
                };
                plain(
                    ("a", &o.a),
                    Some(("b", &o.b)),
                    &o.y,
                    Act::Identity,
                    function,
                )
            }
            Op::Glu(o) => plain(("gate", &o.gate), Some(("up", &o.up)), &o.y, o.act, 3),
            _ => return None,
        })
    }
}

/// Axes of a, b and y; their types; the activation.
struct Plan {
    axes: Vec<Axis<3>>,
    types: u32,
    act: u32,
}

/// GM_ACT_* of kernels/gm.cuh and kernels/elementwise.cu.
fn act_code(act: Act) -> Result<u32, Refusal> {
    Ok(match act {
        Act::Identity => 0,
        Act::Relu => 1,
        Act::Silu => 2,
        Act::GeluTanh => 3,
        Act::Gelu => 4,
        Act::GeluQuick => 5,
        Act::Sigmoid => 6,
        Act::Tanh => 7,
        Act::ReluSquared => 8,
        Act::Softplus => 9,
        Act::Exp => 10,
        Act::Log => 11,
        Act::Neg => 12,
        Act::Abs => 13,
        Act::Square => 14,
        Act::Sqrt => 15,
        Act::Rsqrt => 16,
        Act::Recip => 17,
        // Their exact range reduction needs per-thread memory, which no kernel here has.
        Act::Sin | Act::Cos => return Err(Refusal::Feature("sin and cos")),
    })
}

fn plan(parts: &Parts<'_, TensorDesc>) -> Result<Plan, Refusal> {
    let y = parts.y;
    let mut types = type_code(float("y", y)?) << 8;
    let mut axes: Vec<Axis<3>> = (0..y.rank())
        .map(|axis| Axis {
            len: y.dim(axis),
            strides: [0, 0, stride(y.strides()[axis])],
        })
        .collect();
    for (at, operand) in [(0, Some(parts.a)), (1, parts.b)] {
        let Some((arg, t)) = operand else { continue };
        types |= type_code(float(arg, t)?) << (4 * at);
        let t = t.broadcast_to(y.shape()).map_err(|_| Refusal::Layout {
            arg,
            why: "must broadcast to y",
        })?;
        for (axis, &s) in axes.iter_mut().zip(t.strides()) {
            axis.strides[at] = stride(s);
        }
    }
    let axes = collapse(axes);
    let elements = count(&axes);
    if elements > u64::from(u32::MAX) {
        return Err(Refusal::Limit {
            what: "number of elements",
            asked: elements,
            max: u32::MAX.into(),
        });
    }
    Ok(Plan {
        axes,
        types,
        act: act_code(parts.act)?,
    })
}

pub(super) fn fits(_: &DeviceEnv, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let parts = Parts::of(op).ok_or(Refusal::Op)?;
    plan(&parts)?;
    Ok(Quality::Portable)
}

pub(super) fn run(sink: &mut dyn Sink, op: &Op<View>) -> Result<()> {
    let asked = question_of(op);
    let (Some(parts), Some(question)) = (Parts::of(op), Parts::of(&asked)) else {
        return Err(wrong_op(op.kind()));
    };
    let plan = plan(&question).map_err(|refusal| unsupported(op.kind(), refusal))?;
    let elements = count(&plan.axes);
    // The kernels are for 1, 2 and 6 axes; missing ones have length 1.
    let width = match plan.axes.len() {
        0 | 1 => 1,
        2 => 2,
        _ => AXES,
    };
    let mut axes = vec![
        Axis {
            len: 1,
            strides: [0; 3]
        };
        width - plan.axes.len()
    ];
    axes.extend(&plan.axes);
    let b = parts.b.map_or(0, |(_, b)| b.address);
    let mut args = Args::new()
        .ptr(parts.a.1.address)
        .ptr(b)
        .ptr(parts.y.address)
        .u32(elements as u32);
    args = axes[1..].iter().fold(args, |args, axis| args.u32(axis.len));
    for operand in 0..3 {
        args = axes
            .iter()
            .fold(args, |args, axis| args.u64(axis.strides[operand]));
    }
    let affine = parts.scale != 1.0 || parts.offset != 0.0;
    let args = args
        .u32(parts.function)
        .u32(plan.act)
        .u32(affine.into())
        .f32(parts.scale)
        .f32(parts.offset)
        .u32(plan.types);
    sink.launch(&kernel(width), linear(elements), args)
}

fn kernel(axes: usize) -> String {
    format!("gm_elementwise_{axes}")
}

#[cfg(test)]
pub(super) fn kernel_names(out: &mut std::collections::BTreeSet<String>) {
    out.extend([1, 2, AXES].map(kernel));
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{env, recorder, view};
    use super::*;
    use crate::element::DType;
    use crate::op::{Binary, Glu, Unary};

    #[test]
    fn a_bias_over_rows_takes_two_axes_and_a_whole_tensor_one() {
        let (x, b) = (
            view(DType::F32, &[2, 3, 8], 512),
            view(DType::BF16, &[8], 1024),
        );
        let op: Op<View> = Binary::add(&x, &b, &x).into();
        fits(&env(75), &question_of(&op)).unwrap();
        let mut sink = recorder(75);
        run(&mut sink, &op).unwrap();
        assert_eq!(sink.launches[0].0, "gm_elementwise_2");
        assert_eq!(
            sink.launches[0].2.values()[..11],
            [512, 1024, 512, 48, 8, 8, 1, 0, 1, 8, 1]
        );
        let mut sink = recorder(75);
        run(&mut sink, &Unary::affine(2.0, 1.0, &x, &x).into()).unwrap();
        assert_eq!(sink.launches[0].0, "gm_elementwise_1");
        assert_eq!(
            sink.launches[0].2.values()[..10],
            [512, 0, 512, 48, 1, 0, 1, 0, 0, 1]
        );
    }

    #[test]
    fn halves_of_one_tensor_keep_their_row_distance() {
        let both = view(DType::F16, &[4, 16], 512);
        let (gate, skip) = both.desc.narrowed(1, 8, 16).unwrap();
        let up = View {
            address: 512,
            desc: both.desc.narrowed(1, 0, 8).unwrap().0,
        };
        let gate = View {
            address: 512 + skip,
            desc: gate,
        };
        let mut sink = recorder(80);
        run(
            &mut sink,
            &Glu::new(Act::Silu, &gate, &up, &view(DType::F32, &[4, 8], 4096)).into(),
        )
        .unwrap();
        let v = sink.launches[0].2.values();
        assert_eq!(v[..11], [528, 512, 4096, 32, 8, 16, 1, 16, 1, 8, 1]);
        assert_eq!(v[11..14], [3, 2, 0]);
        assert_eq!(v[16], 1 | 1 << 4);
    }

    #[test]
    fn what_is_missing_is_named() {
        let x = view(DType::F32, &[4], 0).desc;
        let why = fits(&env(75), &Unary::new(Act::Sin, &x, &x).into()).unwrap_err();
        assert_eq!(why, Refusal::Feature("sin and cos"));
        let ints = view(DType::I32, &[4], 0).desc;
        let why = fits(&env(75), &Binary::add(&x, &ints, &x).into()).unwrap_err();
        assert_eq!(
            why,
            Refusal::Element {
                arg: "b",
                element: DType::I32.into()
            }
        );
    }
}
