//! Tensors of a [`Queue`]: allocation, upload, download.

use super::Queue;
use crate::{
    device::{External, Usage},
    element::{DType, Element},
    error::{Error, Result},
    layout::TensorDesc,
    op::Weight,
    tensor::{Buffer, HostElement, Tensor},
};

impl Queue {
    /// A contiguous tensor of zeros.
    ///
    /// # Errors
    /// [`Error::InvalidTensor`], [`Error::OutOfMemory`] or [`Error::TooLarge`].
    pub fn zeros(&self, element: impl Into<Element>, shape: &[u32]) -> Result<Tensor> {
        self.alloc(TensorDesc::new(element, shape)?, Usage::Activations)
    }

    /// A tensor of zeros with a buffer of its own.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::TooLarge`].
    pub fn alloc(&self, desc: TensorDesc, usage: Usage) -> Result<Tensor> {
        let buffer = Buffer::new(&self.device, desc.span_bytes(), usage)?;
        Tensor::new(&buffer, 0, desc)
    }

    /// A new tensor that holds `data`.
    ///
    /// # Errors
    /// As [`Queue::zeros`]; [`Error::InvalidTensor`] when `data` does not fill `shape`.
    pub fn upload<T: HostElement>(&mut self, data: &[T], shape: &[u32]) -> Result<Tensor> {
        self.upload_bytes(T::DTYPE, shape, bytemuck::cast_slice(data))
    }

    /// A new contiguous tensor from its bytes: any element type, quantized ones included.
    ///
    /// # Errors
    /// As [`Queue::upload`].
    pub fn upload_bytes(
        &mut self,
        element: impl Into<Element>,
        shape: &[u32],
        bytes: &[u8],
    ) -> Result<Tensor> {
        let t = self.alloc(TensorDesc::new(element, shape)?, Usage::Weights)?;
        self.write_bytes(&t, bytes)?;
        Ok(t)
    }

    /// Uploads a weight `[.., N, K]`, in the device's own layout where it has one.
    ///
    /// # Errors
    /// As [`Queue::upload`].
    pub fn upload_weight(
        &mut self,
        element: impl Into<Element>,
        shape: &[u32],
        bytes: &[u8],
    ) -> Result<Weight<Tensor>> {
        let logical = TensorDesc::new(element, shape)?;
        expect_len(&logical, bytes.len())?;
        Ok(match self.device.prepack(&logical, bytes)? {
            Some(packed) => {
                let bytes = packed.bytes().len() as u64;
                let len = u32::try_from(bytes).map_err(|_| Error::TooLarge {
                    what: "prepacked weight",
                    asked: bytes,
                    max: u64::from(u32::MAX),
                })?;
                let caps = self.device.info().caps;
                let data = if caps.unified_memory && caps.import {
                    let keep = packed.data.clone();
                    let raw = self.device.import(External::Host { keep })?;
                    let buffer = Buffer::adopt(&self.device, raw);
                    Tensor::new(&buffer, 0, TensorDesc::new(DType::U8, &[len])?)?
                } else {
                    self.upload_bytes(DType::U8, &[len], packed.bytes())?
                };
                Weight::Packed {
                    data,
                    tag: packed.tag,
                    logical,
                }
            }
            None => Weight::Rows(self.upload_bytes(logical.element, shape, bytes)?),
        })
    }

    /// Replaces the numbers of a contiguous tensor.
    ///
    /// # Errors
    /// [`Error::InvalidTensor`] for another element type, length or a strided view.
    pub fn write<T: HostElement>(&mut self, t: &Tensor, data: &[T]) -> Result<()> {
        expect_dtype::<T>(t)?;
        self.write_bytes(t, bytemuck::cast_slice(data))
    }

