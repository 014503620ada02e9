//! [`KvWrite`].

use super::{Array, Nd, Output, numbers::round_to};
use crate::{
    element::{DType, Element},
    op::{Arg, Kv, KvWrite},
};

pub(super) fn kv_write(a: &KvWrite<Array>) -> Vec<Output> {
    let slots = Nd::of(&a.slots).ints();
    let paged = matches!(a.kv, Kv::Paged { .. });
    vec![
        write(&a.k, a.kv.k(), &slots, paged, "k_cache"),
        write(&a.v, a.kv.v(), &slots, paged, "v_cache"),
    ]
}

/// What the cache holds afterwards. Written q8_0 numbers may be off by one code where a quotient
/// is a near tie; `slack` holds that step.
fn write(new: &Array, cache: &Array, slots: &[i64], paged: bool, name: &'static str) -> Output {
    let x = Nd::of(new);
    let mut old = Nd::of(cache);
    let mut slack = vec![0.0; old.v.len()];
    let (batch, heads, rows, d) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3]);
    let (blocks, page) = (old.shape[0], old.shape[2]);
    for b in 0..batch {
        for s in 0..rows {
            let Ok(slot) = usize::try_from(slots[b * rows + s]) else {
                continue;
            };
            let (outer, row) = if paged {
                (slot / page.max(1), slot % page.max(1))
            } else {
                (b, slot)
            };
            if outer >= blocks || row >= page {
                continue;
            }
            for h in 0..heads {
                let from = ((b * heads + h) * rows + s) * d;
                let to = ((outer * heads + h) * page + row) * d;
                store(
                    cache.desc.element,
                    &x.v[from..from + d],
                    &mut old.v[to..to + d],
                    &mut slack[to..to + d],
                );
            }
        }
    }
    if cache.desc.plain().is_some() {
        slack.clear();
    }
    Output {
        slack,
        ..Output::exact(Arg::inout(name), cache.desc.shape(), old.v)
    }
}

fn store(element: Element, x: &[f64], out: &mut [f64], slack: &mut [f64]) {
    if let Element::Plain(dtype) = element {
        for (o, &v) in out.iter_mut().zip(x) {
            *o = round_to(dtype, v);
        }
        return;
    }
    // q8_0: 32 codes with the f16 scale amax / 127, codes from the scale before its rounding.
    for ((x, out), slack) in x
        .chunks(32)
        .zip(out.chunks_mut(32))
        .zip(slack.chunks_mut(32))
    {
        let amax = x.iter().fold(0f64, |m, v| m.max(v.abs()));
        let step = amax / 127.0;
        let stored = round_to(DType::F16, step);
        for ((&v, o), e) in x.iter().zip(out).zip(slack) {
            let quotient = if step == 0.0 { 0.0 } else { v / step };
            *o = quotient.round() * stored;
            // Only a quotient next to a tie may go either way.
            let near = (quotient.abs().fract() - 0.5).abs() < 1e-3;
            *e = if near { 1.01 * stored } else { 0.0 };
        }
    }
}
