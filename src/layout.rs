//! Shapes, strides and tensor descriptions.

use crate::element::{DType, Element};
use std::fmt;

/// Largest rank of a tensor.
pub const MAX_RANK: usize = 6;

/// Most elements of a tensor, broadcast axes included (axes of length 0 count as 1). With it,
/// byte sizes, and sums of those of an op's operands, stay within 63 bits.
pub const MAX_ELEMENTS: u64 = 1 << 56;

/// Shape and strides of a view. Strides count *cells*: elements for plain types, blocks for
/// quantized ones. The last axis of a quantized layout is counted in elements in the shape and is
/// always contiguous.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    rank: u8,
    shape: [u32; MAX_RANK],
    strides: [i64; MAX_RANK],
}

/// Why a shape or a view is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// More axes than [`MAX_RANK`].
    #[error("rank {0} is above the limit of {MAX_RANK}")]
    Rank(usize),
    /// `strides` and `shape` differ in length.
    #[error("{shape} shape entries but {strides} strides")]
    StrideCount {
        /// Entries of the shape.
        shape: usize,
        /// Entries of the strides.
        strides: usize,
    },
    /// The last axis does not hold whole blocks.
    #[error("last axis of {len} elements is not a whole number of {element} blocks of {block}")]
    Block {
        /// Elements along the last axis.
        len: u32,
        /// Block length.
        block: usize,
        /// The element type.
        element: Element,
    },
    /// The last axis of a quantized view is not contiguous.
    #[error("the last axis of a {0} view must stay the last and contiguous: it holds blocks")]
    QuantStride(Element),
    /// A negative stride.
    #[error("axis {axis} has negative stride {stride}; only strides >= 0 are supported")]
    Negative {
        /// The axis.
        axis: usize,
        /// Its stride in cells.
        stride: i64,
    },
    /// An axis index beyond the rank.
    #[error("axis {axis} of a tensor of rank {rank}")]
    Axis {
        /// The axis asked for.
        axis: usize,
        /// The rank.
        rank: usize,
    },
    /// A slice beyond the end of an axis.
    #[error("range {start}..{end} exceeds axis {axis} of length {len}")]
    Range {
        /// The axis.
        axis: usize,
        /// First index.
        start: u32,
        /// One past the last index.
        end: u32,
        /// Length of the axis.
        len: u32,
    },
    /// A reshape that changes the element count or needs a copy.
    #[error("{from:?} cannot be viewed as {to:?} without a copy")]
    Reshape {
        /// Present shape.
        from: Vec<u32>,
        /// Shape asked for.
        to: Vec<u32>,
    },
    /// More than [`MAX_ELEMENTS`] elements, or byte distances beyond 2^63.
    #[error("the tensor has more than 2^56 elements or its byte size overflows 63 bits")]
    Overflow,
}

impl Layout {
    fn from_parts(shape: &[u32], strides: &[i64]) -> Result<Self, LayoutError> {
        if shape.len() > MAX_RANK {
            return Err(LayoutError::Rank(shape.len()));
        }
        if shape.len() != strides.len() {
            return Err(LayoutError::StrideCount {
                shape: shape.len(),
                strides: strides.len(),
            });
        }
        let mut l = Layout {
            rank: shape.len() as u8,
            shape: [1; MAX_RANK],
            strides: [0; MAX_RANK],
        };
        l.shape[..shape.len()].copy_from_slice(shape);
        l.strides[..strides.len()].copy_from_slice(strides);
        Ok(l)
    }

    /// Number of axes.
    pub const fn rank(&self) -> usize {
        self.rank as usize
    }

    /// Length of each axis, in elements.
    pub fn shape(&self) -> &[u32] {
        &self.shape[..self.rank()]
    }

    /// Stride of each axis, in cells (elements, or blocks for quantized tensors).
    pub fn strides(&self) -> &[i64] {
        &self.strides[..self.rank()]
    }
}

// Axes beyond the rank are the same in every layout.
impl std::hash::Hash for Layout {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.shape().hash(state);
        self.strides().hash(state);
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{:?}", self.shape(), self.strides())
    }
}

/// Element type and layout of a tensor: everything but where its bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorDesc {
    /// What one cell holds.
    pub element: Element,
    layout: Layout,
}