    /// Replaces the bytes of a contiguous tensor.
    ///
    /// # Errors
    /// [`Error::InvalidTensor`] for another length or a strided view.
    pub fn write_bytes(&mut self, t: &Tensor, bytes: &[u8]) -> Result<()> {
        self.own("write", t)?;
        if !t.desc().is_contiguous() {
            return Err(Error::InvalidTensor(
                format!("{t:?} is strided; write to a contiguous tensor and Copy").into(),
            ));
        }
        expect_len(&t.desc(), bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.stream.write(t.buffer(), t.byte_offset(), bytes)
    }

    /// The numbers of a tensor in row-major order, after all earlier work.
    ///
    /// # Errors
    /// [`Error::InvalidTensor`] for another element type; errors of earlier work.
    pub async fn read<T: HostElement>(&mut self, t: &Tensor) -> Result<Vec<T>> {
        expect_dtype::<T>(t)?;
        let bytes = self.read_bytes(t).await?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    /// The cells of a tensor in row-major order, after all earlier work.
    ///
    /// # Errors
    /// Errors of earlier work.
    pub async fn read_bytes(&mut self, t: &Tensor) -> Result<Vec<u8>> {
        self.own("read", t)?;
        if t.desc().is_empty() {
            return Ok(Vec::new());
        }
        let span = self.stream.read(t.buffer(), t.byte_range()).await?;
        gather(&t.desc(), span)
    }

    /// Blocking [`Queue::read`].
    ///
    /// # Errors
    /// As [`Queue::read`]; [`Error::WouldBlock`] where blocking is impossible.
    pub fn download<T: HostElement>(&mut self, t: &Tensor) -> Result<Vec<T>> {
        self.can_block()?;
        pollster::block_on(self.read(t))
    }

    /// Blocking [`Queue::read_bytes`].
    ///
    /// # Errors
    /// As [`Queue::read_bytes`]; [`Error::WouldBlock`] where blocking is impossible.
    pub fn download_bytes(&mut self, t: &Tensor) -> Result<Vec<u8>> {
        self.can_block()?;
        pollster::block_on(self.read_bytes(t))
    }
}

fn expect_dtype<T: HostElement>(t: &Tensor) -> Result<()> {
    if t.element() == Element::Plain(T::DTYPE) {
        Ok(())
    } else {
        Err(Error::InvalidTensor(
            format!("the tensor is {}, the host slice is {}", t.desc(), T::DTYPE).into(),
        ))
    }
}

fn expect_len(desc: &TensorDesc, len: usize) -> Result<()> {
    let want = desc.data_bytes();
    if want == len as u64 {
        Ok(())
    } else {
        Err(Error::InvalidTensor(
            format!("{desc} takes {want} bytes, the host slice has {len}").into(),
        ))
    }
}

/// Cells of a strided span in row-major order.
fn gather(desc: &TensorDesc, span: Vec<u8>) -> Result<Vec<u8>> {
    if desc.is_contiguous() {
        return Ok(span);
    }
    let cell = desc.element.block_bytes();
    let rank = desc.rank();
    let mut shape: Vec<u64> = desc.shape().iter().map(|&d| u64::from(d)).collect();
    if let Some(last) = shape.last_mut() {
        *last /= desc.element.block_len() as u64;
    }
    let count: u64 = shape.iter().product();
    // A broadcast view may stand for more numbers than any memory holds.
    let asked = count * cell as u64;
    let mut out = Vec::new();
    usize::try_from(asked)
        .ok()
        .and_then(|n| out.try_reserve_exact(n).ok())
        .ok_or(Error::OutOfMemory { asked, free: None })?;
    let mut index = vec![0u64; rank];
    for _ in 0..count {
        let at: usize = (0..rank)
            .map(|a| index[a] as usize * desc.strides()[a] as usize)
            .sum::<usize>()
            * cell;
        out.extend_from_slice(&span[at..at + cell]);
        for a in (0..rank).rev() {
            index[a] += 1;
            if index[a] < shape[a] {
                break;
            }
            index[a] = 0;
        }
    }
    Ok(out)
}
