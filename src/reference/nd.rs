//! Decoded arrays.

use super::{Array, numbers::decode_plain};
use crate::{element::Element, layout::TensorDesc};

/// Numbers in row-major order.
#[derive(Clone, Debug)]
pub(crate) struct Nd {
    pub shape: Vec<usize>,
    pub v: Vec<f64>,
}

/// Byte offset of every cell from the first, in row-major order (cells are elements, or blocks of
/// a quantized tensor).
pub(crate) fn cell_offsets(desc: &TensorDesc) -> Vec<usize> {
    let rank = desc.rank();
    let mut shape: Vec<usize> = desc.shape().iter().map(|&d| d as usize).collect();
    if let Some(last) = shape.last_mut() {
        *last /= desc.element.block_len();
    }
    let steps: Vec<usize> = (0..rank).map(|a| desc.stride_bytes(a) as usize).collect();
    let count: usize = shape.iter().product();
    let mut out = Vec::with_capacity(count);
    let mut index = vec![0usize; rank];
    let mut at = 0usize;
    for _ in 0..count {
        out.push(at);
        for a in (0..rank).rev() {
            index[a] += 1;
            at += steps[a];
            if index[a] < shape[a] {
                break;
            }
            at -= steps[a] * shape[a];
            index[a] = 0;
        }
    }
    out
}

impl Nd {
    /// The numbers of a view.
    pub fn of(a: &Array) -> Nd {
        let cells = cell_offsets(&a.desc);
        let bytes = &a.bytes[(a.byte_offset as usize).min(a.bytes.len())..];
        let mut v = Vec::with_capacity(a.desc.elements() as usize);
        match a.desc.element {
            Element::Plain(d) => {
                let size = d.size();
                v.extend(cells.iter().map(|&c| decode_plain(d, &bytes[c..c + size])));
            }
            Element::Quant(q) => {
                let mut block = vec![0f32; q.block_len()];
                for c in cells {
                    q.decode_block(&bytes[c..c + q.block_bytes()], &mut block);
                    v.extend(block.iter().map(|&x| f64::from(x)));
                }
            }
        }
        Nd {
            shape: a.desc.shape().iter().map(|&d| d as usize).collect(),
            v,
        }
    }

    /// The numbers of a view that broadcasts to `shape` (the shape rules have accepted it).
    pub fn broadcast(a: &Array, shape: &[u32]) -> Nd {
        match a.desc.broadcast_to(shape) {
            Ok(desc) => Nd::of(&Array { desc, ..a.clone() }),
            Err(_) => Nd::of(a),
        }
    }

    /// As indices.
    pub fn ints(&self) -> Vec<i64> {
        self.v.iter().map(|&x| x as i64).collect()
    }

    /// Length of the last axis.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}