impl TensorDesc {
    /// Row-major contiguous tensor.
    ///
    /// # Errors
    /// [`LayoutError`] when the rank is above [`MAX_RANK`], when the last axis of a quantized
    /// tensor does not hold whole blocks, or when the size overflows.
    pub fn new(element: impl Into<Element>, shape: &[u32]) -> Result<Self, LayoutError> {
        let element = element.into();
        let mut strides = [0i64; MAX_RANK];
        if shape.len() > MAX_RANK {
            return Err(LayoutError::Rank(shape.len()));
        }
        let mut step: i64 = 1;
        for (axis, &len) in shape.iter().enumerate().rev() {
            strides[axis] = step;
            let cells = if axis + 1 == shape.len() {
                (len as usize).div_ceil(element.block_len()) as i64
            } else {
                len as i64
            };
            step = step
                .checked_mul(cells.max(1))
                .ok_or(LayoutError::Overflow)?;
        }
        Self::strided(element, shape, &strides[..shape.len()])
    }

    /// Tensor with explicit strides in cells (elements, or blocks for quantized tensors).
    ///
    /// # Errors
    /// [`LayoutError`] as for [`TensorDesc::new`], and for negative strides or a quantized last
    /// axis that is not contiguous.
    pub fn strided(
        element: impl Into<Element>,
        shape: &[u32],
        strides: &[i64],
    ) -> Result<Self, LayoutError> {
        let element = element.into();
        let layout = Layout::from_parts(shape, strides)?;
        let mut elements: u64 = 1;
        for (axis, (&stride, &len)) in strides.iter().zip(shape).enumerate() {
            if stride < 0 {
                return Err(LayoutError::Negative { axis, stride });
            }
            elements = elements.saturating_mul(u64::from(len.max(1)));
            let step = stride.checked_mul(element.block_bytes() as i64);
            if elements > MAX_ELEMENTS || step.is_none() {
                return Err(LayoutError::Overflow);
            }
        }
        let desc = TensorDesc { element, layout };
        if let Element::Quant(q) = element {
            let Some(&last) = shape.last() else {
                return Err(LayoutError::Block {
                    len: 1,
                    block: q.block_len(),
                    element,
                });
            };
            if !(last as usize).is_multiple_of(q.block_len()) {
                return Err(LayoutError::Block {
                    len: last,
                    block: q.block_len(),
                    element,
                });
            }
            if last as usize > q.block_len() && strides[shape.len() - 1] != 1 {
                return Err(LayoutError::QuantStride(element));
            }
        }
        desc.checked_span().ok_or(LayoutError::Overflow)?;
        Ok(desc)
    }

    /// Number of axes.
    pub const fn rank(&self) -> usize {
        self.layout.rank()
    }

    /// Length of each axis, in elements.
    pub fn shape(&self) -> &[u32] {
        self.layout.shape()
    }

    /// Stride of each axis, in cells (elements, or blocks for quantized tensors).
    pub fn strides(&self) -> &[i64] {
        self.layout.strides()
    }

    /// Length of `axis`; 1 beyond the rank.
    pub fn dim(&self, axis: usize) -> u32 {
        self.shape().get(axis).copied().unwrap_or(1)
    }

    /// Length of the axis `back` places from the last (0 is the last); 1 beyond the rank.
    pub fn dim_back(&self, back: usize) -> u32 {
        match self.rank().checked_sub(back + 1) {
            Some(axis) => self.layout.shape[axis],
            None => 1,
        }
    }

    /// Stride in cells of the axis `back` places from the last; 0 beyond the rank.
    pub fn stride_back(&self, back: usize) -> i64 {
        match self.rank().checked_sub(back + 1) {
            Some(axis) => self.layout.strides[axis],
            None => 0,
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape().iter().map(|&d| d as u64).product()
    }

    /// True when an axis has length 0.
    pub fn is_empty(&self) -> bool {
        self.shape().contains(&0)
    }

    /// The plain type, if it is one.
    pub const fn plain(&self) -> Option<DType> {
        self.element.plain()
    }

    /// Axis length in cells.
    fn cells(&self, axis: usize) -> u64 {
        let len = self.layout.shape[axis] as u64;
        if axis + 1 == self.rank() {
            len / self.element.block_len() as u64
        } else {
            len
        }
    }

    fn checked_span(&self) -> Option<u64> {
        let mut last: u64 = 0;
        if self.is_empty() {
            return Some(0);
        }
        for axis in 0..self.rank() {
            let step = self.layout.strides[axis] as u64;
            last = last.checked_add(step.checked_mul(self.cells(axis).saturating_sub(1))?)?;
        }
        let bytes = last.checked_add(1)?;
        let bytes = bytes.checked_mul(self.element.block_bytes() as u64)?;
        (bytes <= i64::MAX as u64).then_some(bytes)
    }

    /// Bytes from the first to the last cell, both included; 0 for an empty tensor. This is how
    /// much of its buffer a view needs, from its offset on.
    pub fn span_bytes(&self) -> u64 {
        // `strided` refuses what would overflow.
        self.checked_span().unwrap_or(u64::MAX)
    }

    /// Bytes of the numbers themselves, each counted once (a broadcast view reads fewer from
    /// memory).
    pub fn data_bytes(&self) -> u64 {
        let mut cells: u64 = 1;
        for axis in 0..self.rank() {
            if self.layout.strides[axis] != 0 || self.layout.shape[axis] == 0 {
                cells = cells.saturating_mul(self.cells(axis));
            }
        }
        cells.saturating_mul(self.element.block_bytes() as u64)
    }

    /// True when the cells lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut step: i64 = 1;
        for axis in (0..self.rank()).rev() {
            if self.layout.shape[axis] != 1 && self.layout.strides[axis] != step {
                return false;
            }
            step *= self.cells(axis).max(1) as i64;
        }
        true
    }

