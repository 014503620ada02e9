//! GatherRows and Dequantize: rows of floats, or of quantized blocks decoded eight at a time.

use super::{
    super::{
        caps::Caps,
        launch::{Launch, pairs},
        stream::State,
        walk::Walk,
    },
    counted, groups, is_half, mismatch, op_args, plain_fits,
    weights::{decoder, decodes},
};
use crate::{
    device::Quality,
    element::{DType, Element},
    error::{Refusal, Result},
    layout::TensorDesc,
    op::{Op, Weight},
    tensor::Tensor,
};

fn is_float(d: &TensorDesc) -> bool {
    matches!(
        d.element,
        Element::Plain(DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 | DType::F8E5M2)
    )
}

pub(crate) fn dequantize_fits(caps: &Caps, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    if let Op::Dequantize(a) = op {
        decodes("w", a.w.element)?;
    }
    plain_fits(caps, op)
}

pub(crate) fn dequantize(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, Dequantize);
    let (w, y) = (a.w.desc(), a.y.desc());
    let format = decoder(w.element).ok_or_else(mismatch)?;
    let pair = is_half(&y) && pairs(&a.y);
    let last = w.rank() - 1;
    let w_rows: Vec<i64> = (0..last).map(|i| w.stride_bytes(i)).collect();
    let units = y.elements() / 8;
    let l = Launch::new("dequantize.wgsl")
        .def_text("FORMAT", format)
        .def("PAIR", pair)
        .input("w", &a.w)
        .output_as("y", &a.y, pair)
        .walk(
            "row_at",
            &Walk::new(
                &w.shape()[..last],
                &[("w", &w_rows), ("y", &y.strides()[..last])],
            ),
        )
        .u32("units", w.dim_back(0) / 8)
        .u32("y_step", y.stride_back(0) as u32)
        .u32("n", units as u32);
    state.dispatch(l, groups(units))
}

pub(crate) fn gather_fits(caps: &Caps, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let Op::GatherRows(a) = op else {
        return Err(Refusal::Op);
    };
    let Weight::Rows(table) = &a.table else {
        return Err(Refusal::Feature("a packed table"));
    };
    decodes("table", table.element)?;
    if table.plain().is_some() && !is_float(table) {
        return Err(Refusal::Element {
            arg: "table",
            element: table.element,
        });
    }
    caps.binds("ids", &a.ids)?;
    caps.binds("y", &a.y)?;
    counted(a.y.elements())?;
    // Tables beyond one binding are read in parts, but one row must fit.
    let row = table.stride_bytes(0) as u64;
    let max = caps.max_span();
    if table.span_bytes() > max && row > max {
        return Err(Refusal::Limit {
            what: "bytes of a row of the table",
            asked: row,
            max,
        });
    }
    Ok(Quality::Portable)
}

pub(crate) fn gather(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, GatherRows);
    let table = a.table.tensor();
    let (w, ids, y) = (table.desc(), a.ids.desc(), a.y.desc());
    let (rows, width) = (w.dim(0), w.dim(1));
    let pair = is_half(&y) && pairs(&a.y);
    // Elements per invocation.
    let unit = match w.element {
        Element::Quant(_) => 8,
        _ if pair => 2,
        _ => 1,
    };
    let units = width / unit;
    let count = ids.elements() * u64::from(units);
    let last = y.rank() - 1;
    let walk = Walk::new(
        ids.shape(),
        &[("ids", ids.strides()), ("y", &y.strides()[..last])],
    );
    let row_bytes = w.stride_bytes(0) as u64;
    let parts = if w.span_bytes() <= state.caps().max_span() {
        std::iter::once(0..rows).collect()
    } else {
        state.caps().row_parts(rows, row_bytes)
    };
    for (i, part) in parts.iter().enumerate() {
        let start = u64::from(part.start) * row_bytes;
        let end = (u64::from(part.end) * row_bytes).min(w.span_bytes());
        let l = match w.element {
            Element::Quant(_) => Launch::new("gather_blocks.wgsl")
                .def_text("FORMAT", decoder(w.element).ok_or_else(mismatch)?),
            Element::Plain(_) => Launch::new("gather.wgsl"),
        };
        let (row_step, step) = match w.element {
            Element::Quant(_) => (row_bytes, 0),
            Element::Plain(d) => (row_bytes / d.size() as u64, w.strides()[1]),
        };
        let l = l
            .def("PAIR", pair)
            .input_part("w", table, start..end, false)
            .input("ids", &a.ids)
            .output_as("y", &a.y, pair)
            .walk("row_at", &walk)
            .u32("n", count as u32)
            .u32("units", units)
            .u32("rows", rows)
            .u32("first_row", part.start)
            .u32("end_row", part.end)
            // The first part also writes the rows of ids outside the table.
            .u32("outside", u32::from(i == 0))
            .u32("w_row", row_step as u32)
            .u32("w_step", step as u32)
            .u32("y_step", y.stride_back(0) as u32);
        state.dispatch(l, groups(count))?;
    }
    Ok(())
}
