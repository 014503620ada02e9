//! Unary, Binary, Glu: one pass over the numbers, a stretch of a row at a time.

use crate::{
    backend::cpu::{
        math,
        rows::Ctx,
        view::{Dst, Lines, Src, merge_axes},
    },
    error::Result,
    op::{Act, Op},
    tensor::Tensor,
};

/// Numbers per stretch: what is loaded, computed and stored stays in the first cache.
const STRETCH: usize = 1024;

/// Runs `f(offsets, start, len)` over all stretches of the rows of views that share a shape;
/// offsets are those of the row in each view. `cost` is picoseconds per number on one thread.
pub(super) fn stretches<const N: usize>(
    ctx: &Ctx,
    views: [crate::layout::TensorDesc; N],
    cost: u64,
    f: impl Fn([usize; N], usize, usize) + Sync,
) {
    let rows = views.map(|d| crate::backend::cpu::view::Rows::new(&d, 1));
    let len = views[0].dim_back(0) as usize;
    let per_row = len.div_ceil(STRETCH);
    let work = views[0].elements().saturating_mul(cost) / 1000;
    ctx.pool.parallel(rows[0].count() * per_row, work, |range| {
        let (mut row, mut stretch) = (range.start / per_row, range.start % per_row);
        let mut offsets = rows.map(|r| r.offset(row));
        for i in range.clone() {
            let start = stretch * STRETCH;
            f(offsets, start, STRETCH.min(len - start));
            stretch += 1;
            if stretch == per_row && i + 1 < range.end {
                (row, stretch) = (row + 1, 0);
                offsets = rows.map(|r| r.offset(row));
            }
        }
    });
}

/// Rough cost of a function in picoseconds per number.
fn cost(act: Act) -> u64 {
    match act {
        Act::Log | Act::Softplus | Act::Sin | Act::Cos => 8000,
        Act::Gelu => 2500,
        Act::Silu | Act::GeluTanh | Act::GeluQuick | Act::Sigmoid | Act::Tanh | Act::Exp => 700,
        _ => 300,
    }
}

/// y = f(x) stretch by stretch: `f` sees x as f32 and leaves y there.
///
/// # Safety
/// x and y have y's shape, and x is y or shares nothing with it.
unsafe fn map(ctx: &Ctx, x: Src<'_>, y: Dst<'_>, cost: u64, f: impl Fn(&mut [f32]) + Sync) {
    let [yd, xd] = merge_axes([*y.desc(), *x.desc()]);
    let (x, y) = (x.with_desc(xd), y.with_desc(yd));
    let in_place = x.is(&y);
    stretches(ctx, [yd, xd], cost, |[yo, xo], start, len| {
        let Lines(buf) = &mut Lines([0.0; STRETCH]);
        // SAFETY: stretches are inside their rows and disjoint; x is read before y is borrowed
        // unless both are the same cells.
        unsafe {
            match y.borrow(yo, start, len) {
                Some(out) => {
                    if !in_place {
                        x.load(xo, start, out);
                    }
                    f(out);
                }
                None => {
                    let buf = &mut buf[..len];
                    x.load(xo, start, buf);
                    f(buf);
                    y.store(yo, start, buf);
                }
            }
        }
    });
}

/// y = f(a, b) stretch by stretch: `f` gets a in its first argument and leaves y there.
///
/// # Safety
/// All have y's shape; a and b are y or share nothing with it.
unsafe fn zip(
    ctx: &Ctx,
    a: Src<'_>,
    b: Src<'_>,
    y: Dst<'_>,
    cost: u64,
    f: impl Fn(&mut [f32], &[f32]) + Sync,
) {
    let [yd, ad, bd] = merge_axes([*y.desc(), *a.desc(), *b.desc()]);
    let (a, b, y) = (a.with_desc(ad), b.with_desc(bd), y.with_desc(yd));
    let (a_is_y, b_is_y) = (a.is(&y), b.is(&y));
    stretches(ctx, [yd, ad, bd], cost, |[yo, ao, bo], start, len| {
        let Lines(first) = &mut Lines([0.0; STRETCH]);
        let Lines(second) = &mut Lines([0.0; STRETCH]);
        // SAFETY: stretches are inside their rows and disjoint; b is borrowed only where it shares
        // nothing with y, and a is loaded unless it already lies in y.
        unsafe {
            let second = &mut second[..len];
            let b = if b_is_y {
                b.load(bo, start, second);
                &*second
            } else {
                b.load_or_borrow(bo, start, second)
            };
            match y.borrow(yo, start, len) {
                Some(out) => {
                    if !a_is_y {
                        a.load(ao, start, out);
                    }
                    f(out, b);
                }
                None => {
                    let first = &mut first[..len];
                    a.load(ao, start, first);
                    f(first, b);
                    y.store(yo, start, first);
                }
            }
        }
    });
}

pub(super) unsafe fn unary(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Unary(op) = op else { return Ok(()) };
    let y = Dst::of(&op.y)?;
    let x = Src::of(&op.x)?.broadcast(op.y.shape())?;
    let isa = ctx.env.isa;
    // SAFETY: the queue checked shapes and overlap.
    unsafe {
        map(ctx, x, y, cost(op.act), |v| {
            math::act_affine(isa, op.scale, op.offset, op.act, v);
        });
    }
    Ok(())
}

pub(super) unsafe fn binary(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Binary(op) = op else { return Ok(()) };
    let y = Dst::of(&op.y)?;
    let a = Src::of(&op.a)?.broadcast(op.y.shape())?;
    let b = Src::of(&op.b)?.broadcast(op.y.shape())?;
    let isa = ctx.env.isa;
    // SAFETY: the queue checked shapes and overlap.
    unsafe {
        zip(ctx, a, b, y, 400, |a, b| {
            math::binary(isa, op.function, a, b)
        });
    }
    Ok(())
}

pub(super) unsafe fn glu(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Glu(op) = op else { return Ok(()) };
    let (gate, up, y) = (Src::of(&op.gate)?, Src::of(&op.up)?, Dst::of(&op.y)?);
    let isa = ctx.env.isa;
    // SAFETY: the queue checked shapes and overlap.
    unsafe {
        zip(ctx, gate, up, y, 200 + cost(op.act), |g, u| {
            math::act(isa, op.act, g);
            math::binary(isa, crate::op::BinOp::Mul, g, u);
        });
    }
    Ok(())
}
