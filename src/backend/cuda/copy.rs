//! Copy: kernels/cast.cu for rows that change type, kernels/copy.cu for everything else.

use super::args::Args;
use super::dequantize::{unsupported, wrong_op};
use super::geometry::{Axis, collapse, count, linear};
use super::rows::{DeviceEnv, Sink, View, float, question, stride};
use crate::{
    device::Quality,
    element::{DType, Element},
    error::{Refusal, Result},
    layout::TensorDesc,
    op::{Copy, Op, OpKind},
};

/// Axes of the strided kernel.
const AXES: usize = 6;

/// A copy as axes of units: floats that convert, or bytes in units of 1, 2, 4 or 8.
struct Plan {
    axes: Vec<Axis<2>>,
    unit: Unit,
}

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Floats(DType, DType),
    /// Bytes of a unit.
    Raw(u64),
}

impl Unit {
    fn strided_kernel(self) -> String {
        match self {
            Unit::Floats(x, y) => format!("gm_copy_{}_{}", x.name(), y.name()),
            Unit::Raw(bytes) => format!("gm_copy_raw{}", 8 * bytes),
        }
    }
}

fn rows_kernel(x: DType, y: DType) -> String {
    format!("gm_cast_{}_{}", x.name(), y.name())
}

fn plan(op: &Copy<TensorDesc>) -> Result<Plan, Refusal> {
    let (x, y) = (&op.x, &op.y);
    let x = x.broadcast_to(y.shape()).map_err(|_| Refusal::Layout {
        arg: "x",
        why: "must broadcast to y",
    })?;
    let unit = if x.element == y.element {
        // Blocks of 18 bytes are whole 2-byte units; blocks of odd size go byte by byte.
        Unit::Raw(match x.element {
            Element::Plain(d) => d.size() as u64,
            Element::Quant(q) if q.block_bytes() % 2 == 0 => 2,
            Element::Quant(_) => 1,
        })
    } else {
        Unit::Floats(float("x", &x)?, float("y", y)?)
    };
    // Units in a cell: 1 for plain types, those of a block for quantized ones.
    let per_cell = match unit {
        Unit::Floats(..) => 1,
        Unit::Raw(bytes) => x.element.block_bytes() as u64 / bytes,
    };
    let last = x.rank().saturating_sub(1);
    let cells = |axis: usize| {
        if axis == last {
            x.dim(axis) / x.element.block_len() as u32
        } else {
            x.dim(axis)
        }
    };
    let outer = (0..x.rank()).map(|axis| Axis {
        len: cells(axis),
        strides: [
            stride(x.strides()[axis]) * per_cell,
            stride(y.strides()[axis]) * per_cell,
        ],
    });
    let inner = Axis {
        len: per_cell as u32,
        strides: [1, 1],
    };
    let axes = collapse(outer.chain([inner]));
    let units = count(&axes);
    if units > u64::from(u32::MAX) {
        return Err(Refusal::Limit {
            what: "number of elements to copy",
            asked: units,
            max: u32::MAX.into(),
        });
    }
    if axes.len() > AXES {
        return Err(Refusal::Layout {
            arg: "x",
            why: "has more axes of its own stride than 6",
        });
    }
    Ok(Plan { axes, unit })
}

/// Rows and columns, where the copy is a matrix whose columns are contiguous on both sides.
fn matrix(plan: &Plan) -> Option<(Axis<2>, u32)> {
    let one = Axis {
        len: 1,
        strides: [0, 0],
    };
    match plan.axes.as_slice() {
        [] => Some((one, 1)),
        [cols] if cols.strides == [1, 1] => Some((one, cols.len)),
        [rows, cols] if cols.strides == [1, 1] => Some((*rows, cols.len)),
        _ => None,
    }
}

/// Rows that change their float type.
pub(super) fn fits_rows(_: &DeviceEnv, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let Op::Copy(op) = op else {
        return Err(Refusal::Op);
    };
    let plan = plan(op)?;
    if !matches!(plan.unit, Unit::Floats(..)) {
        return Err(Refusal::Feature(
            "a copy without conversion by the converting kernel",
        ));
    }
    match matrix(&plan) {
        Some(_) => Ok(Quality::Tuned),
        None => Err(Refusal::Layout {
            arg: "x",
            why: "x and y must be rows of contiguous elements at one stride",
        }),
    }
}

pub(super) fn run_rows(sink: &mut dyn Sink, op: &Op<View>) -> Result<()> {
    let Op::Copy(op) = op else {
        return Err(wrong_op(OpKind::Copy));
    };
    let plan = plan(&question(op)).map_err(|refusal| unsupported(OpKind::Copy, refusal))?;
    match (plan.unit, matrix(&plan)) {
        (Unit::Floats(from, to), Some((rows, cols))) => {
            let args = Args::new()
                .ptr(op.x.address)
                .ptr(op.y.address)
                .u32(rows.len)
                .u32(cols)
                .u64(rows.strides[0])
                .u64(rows.strides[1]);
            // A thread takes 8 columns; rows * ceil(cols / 8) is at most the element count, which fits 32 bits.
            let threads = u64::from(rows.len) * u64::from(cols.div_ceil(8));
            sink.launch(&rows_kernel(from, to), linear(threads), args)
        }
        _ => run_strided(sink, &Op::Copy(op.clone())),
    }
}

