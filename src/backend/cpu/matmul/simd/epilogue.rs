//! The end of a product in vectors: scale, bias, activation, gate, residual, store.

use crate::{
    backend::cpu::{
        isa::Isa,
        simd::{Simd, cells, math},
    },
    element::DType,
    op::Act,
};
use half::{bf16, f16};

/// Floats somewhere in memory: f32, f16 or bf16.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Floats {
    pub start: *mut u8,
    pub dtype: DType,
}

// SAFETY: tasks write elements of their own; see `Output`.
unsafe impl Send for Floats {}
// SAFETY: as above.
unsafe impl Sync for Floats {}

/// True for the types that [`Floats`] may hold.
pub(in crate::backend::cpu) fn is_simd_float(dtype: Option<DType>) -> bool {
    matches!(dtype, Some(DType::F32 | DType::F16 | DType::BF16))
}

impl Floats {
    /// `n` elements from `at` on.
    ///
    /// # Safety
    /// They exist; `n <= S::LANES`; the CPU has the features of `S`.
    #[inline(always)]
    pub unsafe fn load<S: Simd>(self, at: usize, n: usize) -> S::F {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            match self.dtype {
                DType::F16 => S::load_f16_n(self.start.cast::<f16>().add(at), n),
                DType::BF16 => S::load_bf16_n(self.start.cast::<bf16>().add(at), n),
                _ => S::load_n(self.start.cast::<f32>().add(at), n),
            }
        }
    }

    /// Writes `n` elements from `at` on.
    ///
    /// # Safety
    /// As for [`Floats::load`].
    #[inline(always)]
    pub unsafe fn store<S: Simd>(self, at: usize, n: usize, v: S::F) {
        // SAFETY: the caller's contract is the callee's.
        unsafe {
            match self.dtype {
                DType::F16 => S::store_f16_n(self.start.cast::<f16>().add(at), n, v),
                DType::BF16 => S::store_bf16_n(self.start.cast::<bf16>().add(at), n, v),
                _ => S::store_n(self.start.cast::<f32>().add(at), n, v),
            }
        }
    }
}

/// A matrix of floats: row stride in elements, columns side by side.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Matrix {
    pub data: Floats,
    pub stride: usize,
}

impl Matrix {
    /// The same from `elements` on.
    ///
    /// # Safety
    /// Inside the tensor.
    pub unsafe fn offset(self, elements: usize) -> Matrix {
        let bytes = elements * self.data.dtype.size();
        let data = Floats {
            // SAFETY: the caller promises that the position exists.
            start: unsafe { self.data.start.add(bytes) },
            ..self.data
        };
        Matrix { data, ..self }
    }
}

/// y of one matrix product and what is done before the store.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct Output {
    pub y: Matrix,
    pub scale: f32,
    pub bias: Option<Floats>,
    pub act: Act,
    /// For the activations without vectors of their own.
    pub isa: Isa,
    pub gate: Option<Matrix>,
    pub residual: Option<Matrix>,
    pub accumulate: bool,
}

impl Output {
    /// Are the results the sums as they are, in four bytes each?
    pub fn is_plain(&self) -> bool {
        self.is_straight() && matches!(self.y.data.dtype, DType::F32 | DType::I32)
    }

    /// Are the results the sums as they are, rounded to the type of y?
    pub fn is_straight(&self) -> bool {
        self.scale == 1.0
            && self.bias.is_none()
            && self.act == Act::Identity
            && self.gate.is_none()
            && self.residual.is_none()
            && !self.accumulate
    }

    /// Asks memory for what [`Output::finish`] of these rows and columns needs.
    #[inline(always)]
    pub fn prefetch(&self, m0: usize, rows: usize, n0: usize, n: usize) {
        for m in [Some(self.y), self.residual, self.gate]
            .into_iter()
            .flatten()
        {
            let size = m.data.dtype.size();
            for row in m0..m0 + rows {
                let first = m.data.start.wrapping_add((row * m.stride + n0) * size);
                for byte in (0..n * size).step_by(64) {
                    cells::prefetch(first.wrapping_add(byte), false);
                }
            }
        }
    }

    /// Finishes `rows` rows of `n` sums at `c` (row stride `ld`), which belong at row `m0` and
    /// column `n0`.
    ///
    /// # Safety
    /// The elements exist in `c` and all operands, no other task touches them, and the CPU has
    /// the features of `S`.
    #[inline(always)]
    pub unsafe fn finish<S: Simd>(
        &self,
        c: *const f32,
        ld: usize,
        m0: usize,
        rows: usize,
        n0: usize,
        n: usize,
    ) {
        // SAFETY: rows m0.. and columns n0.. of every operand; the caller promises them.
        unsafe {
            for r in 0..rows {
                let m = m0 + r;
                let mut i = 0;
                while i < n {
                    let lanes = (n - i).min(S::LANES);
                    let column = n0 + i;
                    let mut v = S::load_n(c.add(r * ld + i), lanes);
                    if self.scale != 1.0 {
                        v = S::mul(v, S::splat(self.scale));
                    }
                    if let Some(bias) = self.bias {
                        v = S::add(v, bias.load::<S>(column, lanes));
                    }
                    if math::has_act(self.act) {
                        v = math::act::<S>(self.act, v);
                    } else {
                        let mut t = [0f32; 16];
                        S::store_n(t.as_mut_ptr(), lanes, v);
                        crate::backend::cpu::math::act(self.isa, self.act, &mut t[..lanes]);
                        v = S::load_n(t.as_ptr(), lanes);
                    }
                    if let Some(gate) = self.gate {
                        v = S::mul(v, gate.data.load::<S>(m * gate.stride + column, lanes));
                    }
                    if let Some(add) = self.residual {
                        v = S::add(v, add.data.load::<S>(m * add.stride + column, lanes));
                    }
                    let at = m * self.y.stride + column;
                    if self.accumulate {
                        v = S::add(v, self.y.data.load::<S>(at, lanes));
                    }
                    self.y.data.store::<S>(at, lanes, v);
                    i += lanes;
                }
            }
        }
    }
}
