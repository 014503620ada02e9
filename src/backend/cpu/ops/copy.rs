//! Copy: bytes as they are, floats through f32, integers through i64.

use super::elementwise::stretches;
use crate::{
    backend::cpu::{
        convert,
        rows::Ctx,
        view::{Dst, Lines, Rows, Src, merge_axes},
    },
    element::{DType, Element},
    error::Result,
    op::Op,
    tensor::Tensor,
};
use half::bf16;

pub(super) unsafe fn copy(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Copy(op) = op else { return Ok(()) };
    let y = Dst::of(&op.y)?;
    let x = Src::of(&op.x)?.broadcast(op.y.shape())?;
    // SAFETY: the queue checked shapes and overlap; x is y nowhere.
    unsafe {
        match (x.desc().element, y.desc().element) {
            (Element::Quant(_), _) => blocks(ctx, x, y),
            (a, b) if a == b => same(ctx, x, y),
            (Element::Plain(a), Element::Plain(b)) if a.is_float() && b.is_float() => {
                floats(ctx, x, y);
            }
            _ => integers(ctx, x, y),
        }
    }
    Ok(())
}

/// Rows of whole blocks.
///
/// # Safety
/// Of one shape and format, sharing nothing.
unsafe fn blocks(ctx: &Ctx, x: Src<'_>, y: Dst<'_>) {
    let (xr, yr) = (x.rows(), y.rows());
    let q = x.desc().element;
    let (blocks, size) = (x.len() / q.block_len(), q.block_bytes());
    // Only a row of one block may have another stride, and a broadcast last axis has none to copy.
    let work = (xr.count() * blocks * size) as u64 / 8;
    ctx.pool.parallel(xr.count(), work, |range| {
        for i in range {
            // SAFETY: whole rows of both.
            unsafe {
                let (from, to) = (x.ptr().add(xr.offset(i)), y.ptr().add(yr.offset(i)));
                std::ptr::copy_nonoverlapping(from, to, blocks * size);
            }
        }
    });
}

/// Cells of one type.
///
/// # Safety
/// Of one shape and type, sharing nothing.
unsafe fn same(ctx: &Ctx, x: Src<'_>, y: Dst<'_>) {
    let size = y.desc().element.block_bytes();
    let [yd, xd] = merge_axes([*y.desc(), *x.desc()]);
    let (x, y) = (x.with_desc(xd), y.with_desc(yd));
    let rank = yd.rank();
    // Neither contiguous along the last axis, but x along the one before: a transposed matrix.
    if rank >= 2 && x.step() != size && xd.stride_bytes(rank - 2) as usize == size {
        // SAFETY: the caller's condition.
        unsafe { transposed(ctx, x, y, size) };
        return;
    }
    let (xs, ys) = (x.step(), y.step());
    stretches(ctx, [yd, xd], 300, |[yo, xo], start, len| {
        // SAFETY: cells of both.
        unsafe {
            let (from, to) = (x.ptr().add(xo + start * xs), y.ptr().add(yo + start * ys));
            if (xs, ys) == (size, size) {
                std::ptr::copy_nonoverlapping(from, to, len * size);
            } else {
                cells(size, from, xs, to, ys, len);
            }
        }
    });
}

/// `n` cells of `size` bytes at any distance.
///
/// # Safety
/// The cells are readable and writable, aligned to their size, and share nothing.
#[inline]
unsafe fn cells(size: usize, from: *const u8, xs: usize, to: *mut u8, ys: usize, n: usize) {
    macro_rules! each {
        ($t:ty) => {
            for i in 0..n {
                // SAFETY: the caller's condition.
                unsafe {
                    let v = from.add(i * xs).cast::<$t>().read();
                    to.add(i * ys).cast::<$t>().write(v);
                }
            }
        };
    }
    match size {
        1 => each!(u8),
        2 => each!(u16),
        4 => each!(u32),
        _ => each!(u64),
    }
}

