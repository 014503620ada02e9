//! Element types: what one number in a tensor is.

use crate::quant::QuantFormat;
use std::{fmt, str::FromStr};

/// Plain (one number, one fixed-size cell) element types.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Upper half of a binary32.
    BF16,
    /// OCP E4M3 (finite only; 0x7F and 0xFF are NaN).
    F8E4M3,
    /// OCP E5M2.
    F8E5M2,
    /// Signed byte.
    I8,
    /// Unsigned byte; also the boolean mask type (0 is false).
    U8,
    /// Signed 32-bit integer: ids, positions, slots.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 64-bit integer.
    I64,
}

impl DType {
    /// Every plain type.
    pub const ALL: &'static [DType] = &[
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F8E4M3,
        DType::F8E5M2,
        DType::I8,
        DType::U8,
        DType::I32,
        DType::U32,
        DType::I64,
    ];

    /// Size of one element in bytes.
    pub const fn size(self) -> usize {
        match self {
            DType::I64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::F8E4M3 | DType::F8E5M2 | DType::I8 | DType::U8 => 1,
        }
    }

    /// Name as it appears in captures and kernel ids, e.g. `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F8E4M3 => "f8e4m3",
            DType::F8E5M2 => "f8e5m2",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::I64 => "i64",
        }
    }

    /// True for the floating-point types.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 | DType::F8E5M2
        )
    }

    /// True for the types that index rows, positions and slots: i32, u32 and i64.
    pub const fn is_index(self) -> bool {
        matches!(self, DType::I32 | DType::U32 | DType::I64)
    }

    /// Unit roundoff: half the distance from 1 to the next representable number; 0 for integers.
    pub const fn epsilon(self) -> f64 {
        match self {
            DType::F32 => 1.0 / (1u64 << 24) as f64,
            DType::F16 => 1.0 / (1u64 << 11) as f64,
            DType::BF16 => 1.0 / (1u64 << 8) as f64,
            DType::F8E4M3 => 1.0 / 16.0,
            DType::F8E5M2 => 1.0 / 8.0,
            _ => 0.0,
        }
    }
}

/// What one cell of a tensor holds: a plain number or a block of quantized weights.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element {
    /// One number per cell.
    Plain(DType),
    /// Blocks of [`QuantFormat::block_len`] numbers along the last axis.
    Quant(QuantFormat),
}

impl Element {
    /// Elements per block; 1 for plain types.
    pub const fn block_len(self) -> usize {
        match self {
            Element::Plain(_) => 1,
            Element::Quant(q) => q.block_len(),
        }
    }

    /// Bytes per block (per element for plain types).
    pub const fn block_bytes(self) -> usize {
        match self {
            Element::Plain(d) => d.size(),
            Element::Quant(q) => q.block_bytes(),
        }
    }

    /// Name in lower case: `f32`, `q4_k`.
    pub fn name(self) -> String {
        match self {
            Element::Plain(d) => d.name().to_owned(),
            Element::Quant(q) => q.name().to_ascii_lowercase(),
        }
    }

    /// The plain type, if it is one.
    pub const fn plain(self) -> Option<DType> {
        match self {
            Element::Plain(d) => Some(d),
            Element::Quant(_) => None,
        }
    }

    /// The quantized format, if it is one.
    pub const fn quant(self) -> Option<QuantFormat> {
        match self {
            Element::Quant(q) => Some(q),
            Element::Plain(_) => None,
        }
    }

    /// True when the numbers are floating-point: a float type or any quantized weights.
    pub const fn is_real(self) -> bool {
        match self {
            Element::Plain(d) => d.is_float(),
            Element::Quant(_) => true,
        }
    }

    /// Strictest alignment in bytes that a view of this element needs from its byte offset:
    /// the element size for plain types, 2 for quantized blocks (1 where the block has odd size).
    pub const fn align(self) -> u64 {
        match self {
            Element::Plain(d) => d.size() as u64,
            Element::Quant(q) => {
                if q.block_bytes() % 2 == 0 {
                    2
                } else {
                    1
                }
            }
        }
    }
}

impl From<DType> for Element {
    fn from(d: DType) -> Self {
        Element::Plain(d)
    }
}

impl From<QuantFormat> for Element {
    fn from(q: QuantFormat) -> Self {
        Element::Quant(q)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// A name that is no element type; the message lists what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown element type {0:?}: expected f32, f16, bf16, f8e4m3, f8e5m2, i8, u8, i32, u32, i64 or a GGUF format such as q4_k"
)]
pub struct UnknownElement(pub String);

impl FromStr for Element {
    type Err = UnknownElement;
    fn from_str(s: &str) -> Result<Self, UnknownElement> {
        let plain = DType::ALL.iter().find(|d| d.name().eq_ignore_ascii_case(s));
        match plain {
            Some(d) => Ok(Element::Plain(*d)),
            None => s
                .parse()
                .map(Element::Quant)
                .map_err(|_| UnknownElement(s.to_owned())),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Element {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.name())
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Element {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = <std::borrow::Cow<'_, str>>::deserialize(d)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}
