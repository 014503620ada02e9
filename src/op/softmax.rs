//! [`Softmax`] along the last axis.

use super::{Arg, Arguments, OpKind, Rules, check::Checker, map_opt};
use crate::{error::Result, layout::TensorDesc};

/// y = softmax(scale * x + mask) along the last axis. A row that is all -inf or all hidden is 0.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(
    feature = "serde",
    serde(bound = "T: serde::Serialize + for<'a> serde::Deserialize<'a>")
)]
pub struct Softmax<T> {
    /// Floats.
    pub x: T,
    /// Floats of the same shape.
    pub y: T,
    /// Factor on x.
    #[cfg_attr(feature = "serde", serde(default = "super::elementwise::one"))]
    pub scale: f32,
    /// Floats to add, or u8 where 0 hides; broadcasts to x.
    #[cfg_attr(feature = "serde", serde(default))]
    pub mask: Option<T>,
}

impl<T: Clone> Softmax<T> {
    /// y = softmax(x).
    pub fn new(x: &T, y: &T) -> Self {
        Softmax {
            x: x.clone(),
            y: y.clone(),
            scale: 1.0,
            mask: None,
        }
    }

    /// Multiplies x first.
    #[must_use]
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// Adds a mask after the scale.
    #[must_use]
    pub fn mask(mut self, mask: &T) -> Self {
        self.mask = Some(mask.clone());
        self
    }
}

impl<T> Arguments<T> for Softmax<T> {
    const KIND: OpKind = OpKind::Softmax;
    type With<U> = Softmax<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Softmax<U>, E> {
        Ok(Softmax {
            x: f(Arg::input("x"), &self.x)?,
            mask: map_opt(Arg::input("mask"), &self.mask, f)?,
            y: f(Arg::output("y"), &self.y)?,
            scale: self.scale,
        })
    }
}

impl Rules for Softmax<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::Softmax);
        c.float("x", &self.x)?;
        c.float("y", &self.y)?;
        c.rank_at_least("x", &self.x, 1)?;
        c.shape("y", &self.y, self.x.shape())?;
        c.finite("scale", self.scale)?;
        match &self.mask {
            Some(mask) => c.mask(mask, self.x.shape()),
            None => Ok(()),
        }
    }
    fn flops(&self) -> u64 {
        5 * self.x.elements()
    }
    fn in_place(&self, arg: &'static str) -> bool {
        arg == "x"
    }
}
