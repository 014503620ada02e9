//! [`Buffer`] and [`Tensor`]: device memory and views of it.

use crate::{
    device::{Device, RawBuffer, Usage},
    element::{DType, Element},
    error::{Error, Result},
    layout::TensorDesc,
};
use std::{fmt, sync::Arc};

/// Shared memory of a device. Clones name the same bytes.
#[derive(Clone)]
pub struct Buffer {
    raw: Arc<dyn RawBuffer>,
    device: Arc<dyn Device>,
}

impl Buffer {
    /// Allocates zeros.
    ///
    /// # Errors
    /// As [`Device::alloc`].
    pub fn new(device: &Arc<dyn Device>, bytes: u64, usage: Usage) -> Result<Self> {
        let max = device.info().limits.max_buffer;
        if bytes > max {
            return Err(Error::TooLarge {
                what: "buffer",
                asked: bytes,
                max,
            });
        }
        Ok(Self::adopt(device, device.alloc(bytes, usage)?))
    }

    /// Wraps memory that `device` made.
    pub fn adopt(device: &Arc<dyn Device>, raw: Arc<dyn RawBuffer>) -> Self {
        Buffer {
            raw,
            device: device.clone(),
        }
    }

    /// The backend's own object.
    pub fn raw(&self) -> &dyn RawBuffer {
        &*self.raw
    }

    /// The backend's own object, shared.
    pub fn raw_arc(&self) -> &Arc<dyn RawBuffer> {
        &self.raw
    }

    /// The device that owns the bytes.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.raw.len()
    }

    /// True when the size is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A number that is the same for clones and for no other live buffer.
    pub fn key(&self) -> usize {
        Arc::as_ptr(&self.raw).cast::<()>() as usize
    }

    /// True when both name the same bytes.
    pub fn is_same(&self, other: &Buffer) -> bool {
        self.key() == other.key()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Buffer({} bytes on {})",
            self.len(),
            self.device.info().id
        )
    }
}

/// A view of a buffer: element type, shape, strides and where it starts. Clones are cheap and
/// name the same numbers.
#[derive(Clone)]
pub struct Tensor {
    buffer: Buffer,
    byte_offset: u64,
    desc: TensorDesc,
}

impl Tensor {
    /// A view that starts at `byte_offset` of `buffer`.
    ///
    /// # Errors
    /// [`Error::InvalidTensor`] when it reaches beyond the buffer or is not aligned to its element
    /// type.
    pub fn new(buffer: &Buffer, byte_offset: u64, desc: TensorDesc) -> Result<Self> {
        let end = byte_offset.checked_add(desc.span_bytes());
        if end.is_none_or(|end| end > buffer.len()) {
            return Err(Error::InvalidTensor(
                format!(
                    "{desc} at byte {byte_offset} needs {} bytes, the buffer has {}",
                    desc.span_bytes(),
                    buffer.len()
                )
                .into(),
            ));
        }
        let align = desc.element.align();
        if !byte_offset.is_multiple_of(align) {
            return Err(Error::InvalidTensor(
                format!("{desc} at byte {byte_offset} is not aligned to {align} bytes").into(),
            ));
        }
        Ok(Tensor {
            buffer: buffer.clone(),
            byte_offset,
            desc,
        })
    }

    /// The memory.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Where the first cell starts.
    pub fn byte_offset(&self) -> u64 {
        self.byte_offset
    }

    /// Element type, shape and strides.
    pub fn desc(&self) -> TensorDesc {
        self.desc
    }

    /// Length of each axis, in elements.
    pub fn shape(&self) -> &[u32] {
        self.desc.shape()
    }

    /// Element type.
    pub fn element(&self) -> Element {
        self.desc.element
    }

    /// First byte and one past the last.
    pub fn byte_range(&self) -> std::ops::Range<u64> {
        self.byte_offset..self.byte_offset + self.desc.span_bytes()
    }

    /// The same cells under another shape, where no copy is needed.
    ///
    /// # Errors
    /// As [`TensorDesc::reshaped`].
    pub fn reshaped(&self, shape: &[u32]) -> Result<Self> {
        Ok(self.with_desc(self.desc.reshaped(shape)?, 0))
    }

    /// Axes in the order `order`.
    ///
    /// # Errors
    /// As [`TensorDesc::permuted`].
    pub fn permuted(&self, order: &[usize]) -> Result<Self> {
        Ok(self.with_desc(self.desc.permuted(order)?, 0))
    }

    /// Two axes swapped.
    ///
    /// # Errors
    /// As [`TensorDesc::transposed`].
    pub fn transposed(&self, a: usize, b: usize) -> Result<Self> {
        Ok(self.with_desc(self.desc.transposed(a, b)?, 0))
    }

