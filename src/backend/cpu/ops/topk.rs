//! TopK: numbers become integers of the same order, with the index below them; a scan keeps the
//! largest k and passes over stretches that hold none of them.

use crate::{
    backend::cpu::{
        isa::{Isa, multiversion},
        rows::Ctx,
        view::{Dst, Src},
    },
    error::Result,
    op::Op,
    tensor::Tensor,
};
use std::sync::Mutex;

/// Numbers that are compared with the threshold at once.
const STRETCH: usize = 256;
/// Shortest part of a row that is scanned on its own.
const PART: usize = 16 * 1024;

/// Order of the numbers as unsigned integers: NaN above all, -0 as 0.
#[inline(always)]
fn order(v: f32) -> u32 {
    if v.is_nan() {
        return u32::MAX;
    }
    // Adding 0 turns -0 into 0.
    let bits = (v + 0.0).to_bits();
    bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000)
}

#[inline(always)]
fn orders_body<const FMA: bool>(x: &[f32], keys: &mut [u32]) -> u32 {
    let mut top = 0;
    for (k, &v) in keys.iter_mut().zip(x) {
        *k = order(v);
        top = top.max(*k);
    }
    top
}
multiversion! {
    /// Orders of a stretch; returns the largest.
    fn orders = orders_body(x: &[f32], keys: &mut [u32]) -> u32
}

/// Number and index as one integer: of equal numbers the lower index is the larger.
#[inline]
fn pack(key: u32, index: usize) -> u64 {
    u64::from(key) << 32 | u64::from(!(index as u32))
}

/// The largest `k` of `x`, whose first index is `base`, in any order.
fn largest(isa: Isa, x: &[f32], base: usize, k: usize) -> Vec<u64> {
    // Twice k, halved whenever it is full: each number costs O(1).
    let mut kept: Vec<u64> = Vec::with_capacity(2 * k + STRETCH);
    let mut least = 0u64;
    let mut keys = [0; STRETCH];
    for (s, stretch) in x.chunks(STRETCH).enumerate() {
        let top = orders(isa, stretch, &mut keys);
        if pack(top, 0) < least {
            continue;
        }
        for (i, &key) in keys[..stretch.len()].iter().enumerate() {
            let packed = pack(key, base + s * STRETCH + i);
            if packed >= least {
                kept.push(packed);
            }
        }
        if kept.len() >= 2 * k {
            shrink(&mut kept, k);
            least = kept[k - 1];
        }
    }
    shrink(&mut kept, k);
    kept
}

/// Leaves the largest `k`, the least of them last.
fn shrink(kept: &mut Vec<u64>, k: usize) {
    if kept.len() > k {
        kept.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
        kept.truncate(k);
    }
}

pub(super) unsafe fn top_k(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::TopK(op) = op else { return Ok(()) };
    let isa = ctx.env.isa;
    let (x, values, ids) = (Src::of(&op.x)?, Dst::of(&op.values)?, Dst::of(&op.ids)?);
    let (xr, vr, ir) = (x.rows(), values.rows(), ids.rows());
    let (len, k) = (x.len(), ids.len());
    let parts = (len / PART.max(4 * k)).max(1);
    let part = len.div_ceil(parts);
    let found: Vec<Mutex<Vec<u64>>> = (0..xr.count() * parts).map(|_| Mutex::default()).collect();
    let work = op.x.desc().elements() / 4;
    ctx.pool.parallel(found.len(), work, |range| {
        let mut buf = vec![0.0f32; part];
        for i in range {
            let start = (i % parts * part).min(len);
            let n = part.min(len - start);
            // SAFETY: inside the row; nobody writes it.
            let row = unsafe { x.load_or_borrow(xr.offset(i / parts), start, &mut buf[..n]) };
            let best = largest(isa, row, start, k);
            if let Ok(mut slot) = found[i].lock() {
                *slot = best;
            }
        }
    });
    for (row, parts) in found.chunks(parts).enumerate() {
        let mut best: Vec<u64> = Vec::new();
        for part in parts {
            if let Ok(mut part) = part.lock() {
                best.append(&mut part);
            }
        }
        shrink(&mut best, k);
        best.sort_unstable_by(|a, b| b.cmp(a));
        let (from, vo, io) = (xr.offset(row), vr.offset(row), ir.offset(row));
        for (j, packed) in best.into_iter().enumerate() {
            let index = !(packed as u32) as usize;
            let mut v = [0.0];
            // SAFETY: `index` is inside the row, `j` is below k; this thread is alone.
            unsafe {
                x.load(from, index, &mut v);
                values.store(vo, j, &v);
                let cell = ids.ptr().add(io + j * ids.step()).cast::<i32>();
                cell.write(index as i32);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_ties() {
        let x = [
            1.0,
            f32::NAN,
            -0.0,
            0.0,
            f32::INFINITY,
            1.0,
            f32::NEG_INFINITY,
        ];
        for k in 1..=x.len() {
            let mut best = largest(Isa::detect(), &x, 0, k);
            best.sort_unstable_by(|a, b| b.cmp(a));
            let ids: Vec<usize> = best.iter().map(|p| !(*p as u32) as usize).collect();
            assert_eq!(ids, [1, 4, 0, 5, 2, 3, 6][..k]);
        }
    }

    #[test]
    fn long_rows() {
        let x: Vec<f32> = (0..10_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32)
            .collect();
        let mut want: Vec<usize> = (0..x.len()).collect();
        want.sort_by(|&a, &b| x[b].total_cmp(&x[a]).then(a.cmp(&b)));
        for k in [1, 5, 100, 9_999] {
            let mut best = largest(Isa::detect(), &x, 0, k);
            best.sort_unstable_by(|a, b| b.cmp(a));
            let ids: Vec<usize> = best.iter().map(|p| !(*p as u32) as usize).collect();
            assert_eq!(ids, want[..k]);
        }
    }
}
