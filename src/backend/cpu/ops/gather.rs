//! GatherRows, KvWrite: rows that move by index.

use super::quantize::{Failure, encode};
use crate::{
    backend::cpu::{
        rows::{Ctx, Env},
        view::{Dst, Rows, Src},
    },
    device::Quality,
    element::Element,
    error::{Refusal, Result},
    layout::TensorDesc,
    op::{Kv, Op, OpKind, Weight},
    quant::QuantError,
    tensor::Tensor,
};

pub(super) fn fits_gather_rows(_: &Env, op: &Op<TensorDesc>) -> Result<Quality, Refusal> {
    match op {
        Op::GatherRows(op) if matches!(op.table, Weight::Packed { .. }) => Err(Refusal::Layout {
            arg: "table",
            why: "rows are gathered from plain tables, not from prepacked ones",
        }),
        _ => Ok(Quality::Portable),
    }
}

pub(super) unsafe fn gather_rows(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::GatherRows(op) = op else {
        return Ok(());
    };
    let (table, y) = (Src::of(op.table.tensor())?, Dst::of(&op.y)?);
    // SAFETY: nobody writes the operands of a running op.
    let ids = unsafe { Src::of(&op.ids)?.integers() };
    let (tr, yr, len) = (table.rows(), y.rows(), table.len());
    let zeros = vec![0.0f32; len];
    ctx.pool
        .parallel(ids.len(), op.y.desc().elements() / 3, |range| {
            let mut buf = vec![0.0f32; len];
            for i in range {
                let to = yr.offset(i);
                let id = usize::try_from(ids[i]).ok().filter(|&id| id < tr.count());
                // SAFETY: `id` is a row of the table; each row of y is written once.
                unsafe {
                    match id {
                        Some(id) => move_row(&table, tr.offset(id), &y, to, &mut buf),
                        None => y.store(to, 0, &zeros),
                    }
                }
            }
        });
    Ok(())
}

/// A row to one of a plain type: the bytes where they stay the same.
///
/// # Safety
/// Rows of x and y of the length of `buf`; x's is not written, y's not touched by others.
#[inline]
unsafe fn move_row(x: &Src<'_>, from: usize, y: &Dst<'_>, to: usize, buf: &mut [f32]) {
    let size = y.desc().element.block_bytes();
    // SAFETY: the caller's condition.
    unsafe {
        if x.desc().element == y.desc().element && (x.step(), y.step()) == (size, size) {
            let (from, to) = (x.ptr().add(from), y.ptr().add(to));
            std::ptr::copy_nonoverlapping(from, to, buf.len() * size);
        } else {
            y.store(to, 0, x.load_or_borrow(from, 0, buf));
        }
    }
}

pub(super) unsafe fn kv_write(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::KvWrite(op) = op else { return Ok(()) };
    let sides = [("k", &op.k, op.kv.k()), ("v", &op.v, op.kv.v())];
    // SAFETY: nobody writes the slots of a running op.
    let slots = unsafe { Src::of(&op.slots)?.integers() };
    let paged = matches!(op.kv, Kv::Paged { .. });
    let heads = op.k.desc().dim(1) as usize;
    let (batch, seq) = (op.k.desc().dim(0) as usize, op.k.desc().dim(2) as usize);
    let mut views = Vec::with_capacity(2);
    for (arg, new, cache) in sides {
        views.push((arg, Src::of(new)?, Dst::of(cache)?, Failure::default()));
    }
    let work = (op.k.desc().elements() + op.v.desc().elements()) / 2;
    // One task writes all rows of a head, in order: rows that name the same slot against the rule
    // do not race.
    ctx.pool.parallel(2 * heads, work, |range| {
        for task in range {
            let (_, new, cache, failure) = &views[task / heads];
            let head = task % heads;
            let strides = |d: &TensorDesc| [0, 1, 2].map(|a| d.stride_bytes(a) as usize);
            let (ns, cs) = (strides(new.desc()), strides(cache.desc()));
            let (pages, page) = (cache.desc().dim(0) as usize, cache.desc().dim(2) as usize);
            let mut buf = vec![0.0f32; new.len()];
            for (i, &slot) in slots.iter().enumerate().take(batch * seq) {
                let (b, s) = (i / seq, i % seq);
                let Ok(slot) = usize::try_from(slot) else {
                    continue;
                };
                let (sequence, row) = if paged {
                    (slot / page.max(1), slot % page.max(1))
                } else {
                    (b, slot)
                };
                if sequence >= pages || row >= page {
                    continue;
                }
                let from = b * ns[0] + head * ns[1] + s * ns[2];
                let to = sequence * cs[0] + head * cs[1] + row * cs[2];
                // SAFETY: the row is inside the cache, and of this head, which is this task's own.
                unsafe {
                    if let Err(why) = write_row(new, from, cache, to, &mut buf) {
                        failure.note(i, why);
                    }
                }
            }
        }
    });
    views
        .into_iter()
        .try_for_each(|(arg, _, _, failure)| failure.into_result(OpKind::KvWrite, arg))
}

/// A row into a cache of a plain or quantized type.
///
/// # Safety
/// As [`move_row`].
#[inline]
unsafe fn write_row(
    x: &Src<'_>,
    from: usize,
    cache: &Dst<'_>,
    to: usize,
    buf: &mut [f32],
) -> Result<(), QuantError> {
    // SAFETY: the caller's condition.
    unsafe {
        match cache.desc().element {
            Element::Plain(_) => {
                move_row(x, from, cache, to, buf);
                Ok(())
            }
            Element::Quant(format) => {
                encode(format, x.load_or_borrow(from, 0, buf), cache.ptr().add(to))
            }
        }
    }
}

pub(super) unsafe fn upsample(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Upsample(op) = op else { return Ok(()) };
    let (x, y) = (Src::of(&op.x)?, Dst::of(&op.y)?);
    let (width, out) = (x.len(), y.len());
    let (tall, times) = (op.y.shape()[2] / op.x.shape()[2], out / width);
    let (yr, images) = (y.rows(), Rows::new(x.desc(), 2));
    let (height, line) = (
        op.y.shape()[2] as usize,
        op.x.desc().stride_bytes(2) as usize,
    );
    ctx.pool
        .parallel(yr.count(), op.y.desc().elements() / 2, |range| {
            let (mut from, mut to) = (vec![0.0f32; width], vec![0.0f32; out]);
            for row in range {
                let (image, h) = (row / height, row % height / tall as usize);
                // SAFETY: a row of x; each row of y is written once.
                unsafe {
                    x.load(images.offset(image) + h * line, 0, &mut from);
                    for (pixels, &v) in to.chunks_exact_mut(times).zip(&from) {
                        pixels.fill(v);
                    }
                    y.store(yr.offset(row), 0, &to);
                }
            }
        });
    Ok(())
}
