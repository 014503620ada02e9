//! Views of operands: typed, strided access to host memory.
//!
//! A view is a pointer and a [`TensorDesc`]. Kernels see a tensor as rows (the last axis) of
//! numbers that are loaded to and stored from f32, or as raw pointers where they do better.

use super::{convert, memory::Memory};
use crate::{
    element::{DType, Element},
    error::Result,
    layout::{MAX_RANK, TensorDesc},
    tensor::Tensor,
};
use std::marker::PhantomData;

/// Numbers on the way, from the start of a cache line on: no vector of them lies in two lines.
#[repr(align(64))]
pub(crate) struct Lines<T, const N: usize>(pub [T; N]);

/// An operand that is read. Lives as long as the op's own tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Src<'a> {
    ptr: *const u8,
    desc: TensorDesc,
    _op: PhantomData<&'a Tensor>,
}

/// An operand that is written, or read and written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dst<'a> {
    ptr: *mut u8,
    desc: TensorDesc,
    _op: PhantomData<&'a Tensor>,
}

// SAFETY: threads of one op share its operands; what each may touch is the contract of the
// methods.
unsafe impl Send for Src<'_> {}
// SAFETY: as above.
unsafe impl Sync for Src<'_> {}
// SAFETY: as above.
unsafe impl Send for Dst<'_> {}
// SAFETY: as above.
unsafe impl Sync for Dst<'_> {}

/// Joins axes that follow each other in memory in every one of the tensors, which have one shape
/// and plain elements: rows get longer.
pub(crate) fn merge_axes<const N: usize>(descs: [TensorDesc; N]) -> [TensorDesc; N] {
    let rank = descs[0].rank();
    let mut shape: Vec<u32> = Vec::with_capacity(rank);
    let mut strides: [Vec<i64>; N] = [const { Vec::new() }; N];
    for axis in 0..rank {
        let dim = descs[0].dim(axis);
        if dim == 1 {
            continue;
        }
        let joins = shape.last().is_some_and(|&before| {
            before.checked_mul(dim).is_some()
                && strides
                    .iter()
                    .zip(&descs)
                    .all(|(s, d)| s.last() == Some(&(d.strides()[axis] * i64::from(dim))))
        });
        match shape.last_mut() {
            Some(before) if joins => *before *= dim,
            _ => shape.push(dim),
        }
        for (s, d) in strides.iter_mut().zip(&descs) {
            if joins {
                s.pop();
            }
            s.push(d.strides()[axis]);
        }
    }
    if shape.is_empty() {
        shape.push(1);
        strides.iter_mut().for_each(|s| s.push(1));
    }
    let mut merged = descs;
    for (d, s) in merged.iter_mut().zip(&strides) {
        match TensorDesc::strided(d.element, &shape, s) {
            Ok(joined) => *d = joined,
            // Not reachable: fewer axes over the same cells. The views as they are serve too.
            Err(_) => return descs,
        }
    }
    merged
}

/// Byte offset of each row (a setting of all axes but the last), in row-major order; axes that
/// follow each other in memory are one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    count: usize,
    axes: usize,
    dims: [usize; MAX_RANK],
    steps: [usize; MAX_RANK],
}

impl Rows {
    /// Rows of `desc`, the last `inner` axes of which are left to the caller.
    pub fn new(desc: &TensorDesc, inner: usize) -> Rows {
        let mut rows = Rows {
            count: 1,
            axes: 0,
            dims: [1; MAX_RANK],
            steps: [0; MAX_RANK],
        };
        for axis in 0..desc.rank().saturating_sub(inner) {
            let (dim, step) = (desc.dim(axis) as usize, desc.stride_bytes(axis) as usize);
            rows.count *= dim;
            if dim == 1 {
                continue;
            }
            // The axis before continues this one when a step of it is all of this one.
            if rows.axes > 0 && rows.steps[rows.axes - 1] == step * dim {
                rows.dims[rows.axes - 1] *= dim;
                rows.steps[rows.axes - 1] = step;
            } else {
                rows.dims[rows.axes] = dim;
                rows.steps[rows.axes] = step;
                rows.axes += 1;
            }
        }
        rows
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes from row to row, where that is the same for all.
    pub fn uniform(&self) -> Option<usize> {
        (self.axes <= 1).then_some(self.steps[0])
    }

    /// Byte offset of row `index`, which is below [`Rows::count`].
    #[inline]
    pub fn offset(&self, index: usize) -> usize {
        debug_assert!(index < self.count);
        if self.axes <= 1 {
            return index * self.steps[0];
        }
        let (mut rest, mut offset) = (index, 0);
        for axis in (1..self.axes).rev() {
            offset += rest % self.dims[axis] * self.steps[axis];
            rest /= self.dims[axis];
        }
        offset + rest * self.steps[0]
    }
}

impl<'a> Src<'a> {
    /// View of an operand.
    pub fn of(t: &'a Tensor) -> Result<Self> {
        let memory = Memory::of(t.buffer())?;
        let offset = t.byte_offset() as usize;
        Ok(Src {
            // SAFETY: `Tensor::new` keeps views inside their buffer.
            ptr: unsafe { memory.start().as_ptr().add(offset) },
            desc: t.desc(),
            _op: PhantomData,
        })
    }

