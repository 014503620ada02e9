//! What happens to a product before it is stored, for every matmul kernel and convolution.

use crate::{
    backend::cpu::{
        isa::Isa,
        math,
        view::{Dst, Lines, Rows, Src},
    },
    element::DType,
    error::Result,
    op::{Act, BinOp, Epilogue},
    tensor::Tensor,
};

/// Columns per step.
const STRETCH: usize = 256;

/// `t = act(acc * scale + bias) * gate + residual`, then `y = t` or `y += t`.
#[derive(Debug)]
pub(crate) struct Finish<'a> {
    isa: Isa,
    y: Dst<'a>,
    rows: Rows,
    scale: f32,
    bias: Vec<f32>,
    act: Act,
    gate: Option<(Src<'a>, Rows)>,
    residual: Option<(Src<'a>, Rows)>,
    accumulate: bool,
}

impl<'a> Finish<'a> {
    /// The epilogue into y, whose rows are all axes but the last.
    ///
    /// # Safety
    /// Nobody writes the bias now.
    pub unsafe fn of(isa: Isa, e: &'a Epilogue<Tensor>, y: &'a Tensor) -> Result<Self> {
        let view = |t: &'a Option<Tensor>| -> Result<_> { Ok(Src::opt(t)?.map(|s| (s, s.rows()))) };
        let y = Dst::of(y)?;
        Ok(Finish {
            isa,
            rows: y.rows(),
            y,
            scale: e.scale.unwrap_or(1.0),
            // SAFETY: the caller's condition.
            bias: Src::opt(&e.bias)?.map_or(Vec::new(), |b| unsafe { b.to_vec() }),
            act: e.act.unwrap_or(Act::Identity),
            gate: view(&e.gate)?,
            residual: view(&e.residual)?,
            accumulate: e.accumulate,
        })
    }

    /// Finishes columns `start..start + acc.len()` of row `row` of y. `bias_start` is where the
    /// bias of column 0 is within the bias (an expert's row of `[E, N]`; else 0). `acc` is left
    /// unspecified.
    ///
    /// # Safety
    /// The cells are y's and nobody else touches them, or those of gate and residual that are y.
    #[inline]
    pub unsafe fn store(&self, row: usize, start: usize, bias_start: usize, acc: &mut [f32]) {
        if self.scale != 1.0 {
            math::affine(self.isa, self.scale, 0.0, acc);
        }
        if !self.bias.is_empty() {
            let bias = &self.bias[bias_start + start..][..acc.len()];
            math::binary(self.isa, BinOp::Add, acc, bias);
        }
        if self.act != Act::Identity {
            math::act(self.isa, self.act, acc);
        }
        // SAFETY: the caller's condition.
        unsafe { self.gate_and_store(row, start, acc) };
    }

    /// As [`Finish::store`] for y`[B, O, H, W]`: positions `first..` (row-major in H, W) of channel
    /// `plane % O` of image `plane / O`; the bias has one number per channel.
    ///
    /// # Safety
    /// As [`Finish::store`].
    pub unsafe fn store_positions(&self, plane: usize, first: usize, acc: &mut [f32]) {
        let [channels, height, width] = [1, 2, 3].map(|a| self.y.desc().dim(a) as usize);
        let bias = self.bias.get(plane % channels).copied().unwrap_or(0.0);
        math::act_affine(self.isa, self.scale, bias, self.act, acc);
        let (mut at, mut rest) = (first, acc);
        while !rest.is_empty() {
            let (row, column) = (at / width, at % width);
            let (some, tail) = rest.split_at_mut(rest.len().min(width - column));
            at += some.len();
            // SAFETY: the caller's condition.
            unsafe { self.gate_and_store(plane * height + row, column, some) };
            rest = tail;
        }
    }

    /// As [`Finish::store`] for a row without a product (no expert): zeros before the gate.
    ///
    /// # Safety
    /// As [`Finish::store`].
    pub unsafe fn store_zeros(&self, row: usize) {
        let len = self.y.len();
        let Lines(acc) = &mut Lines([0.0; STRETCH]);
        for start in (0..len).step_by(STRETCH) {
            let acc = &mut acc[..STRETCH.min(len - start)];
            acc.fill(0.0);
            // SAFETY: the caller's condition.
            unsafe { self.gate_and_store(row, start, acc) };
        }
    }

    /// # Safety
    /// As [`Finish::store`].
    #[inline]
    unsafe fn gate_and_store(&self, row: usize, start: usize, acc: &mut [f32]) {
        let to = self.rows.offset(row);
        if self.gate.is_some() || self.residual.is_some() || self.accumulate {
            let Lines(buf) = &mut Lines([0.0; STRETCH]);
            for (i, acc) in acc.chunks_mut(STRETCH).enumerate() {
                let (at, buf) = (start + i * STRETCH, &mut buf[..acc.len()]);
                // SAFETY: the caller's condition; loads go to a buffer of our own.
                unsafe {
                    if let Some((gate, rows)) = &self.gate {
                        gate.load(rows.offset(row), at, buf);
                        math::binary(self.isa, BinOp::Mul, acc, buf);
                    }
                    if let Some((residual, rows)) = &self.residual {
                        residual.load(rows.offset(row), at, buf);
                        math::binary(self.isa, BinOp::Add, acc, buf);
                    }
                    if self.accumulate {
                        self.y.src().load(to, at, buf);
                        math::binary(self.isa, BinOp::Add, acc, buf);
                    }
                }
            }
        }
        // SAFETY: the caller's condition.
        unsafe { self.y.store(to, start, acc) };
    }

    /// Finishes exact integer products: y = acc for i32, saturating; as [`Finish::store`] for
    /// floats and wherever the epilogue is more than a sum.
    ///
    /// # Safety
    /// As [`Finish::store`].
    pub unsafe fn store_integers(&self, row: usize, start: usize, bias_start: usize, acc: &[i64]) {
        let only_sum = self.scale == 1.0
            && self.bias.is_empty()
            && self.act == Act::Identity
            && self.gate.is_none()
            && self.residual.is_none();
        if self.y.desc().plain() == Some(DType::I32) && only_sum {
            let (to, step) = (self.rows.offset(row), self.y.step());
            for (j, &sum) in acc.iter().enumerate() {
                // SAFETY: the caller's condition.
                unsafe {
                    let cell = self.y.ptr().add(to + (start + j) * step).cast::<i32>();
                    let old = if self.accumulate {
                        i64::from(cell.read())
                    } else {
                        0
                    };
                    cell.write((old + sum).clamp(i32::MIN.into(), i32::MAX.into()) as i32);
                }
            }
            return;
        }
        let Lines(buf) = &mut Lines([0.0; STRETCH]);
        for (i, acc) in acc.chunks(STRETCH).enumerate() {
            let buf = &mut buf[..acc.len()];
            for (b, &a) in buf.iter_mut().zip(acc) {
                *b = a as f32;
            }
            // SAFETY: the caller's condition.
            unsafe { self.store(row, start + i * STRETCH, bias_start, buf) };
        }
    }
}
