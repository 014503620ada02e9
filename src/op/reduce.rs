//! [`Reduce`]: sums, means and extrema along one axis.

use super::{Arg, Arguments, OpKind, Rules, check::Checker};
use crate::{element::DType, error::Result, layout::TensorDesc};

/// Reductions.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum RedOp {
    /// Sum.
    Sum,
    /// Sum divided by the length.
    Mean,
    /// Largest; NaN if any is NaN.
    Max,
    /// Smallest; NaN if any is NaN.
    Min,
    /// Index of the largest, the first of equals; a NaN counts as the largest. y is i32.
    ArgMax,
}

impl RedOp {
    /// Every reduction.
    pub const ALL: &'static [RedOp] = &[
        RedOp::Sum,
        RedOp::Mean,
        RedOp::Max,
        RedOp::Min,
        RedOp::ArgMax,
    ];
}

/// y = x reduced along `axis`; y keeps the axis with length 1.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Reduce<T> {
    /// Floats.
    pub x: T,
    /// Floats, or i32 for [`RedOp::ArgMax`].
    pub y: T,
    /// The reduction.
    pub function: RedOp,
    /// The axis, counted from the first.
    pub axis: u8,
}

impl<T: Clone> Reduce<T> {
    /// y = reduction of x along `axis`.
    pub fn new(function: RedOp, x: &T, axis: u8, y: &T) -> Self {
        Reduce {
            x: x.clone(),
            y: y.clone(),
            function,
            axis,
        }
    }
}

impl<T> Arguments<T> for Reduce<T> {
    const KIND: OpKind = OpKind::Reduce;
    type With<U> = Reduce<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Reduce<U>, E> {
        Ok(Reduce {
            x: f(Arg::input("x"), &self.x)?,
            y: f(Arg::output("y"), &self.y)?,
            function: self.function,
            axis: self.axis,
        })
    }
}

impl Rules for Reduce<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::Reduce);
        c.float("x", &self.x)?;
        let axis = self.axis as usize;
        c.require(axis < self.x.rank(), "axis", || {
            format!("is {axis} but x is {}", self.x)
        })?;
        if self.function == RedOp::ArgMax {
            c.require(self.y.plain() == Some(DType::I32), "y", || {
                format!("is {}; arg_max gives i32", self.y)
            })?;
        } else {
            c.float("y", &self.y)?;
        }
        let mut want = self.x.shape().to_vec();
        want[axis] = 1;
        c.shape("y", &self.y, &want)?;
        if !self.y.is_empty() {
            c.reduces("x", self.x.dim(axis))?;
        }
        Ok(())
    }
    fn flops(&self) -> u64 {
        self.x.elements()
    }
}
