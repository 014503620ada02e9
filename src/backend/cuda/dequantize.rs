//! Dequantize: kernels/dequant.cu.

use super::args::Args;
use super::geometry::{Axis, collapse, count, for_each, linear};
use super::rows::{
    DeviceEnv, Format, Scratch, Sink, View, float, format, question, row_contiguous, stride,
};
use crate::{
    device::Quality,
    element::DType,
    error::{Error, Refusal, Result},
    layout::TensorDesc,
    op::{Dequantize, Op, OpKind},
};

/// Launches that one op may take.
const MAX_LAUNCHES: u64 = 4096;
/// Rows of a launch are cut so that the thread count stays below this.
const MAX_THREADS: u64 = 1 << 31;

/// Weights a thread decodes.
const PER_THREAD: u64 = 16;

/// Axes before the rows' own, as (bytes of w, elements of y).
fn rows_of(w: &TensorDesc, y: &TensorDesc) -> Vec<Axis<2>> {
    let lead = w.rank().saturating_sub(1);
    collapse((0..lead).map(|a| Axis {
        len: w.dim(a),
        strides: [stride(w.stride_bytes(a)), stride(y.strides()[a])],
    }))
}

/// The one row of this op.
pub(super) fn fits(_: &DeviceEnv, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let Op::Dequantize(Dequantize { w, y }) = op else {
        return Err(Refusal::Op);
    };
    format("w", w)?;
    float("y", y)?;
    row_contiguous("y", y)?;
    let axes = rows_of(w, y);
    let launches = count(&axes[..axes.len().saturating_sub(1)]);
    if launches > MAX_LAUNCHES {
        return Err(Refusal::Limit {
            what: "number of separately strided matrices",
            asked: launches,
            max: MAX_LAUNCHES,
        });
    }
    Ok(Quality::Tuned)
}

pub(super) fn run(sink: &mut dyn Sink, op: &Op<View>) -> Result<()> {
    let Op::Dequantize(op) = op else {
        return Err(wrong_op(OpKind::Dequantize));
    };
    let asked = question(op);
    let refuse = |refusal| unsupported(OpKind::Dequantize, refusal);
    let format = format("w", &asked.w).map_err(refuse)?;
    let to = float("y", &asked.y).map_err(refuse)?;
    let w = aligned(sink, format, op.w)?;
    let mut axes = rows_of(&asked.w, &asked.y);
    let inner = axes.pop().unwrap_or(Axis {
        len: 1,
        strides: [0, 0],
    });
    for_each(&axes, &mut |[dw, dy]| {
        rows(
            sink,
            format,
            to,
            Rows {
                w: w + dw,
                y: op.y.address + dy * to.size() as u64,
                rows: inner.len,
                k: asked.w.dim_back(0),
                w_stride: inner.strides[0],
                y_stride: inner.strides[1],
            },
        )
    })
}

/// Rows to decode: addresses, sizes, strides (bytes of w, elements of y).
pub(super) struct Rows {
    pub(super) w: u64,
    pub(super) y: u64,
    pub(super) rows: u32,
    pub(super) k: u32,
    pub(super) w_stride: u64,
    pub(super) y_stride: u64,
}

/// Queues the decoding of rows; `w` is aligned for the format.
pub(super) fn rows(sink: &mut dyn Sink, format: Format, to: DType, r: Rows) -> Result<()> {
    let per_row = u64::from(r.k) / PER_THREAD;
    let chunk = (MAX_THREADS / per_row.max(1)).clamp(1, u64::from(u32::MAX)) as u32;
    let mut done = 0;
    while done < r.rows {
        let rows = chunk.min(r.rows - done);
        let args = Args::new()
            .ptr(r.w + u64::from(done) * r.w_stride)
            .ptr(r.y + u64::from(done) * r.y_stride * to.size() as u64)
            .u32(rows)
            .u32(r.k)
            .u64(r.w_stride)
            .u64(r.y_stride);
        sink.launch(&kernel(format, to), linear(u64::from(rows) * per_row), args)?;
        done += rows;
    }
    Ok(())
}

/// Address of the blocks of `w` at the alignment that the format's loads need. Weights inside a model file are; a view
/// that is not is moved first.
pub(super) fn aligned(sink: &mut dyn Sink, format: Format, w: View) -> Result<u64> {
    if w.address.is_multiple_of(format.align) {
        return Ok(w.address);
    }
    let bytes = w.desc.span_bytes();
    let to = sink.scratch(Scratch::Moved, bytes)?;
    sink.copy(to, w.address, bytes)?;
    Ok(to)
}

