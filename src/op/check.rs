//! The words in which shape rules are written.

use super::OpKind;
use crate::{
    element::{DType, Element},
    error::{Error, Result},
    layout::TensorDesc,
};

/// Product of work counts, at most `u64::MAX`.
pub fn product(factors: impl IntoIterator<Item = u64>) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}

/// Rule checker of one op; every failure names the op and the operand.
#[derive(Clone, Copy, Debug)]
pub struct Checker(pub OpKind);

impl Checker {
    /// The error of a rule that does not hold.
    pub fn fail(self, arg: &'static str, why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        Error::invalid(self.0, arg, why)
    }

    /// `holds`, or an error.
    pub fn require(
        self,
        holds: bool,
        arg: &'static str,
        why: impl FnOnce() -> String,
    ) -> Result<()> {
        if holds {
            Ok(())
        } else {
            Err(self.fail(arg, why()))
        }
    }

    /// f32, f16 or bf16.
    pub fn float(self, arg: &'static str, d: &TensorDesc) -> Result<()> {
        let ok = matches!(
            d.element,
            Element::Plain(DType::F32 | DType::F16 | DType::BF16)
        );
        self.require(ok, arg, || format!("is {d}; expected f32, f16 or bf16"))
    }

    /// Any float type or quantized weights.
    pub fn real(self, arg: &'static str, d: &TensorDesc) -> Result<()> {
        self.require(d.element.is_real(), arg, || {
            format!("is {d}; expected floats or quantized weights")
        })
    }

    /// i32 or u32.
    pub fn index(self, arg: &'static str, d: &TensorDesc) -> Result<()> {
        let ok = matches!(d.element, Element::Plain(DType::I32 | DType::U32));
        self.require(ok, arg, || format!("is {d}; expected i32 or u32"))
    }

    /// Exactly this shape.
    pub fn shape(self, arg: &'static str, d: &TensorDesc, want: &[u32]) -> Result<()> {
        self.require(d.shape() == want, arg, || {
            format!("is {d}; expected shape {want:?}")
        })
    }

    /// Exactly this rank.
    pub fn rank(self, arg: &'static str, d: &TensorDesc, want: usize) -> Result<()> {
        self.require(d.rank() == want, arg, || {
            format!("is {d}; expected rank {want}")
        })
    }

    /// At least this rank.
    pub fn rank_at_least(self, arg: &'static str, d: &TensorDesc, want: usize) -> Result<()> {
        self.require(d.rank() >= want, arg, || {
            format!("is {d}; expected rank {want} or more")
        })
    }

    /// Broadcasts to `shape` by numpy's rule.
    pub fn broadcasts(self, arg: &'static str, d: &TensorDesc, shape: &[u32]) -> Result<()> {
        self.require(d.broadcast_to(shape).is_ok(), arg, || {
            format!("is {d}; does not broadcast to {shape:?}")
        })
    }

    /// A finite attribute.
    pub fn finite(self, arg: &'static str, v: f32) -> Result<()> {
        self.require(v.is_finite(), arg, || {
            format!("is {v}; expected a finite number")
        })
    }

    /// A mask: a float added to the scores, or u8 where 0 hides a key; broadcasts to `shape`.
    pub fn mask(self, d: &TensorDesc, shape: &[u32]) -> Result<()> {
        if d.plain() != Some(DType::U8) {
            let ok = matches!(
                d.element,
                Element::Plain(DType::F32 | DType::F16 | DType::BF16)
            );
            self.require(ok, "mask", || {
                format!("is {d}; expected floats to add, or u8 where 0 hides")
            })?;
        }
        self.broadcasts("mask", d, shape)
    }

    /// The axis reduced over is not empty.
    pub fn reduces(self, arg: &'static str, len: u32) -> Result<()> {
        self.require(len > 0, arg, || {
            "the reduced axis has length 0, which has no result".to_owned()
        })
    }
}