/// Any strides, any plain type or format.
pub(super) fn fits_strided(_: &DeviceEnv, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let Op::Copy(op) = op else {
        return Err(Refusal::Op);
    };
    plan(op)?;
    Ok(Quality::Portable)
}

pub(super) fn run_strided(sink: &mut dyn Sink, op: &Op<View>) -> Result<()> {
    let Op::Copy(op) = op else {
        return Err(wrong_op(OpKind::Copy));
    };
    let plan = plan(&question(op)).map_err(|refusal| unsupported(OpKind::Copy, refusal))?;
    let units = count(&plan.axes);
    let straight = plan.axes.is_empty() || plan.axes.len() == 1 && plan.axes[0].strides == [1, 1];
    if let (true, Unit::Raw(bytes)) = (straight, plan.unit) {
        return sink.copy(op.y.address, op.x.address, units * bytes);
    }
    let mut axes = [Axis {
        len: 1,
        strides: [0, 0],
    }; AXES];
    axes[AXES - plan.axes.len()..].copy_from_slice(&plan.axes);
    let mut args = Args::new()
        .ptr(op.x.address)
        .ptr(op.y.address)
        .u32(units as u32);
    args = axes[1..].iter().fold(args, |args, axis| args.u32(axis.len));
    for side in [0, 1] {
        args = axes
            .iter()
            .fold(args, |args, axis| args.u64(axis.strides[side]));
    }
    sink.launch(&plan.unit.strided_kernel(), linear(units), args)
}

/// Queues y = x for floats of any strides; the caller knows that it fits.
pub(super) fn convert(sink: &mut dyn Sink, x: View, y: View) -> Result<()> {
    run_rows(sink, &Copy::new(&x, &y).into())
}

/// The refusal of [`convert`].
pub(super) fn fits_convert(x: &TensorDesc, y: &TensorDesc) -> Result<(), Refusal> {
    plan(&Copy::new(x, y)).map(|_| ())
}

#[cfg(test)]
pub(super) fn kernel_names(out: &mut std::collections::BTreeSet<String>) {
    let floats = [DType::F32, DType::F16, DType::BF16];
    for x in floats {
        for y in floats.into_iter().filter(|y| *y != x) {
            out.insert(rows_kernel(x, y));
            out.insert(Unit::Floats(x, y).strided_kernel());
        }
    }
    for bytes in [1, 2, 4, 8] {
        out.insert(Unit::Raw(bytes).strided_kernel());
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{env, recorder, view};
    use super::*;
    use crate::quant::QuantFormat;

    #[test]
    fn a_cast_of_rows_is_one_launch_of_the_cast_kernel() {
        let big = view(DType::BF16, &[5, 40], 512);
        let (part, skip) = big.desc.narrowed(1, 3, 36).unwrap();
        let (x, y) = (
            View {
                address: 512 + skip,
                desc: part,
            },
            view(DType::F32, &[5, 33], 4096),
        );
        fits_rows(&env(75), &Copy::new(&x.desc, &y.desc).into()).unwrap();
        let mut sink = recorder(75);
        run_rows(&mut sink, &Copy::new(&x, &y).into()).unwrap();
        assert_eq!(sink.launches[0].0, "gm_cast_bf16_f32");
        assert_eq!(sink.launches[0].2.values(), [518, 4096, 5, 33, 40, 33]);
        assert_eq!(sink.launches[0].1.grid, [1, 1, 1]);
    }

    #[test]
    fn a_contiguous_copy_of_one_type_is_a_memory_copy() {
        for element in [
            Element::Plain(DType::I64),
            QuantFormat::Q4_K.into(),
            QuantFormat::MXFP4.into(),
        ] {
            let (x, y) = (
                view(element, &[3, 256], 512),
                view(element, &[3, 256], 1 << 20),
            );
            fits_strided(&env(75), &Copy::new(&x.desc, &y.desc).into()).unwrap();
            assert!(fits_rows(&env(75), &Copy::new(&x.desc, &y.desc).into()).is_err());
            let mut sink = recorder(75);
            run_strided(&mut sink, &Copy::new(&x, &y).into()).unwrap();
            assert_eq!(sink.copies, [(1 << 20, 512, x.desc.span_bytes())]);
        }
    }

    #[test]
    fn transposes_and_broadcasts_keep_their_strides() {
        let x = view(DType::F32, &[4, 6], 512);
        let x = View {
            desc: x.desc.transposed(0, 1).unwrap(),
            ..x
        };
        let y = view(DType::F32, &[2, 6, 4], 4096);
        let mut sink = recorder(75);
        run_strided(&mut sink, &Copy::new(&x, &y).into()).unwrap();
        let (name, launch, args) = &sink.launches[0];
        assert_eq!((name.as_str(), launch.grid), ("gm_copy_raw32", [1, 1, 1]));
        assert_eq!(args.values()[..8], [512, 4096, 48, 1, 1, 2, 6, 4]);
        assert_eq!(args.values()[8..], [0, 0, 0, 0, 1, 6, 0, 0, 0, 24, 4, 1]);
    }

    #[test]
    fn other_conversions_are_refused_by_type() {
        let (x, y) = (
            view(DType::I32, &[4], 0).desc,
            view(DType::F32, &[4], 0).desc,
        );
        let why = fits_strided(&env(75), &Copy::new(&x, &y).into()).unwrap_err();
        assert_eq!(
            why,
            Refusal::Element {
                arg: "x",
                element: DType::I32.into()
            }
        );
    }
}
