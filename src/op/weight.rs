//! [`Weight`]: how the matrix of a matmul is stored.

use super::{Arg, check::Checker};
use crate::{element::DType, error::Result, layout::TensorDesc};

/// Names a prepacked layout: a hash of backend, kernel layout, format and version. A pack is
/// accepted only by the kernels that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PackTag(pub u64);

impl PackTag {
    /// FNV-1a of `backend`, `layout` and `version`.
    pub const fn new(backend: &str, layout: &str, version: u32) -> Self {
        let mut h: u64 = 0xcbf2_9ce4_8422_2325;
        let parts: [&[u8]; 3] = [
            backend.as_bytes(),
            layout.as_bytes(),
            &version.to_le_bytes(),
        ];
        let mut p = 0;
        while p < parts.len() {
            let mut i = 0;
            while i < parts[p].len() {
                h = (h ^ parts[p][i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
                i += 1;
            }
            h = (h ^ 0xff).wrapping_mul(0x0000_0100_0000_01b3);
            p += 1;
        }
        PackTag(h)
    }
}

/// How a weight matrix is stored.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Weight<T> {
    /// `[.., N, K]`, plain or quantized along K: the layout of every open checkpoint.
    Rows(T),
    /// `[.., K, N]`, plain.
    Transposed(T),
    /// Rows rearranged by [`Device::prepack`](crate::Device::prepack).
    Packed {
        /// The bytes, as u8 `[len]`.
        data: T,
        /// The layout that the device chose.
        tag: PackTag,
        /// The `[.., N, K]` weight that was packed.
        logical: TensorDesc,
    },
}

impl<T: Clone> From<&T> for Weight<T> {
    fn from(t: &T) -> Self {
        Weight::Rows(t.clone())
    }
}

impl<T> Weight<T> {
    /// The same weight over operands of another kind.
    ///
    /// # Errors
    /// The first error that `f` returns.
    pub fn try_map<'a, U, E>(
        &'a self,
        name: &'static str,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Weight<U>, E> {
        Ok(match self {
            Weight::Rows(t) => Weight::Rows(f(Arg::input(name), t)?),
            Weight::Transposed(t) => Weight::Transposed(f(Arg::input(name), t)?),
            Weight::Packed { data, tag, logical } => Weight::Packed {
                data: f(Arg::input(name), data)?,
                tag: *tag,
                logical: *logical,
            },
        })
    }

    /// True for [`Weight::Transposed`].
    pub fn is_transposed(&self) -> bool {
        matches!(self, Weight::Transposed(_))
    }

    /// The operand that holds the bytes.
    pub fn tensor(&self) -> &T {
        match self {
            Weight::Rows(t) | Weight::Transposed(t) => t,
            Weight::Packed { data, .. } => data,
        }
    }
}

impl Weight<TensorDesc> {
    /// Description of the numbers: the operand itself, or what was packed.
    pub fn logical(&self) -> &TensorDesc {
        match self {
            Weight::Rows(t) | Weight::Transposed(t) => t,
            Weight::Packed { logical, .. } => logical,
        }
    }

    /// N: rows of the matrix.
    pub fn n(&self) -> u32 {
        self.logical()
            .dim_back(if self.is_transposed() { 0 } else { 1 })
    }

    /// K: columns of the matrix, the axis that is summed over.
    pub fn k(&self) -> u32 {
        self.logical()
            .dim_back(if self.is_transposed() { 1 } else { 0 })
    }

    /// Axes before the matrix.
    pub fn batch(&self) -> &[u32] {
        let shape = self.logical().shape();
        &shape[..shape.len().saturating_sub(2)]
    }

    pub(super) fn check(&self, c: Checker, name: &'static str) -> Result<()> {
        match self {
            Weight::Rows(_) => Ok(()),
            Weight::Transposed(t) => c.require(t.plain().is_some(), name, || {
                format!("is {t}; quantized weights are [N, K] rows, never transposed")
            }),
            Weight::Packed { data, .. } => {
                let ok =
                    data.plain() == Some(DType::U8) && data.rank() == 1 && data.is_contiguous();
                c.require(ok, name, || {
                    format!("prepacked data is {data}; expected contiguous u8 of rank 1")
                })
            }
        }
    }
}