/// The last two axes in square tiles: both sides stay in cache.
///
/// # Safety
/// As [`same`]; rank 2 or more.
unsafe fn transposed(ctx: &Ctx, x: Src<'_>, y: Dst<'_>, size: usize) {
    const TILE: usize = 32;
    let rank = y.desc().rank();
    let (m, n) = (
        y.desc().dim(rank - 2) as usize,
        y.desc().dim(rank - 1) as usize,
    );
    let (xr, yr) = (Rows::new(x.desc(), 2), Rows::new(y.desc(), 2));
    let step = |d: &crate::layout::TensorDesc, axis| d.stride_bytes(axis) as usize;
    let (xm, xn) = (step(x.desc(), rank - 2), step(x.desc(), rank - 1));
    let (ym, yn) = (step(y.desc(), rank - 2), step(y.desc(), rank - 1));
    let tiles = m.div_ceil(TILE);
    let work = y.desc().elements() / 2;
    ctx.pool.parallel(xr.count() * tiles, work, |range| {
        for i in range {
            let (matrix, top) = (i / tiles, i % tiles * TILE);
            let (xo, yo) = (xr.offset(matrix), yr.offset(matrix));
            for left in (0..n).step_by(TILE) {
                let width = TILE.min(n - left);
                for row in top..(top + TILE).min(m) {
                    // SAFETY: cells of both matrices.
                    unsafe {
                        let from = x.ptr().add(xo + row * xm + left * xn);
                        let to = y.ptr().add(yo + row * ym + left * yn);
                        cells(size, from, xn, to, yn, width);
                    }
                }
            }
        }
    });
}

/// Floats of different types.
///
/// # Safety
/// Of one shape, sharing nothing.
unsafe fn floats(ctx: &Ctx, x: Src<'_>, y: Dst<'_>) {
    let [yd, xd] = merge_axes([*y.desc(), *x.desc()]);
    let (x, y) = (x.with_desc(xd), y.with_desc(yd));
    stretches(ctx, [yd, xd], 400, |[yo, xo], start, len| {
        let Lines(buf) = &mut Lines([0.0; 1024]);
        // SAFETY: a stretch of both rows.
        unsafe {
            match y.borrow(yo, start, len) {
                Some(out) => x.load(xo, start, out),
                None => y.store(yo, start, x.load_or_borrow(xo, start, &mut buf[..len])),
            }
        }
    });
}

/// The f32 that rounds to the same bf16, f16 or 8-bit float as `v`: `v` itself, or its leading 24
/// bits with the last one set if any bit behind was (round to odd).
fn to_odd(v: i64) -> f32 {
    let size = v.unsigned_abs();
    let drop = 40u32.saturating_sub(size.leading_zeros());
    let lost = size & ((1u64 << drop) - 1) != 0;
    let kept = (size >> drop) | u64::from(lost);
    let magnitude = kept as f32 * (1u64 << drop) as f32;
    if v < 0 { -magnitude } else { magnitude }
}

/// Anything with integers.
///
/// # Safety
/// Of one shape and plain types, sharing nothing.
unsafe fn integers(ctx: &Ctx, x: Src<'_>, y: Dst<'_>) {
    let (Some(from), Some(to)) = (x.desc().plain(), y.desc().plain()) else {
        return;
    };
    let [yd, xd] = merge_axes([*y.desc(), *x.desc()]);
    let (x, y) = (x.with_desc(xd), y.with_desc(yd));
    let (xs, ys) = (x.step(), y.step());
    stretches(ctx, [yd, xd], 2000, |[yo, xo], start, len| {
        for i in start..start + len {
            // SAFETY: one cell of each.
            unsafe {
                let cell = y.ptr().add(yo + i * ys);
                if from.is_float() {
                    // `as` truncates and saturates, NaN gives 0.
                    let mut v = [0.0];
                    x.load(xo, i, &mut v);
                    convert::store(to, cell, ys, &v);
                    continue;
                }
                let v = x.integer(xo + i * xs);
                let clamp = |low: i64, high: i64| v.clamp(low, high);
                match to {
                    DType::I8 => cell.cast::<i8>().write(clamp(-128, 127) as i8),
                    DType::U8 => cell.write(clamp(0, 255) as u8),
                    DType::I32 => {
                        cell.cast::<i32>()
                            .write(clamp(i32::MIN.into(), i32::MAX.into()) as i32);
                    }
                    DType::U32 => cell.cast::<u32>().write(clamp(0, u32::MAX.into()) as u32),
                    DType::I64 => cell.cast::<i64>().write(v),
                    DType::F32 => cell.cast::<f32>().write(v as f32),
                    DType::BF16 => cell.cast::<bf16>().write(bf16::from_f32(to_odd(v))),
                    DType::F16 | DType::F8E4M3 | DType::F8E5M2 => {
                        convert::store(to, cell, ys, &[to_odd(v)]);
                    }
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_integers_round_once() {
        // 2^24 + 2^16 + 1 is just above the middle of two bf16.
        let v = (1i64 << 24) + (1 << 16) + 1;
        assert_eq!(
            bf16::from_f32(to_odd(v)).to_f32(),
            ((1 << 24) + (1 << 17)) as f32
        );
        assert_eq!(to_odd(-5), -5.0);
        assert_eq!(to_odd(i64::MIN), -(2f32.powi(63)));
        assert_eq!(to_odd(0), 0.0);
    }
}