    /// True when the last axis has stride 1 (or length at most one cell).
    pub fn is_row_contiguous(&self) -> bool {
        self.rank() == 0 || self.cells(self.rank() - 1) <= 1 || self.stride_back(0) == 1
    }

    /// Same shape, contiguous, of another element type.
    ///
    /// # Errors
    /// [`LayoutError::Block`] when the last axis does not hold whole blocks of `element`.
    pub fn with_element(&self, element: impl Into<Element>) -> Result<Self, LayoutError> {
        Self::new(element, self.shape())
    }

    /// Same shape and element type, contiguous.
    pub fn contiguous(&self) -> Self {
        // The shape was accepted before, and gaps only shrink.
        Self::new(self.element, self.shape()).unwrap_or(*self)
    }

    /// Byte distance of one step along `axis`.
    pub fn stride_bytes(&self, axis: usize) -> i64 {
        self.layout.strides[axis] * self.element.block_bytes() as i64
    }

    /// Swaps two axes. A quantized tensor keeps its last axis.
    ///
    /// # Errors
    /// [`LayoutError`] for an axis beyond the rank or the block axis of a quantized tensor.
    pub fn transposed(&self, a: usize, b: usize) -> Result<Self, LayoutError> {
        let rank = self.rank();
        for axis in [a, b] {
            if axis >= rank {
                return Err(LayoutError::Axis { axis, rank });
            }
        }
        let (mut shape, mut strides) = (self.layout.shape, self.layout.strides);
        if a != b && self.element.block_len() > 1 && (a + 1 == rank || b + 1 == rank) {
            return Err(LayoutError::QuantStride(self.element));
        }
        shape.swap(a, b);
        strides.swap(a, b);
        Self::strided(self.element, &shape[..rank], &strides[..rank])
    }

    /// Axes in the order `order`.
    ///
    /// # Errors
    /// [`LayoutError`] when `order` is not a permutation of the axes, or moves the last axis of
    /// a quantized tensor.
    pub fn permuted(&self, order: &[usize]) -> Result<Self, LayoutError> {
        let rank = self.rank();
        let mut seen = [false; MAX_RANK];
        if order.len() != rank {
            return Err(LayoutError::StrideCount {
                shape: rank,
                strides: order.len(),
            });
        }
        let (mut shape, mut strides) = ([0; MAX_RANK], [0; MAX_RANK]);
        for (to, &from) in order.iter().enumerate() {
            if from >= rank || seen[from] {
                return Err(LayoutError::Axis { axis: from, rank });
            }
            seen[from] = true;
            if self.element.block_len() > 1 && to != from && from + 1 == rank {
                return Err(LayoutError::QuantStride(self.element));
            }
            shape[to] = self.layout.shape[from];
            strides[to] = self.layout.strides[from];
        }
        Self::strided(self.element, &shape[..rank], &strides[..rank])
    }

    /// Restricts `axis` to `start..end`; returns the view and its byte distance from the first
    /// cell of this one.
    ///
    /// # Errors
    /// [`LayoutError`] for an axis or range outside the tensor or a range that splits a block.
    pub fn narrowed(&self, axis: usize, start: u32, end: u32) -> Result<(Self, u64), LayoutError> {
        let rank = self.rank();
        if axis >= rank {
            return Err(LayoutError::Axis { axis, rank });
        }
        let len = self.layout.shape[axis];
        if start > end || end > len {
            return Err(LayoutError::Range {
                axis,
                start,
                end,
                len,
            });
        }
        let block = if axis + 1 == rank {
            self.element.block_len() as u32
        } else {
            1
        };
        if !start.is_multiple_of(block) {
            return Err(LayoutError::Block {
                len: start,
                block: block as usize,
                element: self.element,
            });
        }
        let mut shape = self.layout.shape;
        shape[axis] = end - start;
        let view = Self::strided(self.element, &shape[..rank], &self.layout.strides[..rank])?;
        // An empty view starts anywhere; 0 keeps it inside the buffer.
        let offset = if view.is_empty() {
            0
        } else {
            u64::from(start / block) * self.stride_bytes(axis) as u64
        };
        Ok((view, offset))
    }