    /// `axis` restricted to `range`.
    ///
    /// # Errors
    /// As [`TensorDesc::narrowed`].
    pub fn narrowed(&self, axis: usize, range: std::ops::Range<u32>) -> Result<Self> {
        let (desc, bytes) = self.desc.narrowed(axis, range.start, range.end)?;
        Ok(self.with_desc(desc, bytes))
    }

    /// Broadcast to `shape` (numpy's rule).
    ///
    /// # Errors
    /// As [`TensorDesc::broadcast_to`].
    pub fn broadcast_to(&self, shape: &[u32]) -> Result<Self> {
        Ok(self.with_desc(self.desc.broadcast_to(shape)?, 0))
    }

    fn with_desc(&self, desc: TensorDesc, skip: u64) -> Self {
        Tensor {
            buffer: self.buffer.clone(),
            byte_offset: self.byte_offset + skip,
            desc,
        }
    }

    /// True when the two views are the same: buffer, offset and description.
    pub fn is_same(&self, other: &Tensor) -> bool {
        self.buffer.is_same(&other.buffer)
            && self.byte_offset == other.byte_offset
            && self.desc == other.desc
    }

    /// True when the two views may share a byte. Views that interleave (columns of one matrix)
    /// are told apart when a common stride separates them.
    pub fn overlaps(&self, other: &Tensor) -> bool {
        self.buffer.is_same(&other.buffer)
            && bytes_overlap(
                (self.byte_offset, &self.desc),
                (other.byte_offset, &other.desc),
            )
    }
}

/// May two views of one buffer share a byte?
fn bytes_overlap(a: (u64, &TensorDesc), b: (u64, &TensorDesc)) -> bool {
    if a.1.is_empty() || b.1.is_empty() {
        return false;
    }
    let end = |v: (u64, &TensorDesc)| v.0 + v.1.span_bytes();
    if end(a) <= b.0 || end(b) <= a.0 {
        return false;
    }
    // For a stride s common to both: if every other step of each view is either below s in sum or
    // a multiple of s, the views live in fixed windows modulo s.
    let base = a.0.min(b.0);
    let window = |v: (u64, &TensorDesc), s: u64| -> Option<(u64, u64)> {
        let mut inner = v.1.element.block_bytes() as u64;
        for axis in 0..v.1.rank() {
            let step = v.1.stride_bytes(axis) as u64;
            let cells = if axis + 1 == v.1.rank() {
                v.1.dim(axis) as u64 / v.1.element.block_len() as u64
            } else {
                v.1.dim(axis) as u64
            };
            if cells > 1 && !step.is_multiple_of(s) {
                inner += step * (cells - 1);
            }
        }
        let start = (v.0 - base) % s;
        (start + inner <= s).then_some((start, start + inner))
    };
    let strides = |d: &TensorDesc| -> Vec<u64> {
        (0..d.rank())
            .filter(|&x| d.dim(x) > 1)
            .map(|x| d.stride_bytes(x) as u64)
            .filter(|&s| s > 0)
            .collect()
    };
    let theirs = strides(b.1);
    !strides(a.1)
        .iter()
        .filter(|s| theirs.contains(s))
        .any(|&s| match (window(a, s), window(b, s)) {
            (Some(x), Some(y)) => x.1 <= y.0 || y.1 <= x.0,
            _ => false,
        })
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at {} of {:?}",
            self.desc, self.byte_offset, self.buffer
        )
    }
}

/// Host types that map to an element type.
pub trait HostElement: bytemuck::Pod + Send + Sync {
    /// The element type.
    const DTYPE: DType;
}

macro_rules! host_elements {
    ($($t:ty => $d:ident),* $(,)?) => {
        $(impl HostElement for $t {
            const DTYPE: DType = DType::$d;
        })*
    };
}

host_elements! {
    f32 => F32, half::f16 => F16, half::bf16 => BF16, i8 => I8, u8 => U8, i32 => I32, u32 => U32, i64 => I64,
}

#[cfg(test)]
mod tests {
    use super::bytes_overlap;
    use crate::{element::DType, layout::TensorDesc};

    #[test]
    fn interleaved_views_are_told_apart() {
        let whole = TensorDesc::new(DType::F32, &[4, 2, 6]).unwrap();
        let (left, _) = whole.narrowed(2, 0, 3).unwrap();
        let (right, skip) = whole.narrowed(2, 3, 6).unwrap();
        assert!(!bytes_overlap((0, &left), (skip, &right)));
        assert!(bytes_overlap((0, &left), (skip - 4, &right)));
        assert!(!bytes_overlap((16, &left), (16 + skip, &right)));
        assert!(!bytes_overlap((16 + skip, &right), (16, &left)));
        assert!(bytes_overlap((0, &whole), (skip, &right)));
        let rows = TensorDesc::new(DType::F32, &[6]).unwrap();
        assert!(!bytes_overlap((0, &rows), (24, &rows)));
        assert!(bytes_overlap((0, &rows), (20, &rows)));
    }
}
