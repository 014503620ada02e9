//! [`Quantize`] and [`Dequantize`].

use super::{Arg, Arguments, OpKind, Rules, check::Checker};
use crate::{element::Element, error::Result, layout::TensorDesc};

/// y = the numbers that the blocks of w stand for.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Dequantize<T> {
    /// Quantized, any shape with whole blocks along the last axis.
    pub w: T,
    /// Floats of the same shape.
    pub y: T,
}

impl<T: Clone> Dequantize<T> {
    /// y = decode(w).
    pub fn new(w: &T, y: &T) -> Self {
        Dequantize {
            w: w.clone(),
            y: y.clone(),
        }
    }
}

impl<T> Arguments<T> for Dequantize<T> {
    const KIND: OpKind = OpKind::Dequantize;
    type With<U> = Dequantize<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Dequantize<U>, E> {
        Ok(Dequantize {
            w: f(Arg::input("w"), &self.w)?,
            y: f(Arg::output("y"), &self.y)?,
        })
    }
}

impl Rules for Dequantize<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::Dequantize);
        let quant = matches!(self.w.element, Element::Quant(_));
        c.require(quant, "w", || {
            format!(
                "is {}; expected a quantized format (Copy converts plain types)",
                self.w
            )
        })?;
        c.float("y", &self.y)?;
        c.shape("y", &self.y, self.w.shape())
    }
    fn flops(&self) -> u64 {
        self.y.elements()
    }
}

/// y = x in blocks of a quantized format that defines an encoder
/// ([`QuantFormat::can_encode`](crate::quant::QuantFormat::can_encode)).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Quantize<T> {
    /// Floats.
    pub x: T,
    /// Quantized, of the same shape.
    pub y: T,
}

impl<T: Clone> Quantize<T> {
    /// y = encode(x).
    pub fn new(x: &T, y: &T) -> Self {
        Quantize {
            x: x.clone(),
            y: y.clone(),
        }
    }
}

impl<T> Arguments<T> for Quantize<T> {
    const KIND: OpKind = OpKind::Quantize;
    type With<U> = Quantize<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Quantize<U>, E> {
        Ok(Quantize {
            x: f(Arg::input("x"), &self.x)?,
            y: f(Arg::output("y"), &self.y)?,
        })
    }
}

impl Rules for Quantize<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::Quantize);
        c.float("x", &self.x)?;
        let ok = matches!(self.y.element, Element::Quant(q) if q.can_encode());
        c.require(ok, "y", || {
            format!(
                "is {}; expected a quantized format that has an encoder",
                self.y
            )
        })?;
        c.shape("y", &self.y, self.x.shape())
    }
    fn flops(&self) -> u64 {
        2 * self.x.elements()
    }
}