    /// View of an operand that may be absent.
    pub fn opt(t: &'a Option<Tensor>) -> Result<Option<Self>> {
        t.as_ref().map(Src::of).transpose()
    }

    /// What it views.
    pub fn desc(&self) -> &TensorDesc {
        &self.desc
    }

    /// The first cell.
    pub fn ptr(&self) -> *const u8 {
        self.ptr
    }

    /// The same cells under another description of the same or a smaller span, such as
    /// [`TensorDesc::broadcast_to`].
    pub fn with_desc(self, desc: TensorDesc) -> Self {
        debug_assert!(desc.span_bytes() <= self.desc.span_bytes() || desc.is_empty());
        Src { desc, ..self }
    }

    /// Broadcast to `shape`.
    pub fn broadcast(self, shape: &[u32]) -> Result<Self> {
        Ok(Src {
            desc: self.desc.broadcast_to(shape)?,
            ..self
        })
    }

    /// Its rows.
    pub fn rows(&self) -> Rows {
        Rows::new(&self.desc, 1)
    }

    /// Length of a row in elements.
    pub fn len(&self) -> usize {
        self.desc.dim_back(0) as usize
    }

    /// Bytes between neighbours of a row (blocks of a quantized one).
    pub fn step(&self) -> usize {
        self.desc.stride_back(0) as usize * self.desc.element.block_bytes()
    }

    /// Elements `start..start + out.len()` of the row at byte `offset`, as f32. Integers convert;
    /// for quantized rows, `start` and the length are whole blocks.
    ///
    /// # Safety
    /// The row is one of [`Src::rows`] and the elements are inside it; nobody writes them now.
    #[inline]
    pub unsafe fn load(&self, offset: usize, start: usize, out: &mut [f32]) {
        let step = self.step();
        // SAFETY: the caller vouches for the cells.
        unsafe {
            match self.desc.element {
                Element::Plain(d) => {
                    let from = self.ptr.add(offset + start * step);
                    convert::load(d, from, step, out);
                }
                Element::Quant(q) => {
                    let from = self
                        .ptr
                        .add(offset + start / q.block_len() * q.block_bytes());
                    let bytes = out.len() / q.block_len() * q.block_bytes();
                    convert::decode(q, std::slice::from_raw_parts(from, bytes), out);
                }
            }
        }
    }

