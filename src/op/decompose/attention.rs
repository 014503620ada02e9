//! Attention in parts: scores, softcap, softmax, weighted values.

use super::{Plan, Slot};
use crate::{
    element::{DType, Element},
    op::{Act, Attention, Dequantize, Kv, MatMul, Scalar, Seqs, Softmax, Unary, Weight},
};

/// Most query rows that are taken one by one when each sees other keys.
const MAX_ROWS: u32 = 256;

/// Dense caches with a length that the host knows. There is no op that makes a causal mask, so
/// rows that see different keys are taken one at a time, each with its keys narrowed.
pub(super) fn attention(op: &Attention<Slot>, plan: &mut Plan) -> Option<()> {
    let Kv::Dense { k, v } = &op.kv else {
        return None;
    };
    let Seqs::Uniform {
        kv_len: Scalar::Host(kv_len),
    } = op.seqs
    else {
        return None;
    };
    let softcap_inverts = op.softcap.is_none_or(|cap| (1.0 / cap).is_finite());
    if op.alibi.is_some() || op.sinks.is_some() || kv_len == 0 || !softcap_inverts {
        return None;
    }
    let (k, v) = (plain(k, plan)?, plain(v, plan)?);
    let sq = op.q.desc.dim(2);
    if !op.causal && op.window.is_none() {
        return rows(op, k, v, 0..sq, 0..kv_len, plan);
    }
    if sq > MAX_ROWS || sq > kv_len {
        return None;
    }
    for i in 0..sq {
        let position = kv_len - sq + i;
        let end = if op.causal { position + 1 } else { kv_len };
        let start = op.window.map_or(0, |w| (position + 1).saturating_sub(w));
        rows(op, k, v, i..i + 1, start..end, plan)?;
    }
    Some(())
}

/// Quantized caches become f32.
fn plain(t: &Slot, plan: &mut Plan) -> Option<Slot> {
    match t.desc.element {
        Element::Plain(_) => Some(*t),
        Element::Quant(_) => {
            let dense = plan.temp(DType::F32, t.desc.shape())?;
            plan.push(Dequantize::new(t, &dense));
            Some(dense)
        }
    }
}

/// `[B, Hq, ..]` as `[B, Hkv, Hq / Hkv, ..]`.
fn grouped(t: Slot, hkv: u32) -> Option<Slot> {
    let s = t.desc.shape();
    let shape = [s[0], hkv, s[1].checked_div(hkv)?, s[2], s[3]];
    Some(t.with_desc(t.desc.reshaped(&shape).ok()?))
}

fn rows(
    op: &Attention<Slot>,
    k: Slot,
    v: Slot,
    queries: std::ops::Range<u32>,
    keys: std::ops::Range<u32>,
    plan: &mut Plan,
) -> Option<()> {
    let hkv = k.desc.dim(1);
    let q = grouped(op.q.narrowed(2, queries.start, queries.end)?, hkv)?;
    let out = grouped(op.out.narrowed(2, queries.start, queries.end)?, hkv)?;
    let shared = |t: Slot| -> Option<Slot> {
        let t = t.narrowed(2, keys.start, keys.end)?;
        let s = t.desc.shape();
        Some(t.with_desc(t.desc.reshaped(&[s[0], s[1], 1, s[2], s[3]]).ok()?))
    };
    let (k, v) = (shared(k)?, shared(v)?);
    let s = q.desc.shape();
    let scores = plan.temp(DType::F32, &[s[0], s[1], s[2], s[3], k.desc.dim(3)])?;
    plan.push(
        MatMul::new(&q, Weight::Rows(k), &scores)
            .scale(op.scale)
            .precision(op.precision),
    );
    if let Some(cap) = op.softcap {
        plan.push(Unary {
            scale: 1.0 / cap,
            ..Unary::new(Act::Tanh, &scores, &scores)
        });
        plan.push(Unary::affine(cap, 0.0, &scores, &scores));
    }
    let mut softmax = Softmax::new(&scores, &scores);
    if let Some(mask) = op.mask {
        let q = op.q.desc;
        let full = [q.dim(0), q.dim(1), q.dim(2), op.kv.k().desc.dim(2)];
        let mask = mask.with_desc(mask.desc.broadcast_to(&full).ok()?);
        let mask = mask
            .narrowed(2, queries.start, queries.end)?
            .narrowed(3, keys.start, keys.end)?;
        softmax = softmax.mask(&grouped(mask, hkv)?);
    }
    plan.push(softmax);
    plan.push(MatMul::new(&scores, Weight::Transposed(v), &out));
    Some(())
}
