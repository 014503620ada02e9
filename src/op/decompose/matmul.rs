//! MatMul in parts: epilogue steps, dequantized weights, single products.

use super::{Plan, Slot};
use crate::{
    element::{DType, Element},
    op::{Act, BinOp, Binary, Copy, Dequantize, Epilogue, MatMul, MatMulMany, Unary, Weight},
};

pub(super) fn many(op: &MatMulMany<Slot>, plan: &mut Plan) -> Option<()> {
    op.split().for_each(|m| plan.push(m));
    Some(())
}

/// First the epilogue leaves the product, then quantized or half weights become f32.
pub(super) fn mat_mul(op: &MatMul<Slot>, plan: &mut Plan) -> Option<()> {
    if !op.epilogue.is_identity() {
        let acc = plan.temp(DType::F32, op.y.desc.shape())?;
        plan.push(MatMul {
            y: acc,
            epilogue: Epilogue::default(),
            ..op.clone()
        });
        return epilogue(&op.epilogue, acc, op.y, plan);
    }
    match &op.w {
        Weight::Rows(w) => {
            let w32 = match w.desc.element {
                Element::Quant(_) => {
                    let t = plan.temp(DType::F32, w.desc.shape())?;
                    plan.push(Dequantize::new(w, &t));
                    t
                }
                Element::Plain(DType::F32) => return widen_x(op, plan),
                Element::Plain(d) if d.is_float() => {
                    let t = plan.temp(DType::F32, w.desc.shape())?;
                    plan.push(Copy::new(w, &t));
                    t
                }
                Element::Plain(_) => return None,
            };
            plan.push(MatMul {
                w: Weight::Rows(w32),
                ..op.clone()
            });
            Some(())
        }
        Weight::Transposed(w) => {
            let rank = w.desc.rank();
            let rows = w.desc.transposed(rank - 2, rank - 1).ok()?;
            let t = plan.temp(w.desc.element, rows.shape())?;
            plan.push(Copy::new(&w.with_desc(rows), &t));
            plan.push(MatMul {
                w: Weight::Rows(t),
                ..op.clone()
            });
            Some(())
        }
        Weight::Packed { .. } => None,
    }
}

/// f32 weights: x and y become contiguous f32.
fn widen_x(op: &MatMul<Slot>, plan: &mut Plan) -> Option<()> {
    let plain = |s: &Slot| s.desc.plain() == Some(DType::F32) && s.desc.is_contiguous();
    if plain(&op.x) && plain(&op.y) {
        return None;
    }
    let x = if plain(&op.x) {
        op.x
    } else {
        let t = plan.temp(DType::F32, op.x.desc.shape())?;
        plan.push(Copy::new(&op.x, &t));
        t
    };
    let y = if plain(&op.y) {
        op.y
    } else {
        plan.temp(DType::F32, op.y.desc.shape())?
    };
    plan.push(MatMul { x, y, ..op.clone() });
    if y != op.y {
        plan.push(Copy::new(&y, &op.y));
    }
    Some(())
}

/// The steps of an epilogue on an f32 accumulator, the last one into y.
pub(super) fn epilogue(e: &Epilogue<Slot>, acc: Slot, y: Slot, plan: &mut Plan) -> Option<()> {
    let act = e.act.unwrap_or(Act::Identity);
    match &e.bias {
        Some(bias) => {
            if let Some(scale) = e.scale {
                plan.push(Unary::affine(scale, 0.0, &acc, &acc));
            }
            plan.push(Binary::add(&acc, bias, &acc));
            if act != Act::Identity {
                plan.push(Unary::new(act, &acc, &acc));
            }
        }
        None if e.scale.is_some() || act != Act::Identity => plan.push(Unary {
            scale: e.scale.unwrap_or(1.0),
            ..Unary::new(act, &acc, &acc)
        }),
        None => {}
    }
    if let Some(gate) = &e.gate {
        plan.push(Binary::mul(&acc, gate, &acc));
    }
    if let Some(residual) = &e.residual {
        plan.push(Binary::add(&acc, residual, &acc));
    }
    if e.accumulate {
        plan.push(Binary::new(BinOp::Add, &y, &acc, &y));
    } else {
        plan.push(Copy::new(&acc, &y));
    }
    Some(())
}
