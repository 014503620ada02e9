//! Rope: sines and cosines of each position once, for all heads.

use crate::{
    backend::cpu::{
        isa::{fma, multiversion},
        math,
        rows::Ctx,
        view::{Dst, Src},
    },
    error::Result,
    op::{Op, RopeKind},
    tensor::Tensor,
};

#[inline(always)]
fn halves_body<const FMA: bool>(x: &mut [f32], sin: &[f32], cos: &[f32]) {
    let (a, b) = x.split_at_mut(sin.len());
    for (((a, b), &s), &c) in a.iter_mut().zip(b).zip(sin).zip(cos) {
        let (u, v) = (*a, *b);
        *a = fma::<FMA>(u, c, -(v * s));
        *b = fma::<FMA>(v, c, u * s);
    }
}
multiversion! {
    /// Rotates the pairs (i, i + n / 2).
    fn halves = halves_body(x: &mut [f32], sin: &[f32], cos: &[f32])
}

#[inline(always)]
fn neighbours_body<const FMA: bool>(x: &mut [f32], sin: &[f32], cos: &[f32]) {
    for ((pair, &s), &c) in x.as_chunks_mut::<2>().0.iter_mut().zip(sin).zip(cos) {
        let [u, v] = *pair;
        *pair = [fma::<FMA>(u, c, -(v * s)), fma::<FMA>(v, c, u * s)];
    }
}
multiversion! {
    /// Rotates the pairs (2i, 2i + 1).
    fn neighbours = neighbours_body(x: &mut [f32], sin: &[f32], cos: &[f32])
}

pub(super) unsafe fn rope(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Rope(op) = op else { return Ok(()) };
    let isa = ctx.env.isa;
    let (x, y) = (Src::of(&op.x)?, Dst::of(&op.y)?);
    let positions = Src::of(&op.positions)?;
    let [batch, heads, seq, len] = [0, 1, 2, 3].map(|a| op.x.desc().dim(a) as usize);
    let (n_rot, pairs) = (op.n_rot as usize, op.n_rot as usize / 2);

    // theta^(-2 i / n) by repeated products in f64: the error of the last is below 1e-13.
    let ratio = f64::from(op.theta).powf(-2.0 / n_rot.max(1) as f64);
    let mut frequency = 1.0;
    let mut frequencies = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        frequencies.push(frequency);
        frequency *= ratio;
    }
    if let Some(factors) = Src::opt(&op.factors)? {
        // SAFETY: nobody writes the operands of a running op.
        let factors = unsafe { factors.to_vec() };
        for (f, d) in frequencies.iter_mut().zip(factors) {
            *f /= f64::from(d);
        }
    }
    // The section of each pair: which row of positions it uses.
    let section: Vec<usize> = match op.kind {
        RopeKind::Sections(sections) => {
            let total: u64 = sections.iter().map(|&n| u64::from(n)).sum();
            (0..pairs)
                .map(|i| {
                    let mut at = i as u64 % total;
                    let mut s = 0;
                    while at >= u64::from(sections[s]) {
                        at -= u64::from(sections[s]);
                        s += 1;
                    }
                    s
                })
                .collect()
        }
        _ => Vec::new(),
    };
    let per_batch = positions.desc().rank() == 2 && section.is_empty();
    let (step, line) = (
        positions.desc().stride_bytes(positions.desc().rank() - 1) as usize,
        if positions.desc().rank() == 2 {
            positions.desc().stride_bytes(0) as usize
        } else {
            0
        },
    );
    let stride = |axis: usize| {
        (
            op.x.desc().stride_bytes(axis) as usize,
            op.y.desc().stride_bytes(axis) as usize,
        )
    };
    let (sb, sh, ss) = (stride(0), stride(1), stride(2));
    let in_place = x.is(&y);
    // A task is one position with all its heads.
    let work = op.x.desc().elements() + (batch * seq * pairs) as u64 * 3;
    ctx.pool.parallel(batch * seq, work, |range| {
        let mut angles = vec![0.0f64; pairs];
        let (mut sin, mut cos) = (vec![0.0f32; pairs], vec![0.0f32; pairs]);
        let mut row = vec![0.0f32; len];
        for i in range {
            let (b, s) = (i / seq, i % seq);
            // SAFETY: cells of `positions`, which nobody writes.
            let position = |r: usize| unsafe { positions.integer(r * line + s * step) as f64 };
            if section.is_empty() {
                let p = position(if per_batch { b } else { 0 });
                for (a, f) in angles.iter_mut().zip(&frequencies) {
                    *a = p * f;
                }
            } else {
                let p = [0, 1, 2, 3].map(position);
                for ((a, f), &r) in angles.iter_mut().zip(&frequencies).zip(&section) {
                    *a = p[r] * f;
                }
            }
            math::sin_cos(isa, &angles, &mut sin, &mut cos);
            if op.magnitude != 1.0 {
                math::affine(isa, op.magnitude, 0.0, &mut sin);
                math::affine(isa, op.magnitude, 0.0, &mut cos);
            }
            for h in 0..heads {
                let from = b * sb.0 + h * sh.0 + s * ss.0;
                let to = b * sb.1 + h * sh.1 + s * ss.1;
                let rotate = |row: &mut [f32]| match op.kind {
                    RopeKind::Interleaved => neighbours(isa, &mut row[..n_rot], &sin, &cos),
                    _ => halves(isa, &mut row[..n_rot], &sin, &cos),
                };
                // SAFETY: each row is handled once; x is y or shares nothing with it.
                unsafe {
                    match y.borrow(to, 0, len) {
                        Some(out) => {
                            if !in_place {
                                x.load(from, 0, out);
                            }
                            rotate(out);
                        }
                        None => {
                            x.load(from, 0, &mut row);
                            rotate(&mut row);
                            y.store(to, 0, &row);
                        }
                    }
                }
            }
        }
    });
    Ok(())
}