    /// As [`Src::load`], without a copy where the elements are contiguous f32.
    ///
    /// # Safety
    /// As [`Src::load`]; and while the slice lives, nobody writes its cells.
    #[inline]
    pub unsafe fn load_or_borrow<'s>(
        &self,
        offset: usize,
        start: usize,
        buf: &'s mut [f32],
    ) -> &'s [f32] {
        if self.desc.plain() == Some(DType::F32) && (self.step() == 4 || buf.len() == 1) {
            let step = self.step();
            // SAFETY: the caller vouches for the cells; views are aligned to their element type.
            return unsafe {
                std::slice::from_raw_parts(
                    self.ptr.add(offset + start * step).cast::<f32>(),
                    buf.len(),
                )
            };
        }
        // SAFETY: the caller's.
        unsafe { self.load(offset, start, buf) };
        buf
    }

    /// The whole tensor as f32, in row-major order: for small operands such as a bias.
    ///
    /// # Safety
    /// Nobody writes it now.
    pub unsafe fn to_vec(self) -> Vec<f32> {
        let (rows, len) = (self.rows(), self.len());
        let mut all = vec![0.0; rows.count() * len];
        if len > 0 {
            for (i, row) in all.chunks_exact_mut(len).enumerate() {
                // SAFETY: a whole row; the caller keeps writers away.
                unsafe { self.load(rows.offset(i), 0, row) };
            }
        }
        all
    }

    /// Integers (i32, u32, i64) of the whole tensor in row-major order.
    ///
    /// # Safety
    /// Nobody writes it now.
    pub unsafe fn integers(&self) -> Vec<i64> {
        let (rows, len, step) = (self.rows(), self.len(), self.step());
        let mut all = Vec::with_capacity(rows.count() * len);
        for i in 0..rows.count() {
            for j in 0..len {
                // SAFETY: a cell of the tensor; the caller keeps writers away.
                all.push(unsafe { self.integer(rows.offset(i) + j * step) });
            }
        }
        all
    }

    /// The integer at byte `offset`; 0 for a type that is none.
    ///
    /// # Safety
    /// A cell starts there, and nobody writes it now.
    #[inline]
    pub unsafe fn integer(&self, offset: usize) -> i64 {
        // SAFETY: the caller vouches for the cell.
        unsafe {
            let at = self.ptr.add(offset);
            match self.desc.plain() {
                Some(DType::I32) => i64::from(at.cast::<i32>().read()),
                Some(DType::U32) => i64::from(at.cast::<u32>().read()),
                Some(DType::I64) => at.cast::<i64>().read(),
                Some(DType::I8) => i64::from(at.cast::<i8>().read()),
                Some(DType::U8) => i64::from(at.read()),
                _ => 0,
            }
        }
    }

    /// Are the two the same cells? The queue accepts no other overlap of an input with an output.
    pub fn is(&self, other: &Dst<'_>) -> bool {
        std::ptr::eq(self.ptr, other.ptr)
    }
}

impl<'a> Dst<'a> {
    /// View of an operand.
    pub fn of(t: &'a Tensor) -> Result<Self> {
        let src = Src::of(t)?;
        Ok(Dst {
            ptr: src.ptr.cast_mut(),
            desc: src.desc,
            _op: PhantomData,
        })
    }

    /// The same cells under another description.
    pub fn with_desc(self, desc: TensorDesc) -> Self {
        Dst { desc, ..self }
    }

    /// The same cells, to read.
    pub fn src(&self) -> Src<'a> {
        Src {
            ptr: self.ptr,
            desc: self.desc,
            _op: PhantomData,
        }
    }

    /// What it views.
    pub fn desc(&self) -> &TensorDesc {
        &self.desc
    }

    /// The first cell.
    pub fn ptr(&self) -> *mut u8 {
        self.ptr
    }

    /// Its rows.
    pub fn rows(&self) -> Rows {
        Rows::new(&self.desc, 1)
    }

    /// Length of a row in elements.
    pub fn len(&self) -> usize {
        self.desc.dim_back(0) as usize
    }

    /// Bytes between neighbours of a row (blocks of a quantized one).
    pub fn step(&self) -> usize {
        self.desc.stride_back(0) as usize * self.desc.element.block_bytes()
    }

    /// Stores elements `start..` of the row at byte `offset`, rounded to nearest even. The tensor
    /// is of a plain float type or of integers (then as [`Copy`](crate::Copy) converts).
    ///
    /// # Safety
    /// The row is one of [`Dst::rows`] and the elements are inside it; nobody else touches them
    /// now.
    #[inline]
    pub unsafe fn store(&self, offset: usize, start: usize, values: &[f32]) {
        let step = self.step();
        if let Element::Plain(d) = self.desc.element {
            // SAFETY: the caller vouches for the cells.
            unsafe { convert::store(d, self.ptr.add(offset + start * step), step, values) };
        }
    }

    /// The cells themselves where they are contiguous f32, to compute in place.
    ///
    /// # Safety
    /// As [`Dst::store`], for as long as the slice lives.
    #[inline]
    pub unsafe fn borrow<'s>(
        &self,
        offset: usize,
        start: usize,
        len: usize,
    ) -> Option<&'s mut [f32]> {
        if self.desc.plain() != Some(DType::F32) || (self.step() != 4 && len != 1) {
            return None;
        }
        let step = self.step();
        // SAFETY: the caller vouches for the cells; views are aligned to their element type.
        Some(unsafe {
            std::slice::from_raw_parts_mut(self.ptr.add(offset + start * step).cast::<f32>(), len)
        })
    }
}