fn kernel(format: Format, to: DType) -> String {
    format!("gm_dequant_{}_{}", format.name, to.name())
}

/// The error of a row that was handed another op than its own.
pub(super) fn wrong_op(expected: OpKind) -> Error {
    Error::invalid(expected, "op", "was handed to the kernel of another op")
}

/// A refusal as an error of this backend.
pub(super) fn unsupported(op: OpKind, refusal: Refusal) -> Error {
    Error::Unsupported {
        backend: super::NAME.into(),
        op: Some(op),
        refusal,
    }
}

#[cfg(test)]
pub(super) fn kernel_names(out: &mut std::collections::BTreeSet<String>) {
    for format in super::rows::FORMATS {
        for to in [DType::F32, DType::F16, DType::BF16] {
            out.insert(kernel(*format, to));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::{env, recorder, view};
    use super::*;
    use crate::quant::QuantFormat;

    #[test]
    fn every_format_and_type_is_taken_and_launches_its_kernel() {
        for format in super::super::rows::FORMATS {
            for to in [DType::F32, DType::F16, DType::BF16] {
                let (w, y) = (
                    view(format.quant, &[3, 5, 512], 1 << 20),
                    view(to, &[3, 5, 512], 1 << 30),
                );
                fits(&env(75), &Dequantize::new(&w.desc, &y.desc).into()).unwrap();
                let mut sink = recorder(75);
                run(&mut sink, &Dequantize::new(&w, &y).into()).unwrap();
                let (name, launch, args) = &sink.launches[0];
                assert_eq!(sink.launches.len(), 1, "contiguous rows are one launch");
                assert_eq!(*name, kernel(*format, to));
                assert_eq!(launch.grid, [(15 * 512u32 / 16).div_ceil(256), 1, 1]);
                let row = 512 / format.quant.block_len() * format.quant.block_bytes();
                assert_eq!(args.values(), [1 << 20, 1 << 30, 15, 512, row as u64, 512]);
            }
        }
    }

    #[test]
    fn unaligned_blocks_are_moved_first() {
        let (w, y) = (
            view(QuantFormat::Q4_K, &[2, 256], (1 << 20) + 2),
            view(DType::F32, &[2, 256], 1 << 30),
        );
        let mut sink = recorder(80);
        run(&mut sink, &Dequantize::new(&w, &y).into()).unwrap();
        assert_eq!(sink.copies.len(), 1);
        assert_eq!(sink.copies[0].1, (1 << 20) + 2);
        assert_eq!(sink.copies[0].2, 288);
        assert_eq!(sink.launches[0].2.values()[0], sink.copies[0].0);
    }

    #[test]
    fn refusals_name_the_operand() {
        let y = view(DType::F32, &[4, 256], 0).desc;
        let w = TensorDesc::new(QuantFormat::Q2_K, &[4, 256]).unwrap();
        let element = fits(&env(90), &Dequantize::new(&w, &y).into()).unwrap_err();
        assert_eq!(
            element,
            Refusal::Element {
                arg: "w",
                element: QuantFormat::Q2_K.into()
            }
        );
        let w = TensorDesc::new(QuantFormat::Q4_K, &[4, 256]).unwrap();
        let y = view(DType::F32, &[256, 4], 0)
            .desc
            .transposed(0, 1)
            .unwrap();
        let layout = fits(&env(90), &Dequantize::new(&w, &y).into()).unwrap_err();
        assert!(matches!(layout, Refusal::Layout { arg: "y", .. }));
    }

    #[test]
    fn strided_matrices_take_a_launch_each() {
        let big = view(DType::F32, &[2, 8, 64], 0);
        let (part, skip) = big.desc.narrowed(1, 2, 5).unwrap();
        let y = View {
            address: 4096 + skip,
            desc: part,
        };
        let w = view(QuantFormat::Q8_0, &[2, 3, 64], 8192);
        let mut sink = recorder(75);
        run(&mut sink, &Dequantize::new(&w, &y).into()).unwrap();
        let at: Vec<_> = sink
            .launches
            .iter()
            .map(|(_, _, a)| (a.values()[0], a.values()[1], a.values()[2]))
            .collect();
        assert_eq!(
            at,
            [
                (8192, 4096 + skip, 3),
                (8192 + 3 * 68, 4096 + skip + 8 * 64 * 4, 3)
            ]
        );
    }
}
