//! The small ops in parts.

use super::{Plan, Slot, matmul};
use crate::{
    element::{DType, Element},
    op::{
        Act, BinOp, Binary, Conv2d, Copy, Dequantize, Epilogue, GatherRows, Glu, MatMul, Norm,
        NormKind, RedOp, Reduce, Unary, Weight,
    },
};

/// act(gate), then times up.
pub(super) fn glu(op: &Glu<Slot>, plan: &mut Plan) -> Option<()> {
    let t = plan.temp(DType::F32, op.y.desc.shape())?;
    plan.push(Unary::new(op.act, &op.gate, &t));
    plan.push(Binary::mul(&t, &op.up, &op.y));
    Some(())
}

/// Means along the normalized axes, then elementwise steps, in f32.
pub(super) fn norm(op: &Norm<Slot>, plan: &mut Plan) -> Option<()> {
    if op.kind == NormKind::L2 {
        return None;
    }
    let shape = op.x.desc.shape().to_vec();
    let h = plan.temp(DType::F32, &shape)?;
    match &op.residual {
        Some(residual) => plan.push(Binary::add(&op.x, residual, &h)),
        None => plan.push(Copy::new(&op.x, &h)),
    }
    if let Some(sum) = &op.sum {
        plan.push(Copy::new(&h, sum));
    }
    // Statistics run over the last axis of `[rows, width]`.
    let (rows, width) = match op.kind {
        NormKind::Group { groups } => {
            let rows = shape[0].checked_mul(groups)?;
            let all: u64 = shape.iter().map(|&d| u64::from(d)).product();
            (rows, u32::try_from(all.checked_div(u64::from(rows))?).ok()?)
        }
        _ => {
            let (width, outer) = shape.split_last()?;
            let rows: u64 = outer.iter().map(|&d| u64::from(d)).product();
            (u32::try_from(rows).ok()?, *width)
        }
    };
    let flat = h.with_desc(h.desc.reshaped(&[rows, width]).ok()?);
    let mean = plan.temp(DType::F32, &[rows, 1])?;
    if op.kind != NormKind::Rms {
        plan.push(Reduce::new(RedOp::Mean, &flat, 1, &mean));
        plan.push(Binary::new(BinOp::Sub, &flat, &mean, &flat));
    }
    let squares = plan.temp(DType::F32, &[rows, width])?;
    plan.push(Unary::new(Act::Square, &flat, &squares));
    plan.push(Reduce::new(RedOp::Mean, &squares, 1, &mean));
    plan.push(Unary {
        offset: op.eps,
        ..Unary::new(Act::Rsqrt, &mean, &mean)
    });
    plan.push(Binary::mul(&flat, &mean, &flat));
    let along = |t: &Slot| -> Option<Slot> {
        if let NormKind::Group { .. } = op.kind {
            let mut channels = vec![1; shape.len() - 1];
            channels[0] = shape[1];
            return Some(t.with_desc(t.desc.reshaped(&channels).ok()?));
        }
        Some(*t)
    };
    if let Some(weight) = &op.weight {
        let weight = along(weight)?;
        if op.weight_offset == 0.0 {
            plan.push(Binary::mul(&h, &weight, &h));
        } else {
            let shifted = plan.temp(DType::F32, weight.desc.shape())?;
            plan.push(Unary::affine(1.0, op.weight_offset, &weight, &shifted));
            plan.push(Binary::mul(&h, &shifted, &h));
        }
    }
    match &op.bias {
        Some(bias) => plan.push(Binary::add(&h, &along(bias)?, &op.y)),
        None => plan.push(Copy::new(&h, &op.y)),
    }
    Some(())
}

/// A quantized table becomes f32; other results than f32 are converted last.
pub(super) fn gather_rows(op: &GatherRows<Slot>, plan: &mut Plan) -> Option<()> {
    let Weight::Rows(table) = &op.table else {
        return None;
    };
    let y32 = op.y.desc.plain() == Some(DType::F32) && op.y.desc.is_contiguous();
    let table32 = match table.desc.element {
        Element::Quant(_) => {
            let t = plan.temp(DType::F32, table.desc.shape())?;
            plan.push(Dequantize::new(table, &t));
            t
        }
        Element::Plain(DType::F32) if y32 => return None,
        Element::Plain(DType::F32) => *table,
        Element::Plain(_) => {
            let t = plan.temp(DType::F32, table.desc.shape())?;
            plan.push(Copy::new(table, &t));
            t
        }
    };
    let y = if y32 {
        op.y
    } else {
        plan.temp(DType::F32, op.y.desc.shape())?
    };
    plan.push(GatherRows::new(Weight::Rows(table32), &op.ids, &y));
    if !y32 {
        plan.push(Copy::new(&y, &op.y));
    }
    Some(())
}

/// The epilogue leaves the convolution; a 1 x 1 filter is a matrix product.
pub(super) fn conv2d(op: &Conv2d<Slot>, plan: &mut Plan) -> Option<()> {
    if !op.epilogue.is_identity() {
        let acc = plan.temp(DType::F32, op.y.desc.shape())?;
        plan.push(Conv2d {
            y: acc,
            epilogue: Epilogue::default(),
            ..op.clone()
        });
        let channels = op.y.desc.dim(1);
        let mut e = op.epilogue.clone();
        if let Some(bias) = &mut e.bias {
            *bias = bias.with_desc(bias.desc.reshaped(&[channels, 1, 1]).ok()?);
        }
        return matmul::epilogue(&e, acc, op.y, plan);
    }
    let pointwise = op.w.desc.shape()[2..] == [1, 1]
        && op.stride == [1, 1]
        && op.pad == [0, 0]
        && op.groups == 1;
    if !pointwise {
        return None;
    }
    let flat = |t: &Slot| -> Option<Slot> {
        let s = t.desc.shape();
        let pixels = s[2].checked_mul(s[3])?;
        Some(t.with_desc(t.desc.reshaped(&[s[0], s[1], pixels]).ok()?))
    };
    let filters =
        op.w.desc
            .reshaped(&[op.w.desc.dim(0), op.w.desc.dim(1)])
            .ok()?;
    plan.push(
        MatMul::new(
            &op.w.with_desc(filters),
            Weight::Transposed(flat(&op.x)?),
            &flat(&op.y)?,
        )
        .precision(op.precision),
    );
    Some(())
}
