//! [`Norm`]: RMS, layer, group and L2 norms with a fused residual.

use super::{Arg, Arguments, OpKind, Rules, check::Checker, map_opt};
use crate::{error::Result, layout::TensorDesc};

/// Which statistics normalize.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum NormKind {
    /// x / sqrt(mean(x^2) + eps) along the last axis (Zhang & Sennrich 2019).
    Rms,
    /// (x - mean) / sqrt(var + eps) along the last axis (Ba et al. 2016).
    Layer,
    /// As `Layer`, over C / groups channels and all positions of x`[B, C, ..]` (Wu & He 2018).
    Group {
        /// Number of groups; divides C.
        groups: u32,
    },
    /// x / max(sqrt(sum(x^2)), eps) along the last axis.
    L2,
}

/// y = norm(h) * (weight + weight_offset) + bias with h = x, or h = x + residual. With `sum`, h is
/// stored too: the residual stream of a transformer block.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(
    feature = "serde",
    serde(bound = "T: serde::Serialize + for<'a> serde::Deserialize<'a>")
)]
pub struct Norm<T> {
    /// Floats; `[B, C, ..]` for group norm.
    pub x: T,
    /// Floats of the same shape.
    pub y: T,
    /// Statistics.
    pub kind: NormKind,
    /// Floats `[D]` of the last axis, or `[C]` for group norm.
    #[cfg_attr(feature = "serde", serde(default))]
    pub weight: Option<T>,
    /// Added to the weight: 1 for checkpoints that store weight - 1 (Gemma).
    #[cfg_attr(feature = "serde", serde(default))]
    pub weight_offset: f32,
    /// Floats shaped as the weight.
    #[cfg_attr(feature = "serde", serde(default))]
    pub bias: Option<T>,
    /// Floats of x's shape, added to x before the norm.
    #[cfg_attr(feature = "serde", serde(default))]
    pub residual: Option<T>,
    /// Where x + residual is stored; may be x or the residual itself. Needs a residual.
    #[cfg_attr(feature = "serde", serde(default))]
    pub sum: Option<T>,
    /// Guards the division.
    pub eps: f32,
}

impl<T: Clone> Norm<T> {
    /// y = norm(x) without weight.
    pub fn new(kind: NormKind, x: &T, eps: f32, y: &T) -> Self {
        Norm {
            x: x.clone(),
            y: y.clone(),
            kind,
            weight: None,
            weight_offset: 0.0,
            bias: None,
            residual: None,
            sum: None,
            eps,
        }
    }

    /// y = x / rms(x) * weight.
    pub fn rms(x: &T, weight: &T, eps: f32, y: &T) -> Self {
        Norm::new(NormKind::Rms, x, eps, y).weight(weight)
    }

    /// Layer norm with weight.
    pub fn layer(x: &T, weight: &T, eps: f32, y: &T) -> Self {
        Norm::new(NormKind::Layer, x, eps, y).weight(weight)
    }

    /// Group norm over x`[B, C, ..]` with weight.
    pub fn group(groups: u32, x: &T, weight: &T, eps: f32, y: &T) -> Self {
        Norm::new(NormKind::Group { groups }, x, eps, y).weight(weight)
    }

    /// Multiplies by a weight.
    #[must_use]
    pub fn weight(mut self, weight: &T) -> Self {
        self.weight = Some(weight.clone());
        self
    }

    /// Adds a constant to the weight.
    #[must_use]
    pub fn weight_offset(mut self, offset: f32) -> Self {
        self.weight_offset = offset;
        self
    }

    /// Adds a bias.
    #[must_use]
    pub fn bias(mut self, bias: &T) -> Self {
        self.bias = Some(bias.clone());
        self
    }

    /// Adds `residual` to x first and stores the sum.
    #[must_use]
    pub fn residual(mut self, residual: &T, sum: &T) -> Self {
        self.residual = Some(residual.clone());
        self.sum = Some(sum.clone());
        self
    }
}

impl<T> Arguments<T> for Norm<T> {
    const KIND: OpKind = OpKind::Norm;
    type With<U> = Norm<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Norm<U>, E> {
        Ok(Norm {
            x: f(Arg::input("x"), &self.x)?,
            weight: map_opt(Arg::input("weight"), &self.weight, f)?,
            bias: map_opt(Arg::input("bias"), &self.bias, f)?,
            residual: map_opt(Arg::input("residual"), &self.residual, f)?,
            sum: map_opt(Arg::output("sum"), &self.sum, f)?,
            y: f(Arg::output("y"), &self.y)?,
            kind: self.kind,
            weight_offset: self.weight_offset,
            eps: self.eps,
        })
    }
}

impl Rules for Norm<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::Norm);
        c.float("x", &self.x)?;
        c.float("y", &self.y)?;
        c.shape("y", &self.y, self.x.shape())?;
        let width = match self.kind {
            NormKind::Group { groups } => {
                c.rank_at_least("x", &self.x, 2)?;
                let channels = self.x.dim(1);
                c.require(
                    groups > 0 && channels.is_multiple_of(groups),
                    "groups",
                    || format!("is {groups}, which does not divide the {channels} channels"),
                )?;
                channels
            }
            _ => {
                c.rank_at_least("x", &self.x, 1)?;
                self.x.dim_back(0)
            }
        };
        for (arg, t) in [("weight", &self.weight), ("bias", &self.bias)] {
            if let Some(t) = t {
                c.float(arg, t)?;
                c.shape(arg, t, &[width])?;
            }
        }
        for (arg, t) in [("residual", &self.residual), ("sum", &self.sum)] {
            if let Some(t) = t {
                c.float(arg, t)?;
                c.shape(arg, t, self.x.shape())?;
            }
        }
        c.require(self.sum.is_none() || self.residual.is_some(), "sum", || {
            "needs a residual".to_owned()
        })?;
        c.finite("weight_offset", self.weight_offset)?;
        c.require(self.eps.is_finite() && self.eps >= 0.0, "eps", || {
            format!("is {}; expected a number >= 0", self.eps)
        })
    }
    fn flops(&self) -> u64 {
        5 * self.x.elements()
    }
    fn in_place(&self, arg: &'static str) -> bool {
        matches!(arg, "x" | "residual")
    }
}