    /// The same cells under another shape, where no copy is needed.
    ///
    /// # Errors
    /// [`LayoutError::Reshape`] when the element counts differ or the strides do not allow it.
    pub fn reshaped(&self, shape: &[u32]) -> Result<Self, LayoutError> {
        let refuse = || LayoutError::Reshape {
            from: self.shape().to_vec(),
            to: shape.to_vec(),
        };
        if shape.len() > MAX_RANK {
            return Err(LayoutError::Rank(shape.len()));
        }
        let count = shape
            .iter()
            .try_fold(1u64, |n, &d| n.checked_mul(u64::from(d)));
        let count = if shape.contains(&0) { Some(0) } else { count };
        if count != Some(self.elements()) {
            return Err(refuse());
        }
        if self.is_contiguous() || self.is_empty() {
            return Self::new(self.element, shape).map_err(|_| refuse());
        }
        // Group the old axes into runs that are contiguous in themselves, then cut each run anew.
        let old: Vec<(u64, i64)> = (0..self.rank())
            .filter(|&a| self.layout.shape[a] != 1)
            .map(|a| (self.layout.shape[a] as u64, self.layout.strides[a]))
            .collect();
        let block = self.element.block_len() as u64;
        let mut strides = vec![0i64; shape.len()];
        let (mut i, mut j) = (old.len(), shape.len());
        while i > 0 {
            let mut have = old[i - 1].0;
            let unit = old[i - 1].1;
            let in_cells =
                |elements: u64, last: bool| if last { elements / block } else { elements };
            let last_run = i == old.len();
            i -= 1;
            let mut want: u64 = 1;
            let stop = j;
            while want != have {
                if want < have {
                    if j == 0 {
                        return Err(refuse());
                    }
                    j -= 1;
                    want *= shape[j] as u64;
                } else {
                    let next = unit.checked_mul(in_cells(have, last_run) as i64);
                    if i == 0 || next != Some(old[i - 1].1) {
                        return Err(refuse());
                    }
                    i -= 1;
                    have *= old[i].0;
                }
            }
            let mut step = unit;
            for axis in (j..stop).rev() {
                strides[axis] = step;
                let cells = if last_run && axis + 1 == shape.len() {
                    shape[axis] as u64 / block
                } else {
                    shape[axis] as u64
                };
                step = step.saturating_mul(cells as i64);
            }
        }
        Self::strided(self.element, shape, &strides).map_err(|_| refuse())
    }

    /// The view broadcast to `shape` by numpy's rule: axes align at the last one and a length of
    /// 1 repeats (stride 0).
    ///
    /// # Errors
    /// [`LayoutError::Reshape`] when an axis is neither equal nor 1.
    pub fn broadcast_to(&self, shape: &[u32]) -> Result<Self, LayoutError> {
        let refuse = || LayoutError::Reshape {
            from: self.shape().to_vec(),
            to: shape.to_vec(),
        };
        if shape.len() > MAX_RANK {
            return Err(LayoutError::Rank(shape.len()));
        }
        let lead = shape.len().checked_sub(self.rank()).ok_or_else(refuse)?;
        let mut strides = [0i64; MAX_RANK];
        for (axis, &want) in shape.iter().enumerate().skip(lead) {
            let have = self.layout.shape[axis - lead];
            strides[axis] = match have {
                h if h == want => self.layout.strides[axis - lead],
                1 => 0,
                _ => return Err(refuse()),
            };
        }
        Self::strided(self.element, shape, &strides[..shape.len()])
    }

    /// True when no two index tuples name the same cell, as an output needs.
    pub fn is_injective(&self) -> bool {
        if self.is_empty() {
            return true;
        }
        let mut axes: Vec<(i64, u64)> = (0..self.rank())
            .map(|a| (self.layout.strides[a], self.cells(a)))
            .filter(|&(_, n)| n > 1)
            .collect();
        axes.sort_unstable();
        let mut reach: i64 = 0;
        for (stride, n) in axes {
            if stride <= reach {
                return false;
            }
            reach += stride * (n as i64 - 1);
        }
        true
    }
}

impl fmt::Debug for TensorDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for TensorDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.element, self.shape())?;
        if !self.is_contiguous() {
            write!(f, "@{:?}", self.strides())?;
        }
        Ok(())
    }
}

#[cfg(feature = "serde")]
mod serial;

#[cfg(test)]
mod tests;
