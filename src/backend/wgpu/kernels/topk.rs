//! TopK: each workgroup sorts out the best of one chunk; rounds until one chunk is left.

use super::{
    super::{caps::Caps, launch::Launch, stream::State, walk::Walk},
    op_args, plain_fits,
};
use crate::{
    device::Quality,
    element::DType,
    error::{Refusal, Result},
    layout::TensorDesc,
    op::Op,
    tensor::Tensor,
};

/// Candidates of one workgroup, held in its memory.
const CHUNK: u32 = 2048;

/// Each round must leave fewer candidates than it found.
const MOST: u32 = CHUNK / 2;

/// Bytes of candidates between two rounds.
fn between(rows: u64, n: u32, k: u32) -> u64 {
    rows * u64::from(n.div_ceil(CHUNK)) * u64::from(k) * 4
}

pub(crate) fn fits(caps: &Caps, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    let Op::TopK(a) = op else {
        return Err(Refusal::Op);
    };
    let (k, n) = (a.k(), a.x.dim_back(0));
    if k > MOST {
        return Err(Refusal::Limit {
            what: "k",
            asked: u64::from(k),
            max: u64::from(MOST),
        });
    }
    if n > CHUNK {
        let asked = between(a.x.elements() / u64::from(n), n, k);
        let max = caps.max_binding;
        if asked > max {
            return Err(Refusal::Limit {
                what: "bytes of candidates",
                asked,
                max,
            });
        }
    }
    let quality = plain_fits(caps, op)?;
    // One scan of the chunk per result.
    Ok(if k > 64 { Quality::Slow } else { quality })
}

pub(crate) fn run(state: &mut State, op: &Op<Tensor>) -> Result<()> {
    let a = op_args!(op, TopK);
    let (x, values, ids) = (a.x.desc(), a.values.desc(), a.ids.desc());
    let (k, width) = (ids.dim_back(0), x.dim_back(0));
    let rows = x.elements() / u64::from(width.max(1));
    let mut count = width;
    let mut from: Option<(usize, super::super::launch::Scratch)> = None;
    loop {
        let chunks = count.div_ceil(CHUNK);
        let last = chunks == 1;
        // The last chunk may hold fewer than k; what it lacks is marked.
        let mut l = Launch::new("top_k.wgsl")
            .def("WG", 256)
            .def("CHUNK", CHUNK)
            .def("FIRST", from.is_none())
            .def("LAST", last)
            .input("x", &a.x)
            .u32("k", k)
            .u32("count", count)
            .u32("chunks", chunks)
            .u32("x_step", x.stride_back(0) as u32);
        if let Some((_, found)) = &from {
            l = l.scratch_in("found", found, DType::U32);
        }
        let mut to = None;
        if last {
            l = l
                .output("values", &a.values)
                .output("ids", &a.ids)
                .walk(
                    "row_at",
                    &Walk::rows(x.shape(), &[("x", &x), ("values", &values), ("ids", &ids)]),
                )
                .u32("values_step", values.stride_back(0) as u32)
                .u32("ids_step", ids.stride_back(0) as u32);
        } else {
            let slot = from.as_ref().map_or(0, |(slot, _)| 1 - slot);
            let next = state.scratch(slot, between(rows, count, k))?;
            l = l
                .scratch("next", &next, DType::U32)
                .walk("row_at", &Walk::rows(x.shape(), &[("x", &x)]));
            to = Some((slot, next));
        }
        state.dispatch(l, rows * u64::from(chunks))?;
        match to {
            None => return Ok(()),
            to => {
                count = chunks * k;
                from = to;
            }
        }
    }
}
