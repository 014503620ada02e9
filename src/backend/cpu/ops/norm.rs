//! Norm: a row is loaded once, its statistics are taken from the copy, and the copy is scaled.

use crate::{
    backend::cpu::{
        math,
        rows::Ctx,
        view::{Dst, Rows, Src},
    },
    error::Result,
    op::{Norm, NormKind, Op},
    tensor::Tensor,
};

/// The operands, and weight and bias as f32.
struct Views<'a> {
    x: Src<'a>,
    residual: Option<Src<'a>>,
    sum: Option<Dst<'a>>,
    y: Dst<'a>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    rows: [Rows; 4],
}

impl<'a> Views<'a> {
    /// # Safety
    /// Nobody writes the weight and the bias now.
    unsafe fn of(op: &'a Norm<Tensor>) -> Result<Self> {
        let (x, y) = (Src::of(&op.x)?, Dst::of(&op.y)?);
        let residual = Src::opt(&op.residual)?;
        let sum = op.sum.as_ref().map(Dst::of).transpose()?;
        // SAFETY: the caller's condition.
        let (mut weight, bias) = unsafe {
            let vec = |t: &Option<Tensor>| -> Result<Vec<f32>> {
                Ok(Src::opt(t)?.map_or(Vec::new(), |s| s.to_vec()))
            };
            (vec(&op.weight)?, vec(&op.bias)?)
        };
        if op.weight_offset != 0.0 {
            weight.iter_mut().for_each(|w| *w += op.weight_offset);
        }
        let rows = [
            x.rows(),
            residual.map_or(x.rows(), |r| r.rows()),
            sum.map_or(y.rows(), |s| s.rows()),
            y.rows(),
        ];
        Ok(Views {
            x,
            residual,
            sum,
            y,
            weight,
            bias,
            rows,
        })
    }

    /// Loads h of a row into `h`.
    ///
    /// # Safety
    /// `h` and `other` have a row's length; nobody writes the row now.
    #[inline]
    unsafe fn load(&self, ctx: &Ctx, row: usize, h: &mut [f32], other: &mut [f32]) {
        // SAFETY: the caller's condition; loads go to buffers of our own.
        unsafe {
            self.x.load(self.rows[0].offset(row), 0, h);
            if let Some(residual) = &self.residual {
                residual.load(self.rows[1].offset(row), 0, other);
                math::binary(ctx.env.isa, crate::op::BinOp::Add, h, other);
            }
        }
    }

    /// Stores the sum of a row, where it is asked for.
    ///
    /// # Safety
    /// Nobody else touches the row now.
    #[inline]
    unsafe fn store_sum(&self, row: usize, h: &[f32]) {
        if let Some(sum) = &self.sum {
            // SAFETY: the caller's condition.
            unsafe { sum.store(self.rows[2].offset(row), 0, h) };
        }
    }
}

pub(super) unsafe fn norm(ctx: &Ctx, op: &Op<Tensor>) -> Result<()> {
    let Op::Norm(op) = op else { return Ok(()) };
    // SAFETY: the queue keeps writers away and checked shapes and overlap.
    unsafe {
        let views = Views::of(op)?;
        match op.kind {
            NormKind::Group { groups } => group(ctx, op, &views, groups as usize),
            _ => rows(ctx, op, &views),
        }
    }
    Ok(())
}

