//! [`Copy`](struct@Copy): strided, casting copy.

use super::{Arg, Arguments, OpKind, Rules, check::Checker};
use crate::{element::Element, error::Result, layout::TensorDesc};

/// y = x, converted to y's element type; x broadcasts to y; any strides.
///
/// Floats round to nearest even; beyond the largest finite number they become infinite, but
/// saturate in 8-bit floats, infinities included (NaN stays NaN). Float to integer truncates toward zero and saturates (NaN gives
/// 0); integer to narrower integer saturates. Quantized tensors copy to the same format only:
/// [`Dequantize`](super::Dequantize) and [`Quantize`](super::Quantize) convert.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Copy<T> {
    /// Any element type, broadcast to the shape of y.
    pub x: T,
    /// Any plain type, or the format of x.
    pub y: T,
}

impl<T: Clone> Copy<T> {
    /// y = x.
    pub fn new(x: &T, y: &T) -> Self {
        Copy {
            x: x.clone(),
            y: y.clone(),
        }
    }
}

impl<T> Arguments<T> for Copy<T> {
    const KIND: OpKind = OpKind::Copy;
    type With<U> = Copy<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Copy<U>, E> {
        Ok(Copy {
            x: f(Arg::input("x"), &self.x)?,
            y: f(Arg::output("y"), &self.y)?,
        })
    }
}

impl Rules for Copy<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::Copy);
        let quant = [self.x.element, self.y.element]
            .iter()
            .any(|e| matches!(e, Element::Quant(_)));
        c.require(!quant || self.x.element == self.y.element, "y", || {
            format!(
                "is {} and x is {}; quantized tensors copy to the same format only, use Dequantize or Quantize",
                self.y, self.x
            )
        })?;
        c.broadcasts("x", &self.x, self.y.shape())
    }
    fn flops(&self) -> u64 {
        0
    }
}