/// Norms along the last axis.
///
/// # Safety
/// As [`norm`].
unsafe fn rows(ctx: &Ctx, op: &Norm<Tensor>, v: &Views<'_>) {
    let (isa, len) = (ctx.env.isa, v.x.len());
    let n = len as f64;
    let work = op.x.desc().elements() / 3;
    ctx.pool.parallel(v.rows[0].count(), work, |range| {
        let mut h = vec![0.0f32; len];
        let mut other = vec![0.0f32; if v.residual.is_some() { len } else { 0 }];
        for row in range {
            // SAFETY: each row is handled once, and read before it is written.
            unsafe {
                v.load(ctx, row, &mut h, &mut other);
                v.store_sum(row, &h);
            }
            let (mean, factor) = match op.kind {
                NormKind::Layer => {
                    let mean = (math::sum(isa, &h) / n) as f32;
                    let var = math::sum_squares(isa, &h, mean) / n;
                    (mean, (1.0 / (var + f64::from(op.eps)).sqrt()) as f32)
                }
                NormKind::L2 => {
                    let size = math::sum_squares(isa, &h, 0.0).sqrt();
                    (0.0, (1.0 / size.max(f64::from(op.eps))) as f32)
                }
                _ => {
                    let square = math::sum_squares(isa, &h, 0.0) / n;
                    (0.0, (1.0 / (square + f64::from(op.eps)).sqrt()) as f32)
                }
            };
            math::weigh(isa, &mut h, mean, factor, &v.weight, &v.bias);
            // SAFETY: as above.
            unsafe { v.y.store(v.rows[3].offset(row), 0, &h) };
        }
    });
}

/// Group norm: rows of positions, several for each channel, several channels for each group.
///
/// # Safety
/// As [`norm`].
unsafe fn group(ctx: &Ctx, op: &Norm<Tensor>, v: &Views<'_>, groups: usize) {
    let isa = ctx.env.isa;
    let shape = op.x.shape();
    let channels = shape[1] as usize;
    // Rank 2: each channel is one number of the row.
    let flat = shape.len() == 2;
    let per_channel: usize = if flat {
        1
    } else {
        shape[2..shape.len() - 1]
            .iter()
            .map(|&d| d as usize)
            .product()
    };
    let (len, per_group) = if flat {
        (channels / groups, 1)
    } else {
        (v.x.len(), channels / groups * per_channel)
    };
    let n = (len * per_group) as f64;
    let tasks = shape[0] as usize * groups;
    let work = op.x.desc().elements();
    ctx.pool.parallel(tasks, work, |range| {
        let mut h = vec![0.0f32; len];
        let mut other = vec![0.0f32; len];
        for task in range {
            // SAFETY: each group is handled once; a row is read before it is written, and never
            // again after that.
            let load = |row: usize, h: &mut [f32], other: &mut [f32]| unsafe {
                if flat {
                    let (row, start) = (task / groups, task % groups * len);
                    v.x.load(v.rows[0].offset(row), start, h);
                    if let Some(residual) = &v.residual {
                        residual.load(v.rows[1].offset(row), start, other);
                        math::binary(isa, crate::op::BinOp::Add, h, other);
                    }
                } else {
                    v.load(ctx, row, h, other);
                }
            };
            let first = task * per_group;
            let mut total = 0.0;
            for row in first..first + per_group {
                load(row, &mut h, &mut other);
                total += math::sum(isa, &h);
            }
            let mean = (total / n) as f32;
            let mut squares = 0.0;
            for row in first..first + per_group {
                if per_group > 1 {
                    load(row, &mut h, &mut other);
                }
                squares += math::sum_squares(isa, &h, mean);
            }
            let factor = (1.0 / (squares / n + f64::from(op.eps)).sqrt()) as f32;
            for row in first..first + per_group {
                if per_group > 1 {
                    load(row, &mut h, &mut other);
                }
                let (at, start) = if flat {
                    (task / groups, task % groups * len)
                } else {
                    (row, 0)
                };
                // SAFETY: as above.
                unsafe {
                    if let Some(sum) = &v.sum {
                        sum.store(v.rows[2].offset(at), start, &h);
                    }
                }
                if flat {
                    let part = |w: &'_ [f32]| -> Vec<f32> {
                        w.get(start..start + len).unwrap_or_default().to_vec()
                    };
                    math::weigh(isa, &mut h, mean, factor, &part(&v.weight), &part(&v.bias));
                } else {
                    let channel = row / per_channel % channels;
                    let w = v.weight.get(channel).copied().unwrap_or(1.0);
                    let b = v.bias.get(channel).copied().unwrap_or(0.0);
                    math::weigh(isa, &mut h, mean, factor * w, &[], &[]);
                    if b != 0.0 {
                        math::affine(isa, 1.0, b, &mut h);
                    }
                }
                // SAFETY: as above.
                unsafe { v.y.store(v.rows[3].offset(at), start, &h) };
            }
        }
    });
}
