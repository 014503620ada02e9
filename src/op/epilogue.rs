//! [`Epilogue`]: what follows a product before it is stored.

use super::{Act, Arg, check::Checker, map_opt};
use crate::{error::Result, layout::TensorDesc};

/// What happens to `acc = x . w^T` before it is stored:
/// `t = act(acc * scale + bias) * gate + residual`, then `y = t`, or `y += t` with `accumulate`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(
    feature = "serde",
    serde(
        default,
        bound = "T: serde::Serialize + for<'a> serde::Deserialize<'a>"
    )
)]
pub struct Epilogue<T> {
    /// Factor on the accumulator.
    pub scale: Option<f32>,
    /// Floats `[N]` ([`Conv2d`](super::Conv2d): one per output channel;
    /// [`GroupedMatMul`](super::GroupedMatMul): `[E, N]`).
    pub bias: Option<T>,
    /// Activation.
    pub act: Option<Act>,
    /// Floats of y's shape that multiply the activation (SwiGLU, GeGLU).
    pub gate: Option<T>,
    /// Floats of y's shape that are added last.
    pub residual: Option<T>,
    /// Add to y instead of replacing it (LoRA adapters).
    pub accumulate: bool,
}

impl<T> Default for Epilogue<T> {
    fn default() -> Self {
        Epilogue {
            scale: None,
            bias: None,
            act: None,
            gate: None,
            residual: None,
            accumulate: false,
        }
    }
}

impl<T> Epilogue<T> {
    /// True when y is the accumulator as it is.
    pub fn is_identity(&self) -> bool {
        self.scale.is_none()
            && self.bias.is_none()
            && self.act.is_none()
            && self.gate.is_none()
            && self.residual.is_none()
            && !self.accumulate
    }

    /// Role of y under this epilogue.
    pub(super) fn y(&self) -> Arg {
        if self.accumulate {
            Arg::inout("y")
        } else {
            Arg::output("y")
        }
    }

    /// The same epilogue over operands of another kind.
    ///
    /// # Errors
    /// The first error that `f` returns.
    pub fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Epilogue<U>, E> {
        Ok(Epilogue {
            scale: self.scale,
            bias: map_opt(Arg::input("bias"), &self.bias, f)?,
            act: self.act,
            gate: map_opt(Arg::input("gate"), &self.gate, f)?,
            residual: map_opt(Arg::input("residual"), &self.residual, f)?,
            accumulate: self.accumulate,
        })
    }
}

impl Epilogue<TensorDesc> {
    pub(super) fn check(&self, c: Checker, y: &TensorDesc, bias: &[u32]) -> Result<()> {
        if let Some(s) = self.scale {
            c.finite("scale", s)?;
        }
        if let Some(b) = &self.bias {
            c.float("bias", b)?;
            c.shape("bias", b, bias)?;
        }
        for (arg, t) in [("gate", &self.gate), ("residual", &self.residual)] {
            if let Some(t) = t {
                c.float(arg, t)?;
                c.shape(arg, t, y.shape())?;
            }
        }
        Ok(())
    }
}

macro_rules! epilogue_setters {
    ($t:ident) => {
        /// Multiplies the accumulator.
        #[must_use]
        pub fn scale(mut self, scale: f32) -> Self {
            self.epilogue.scale = Some(scale);
            self
        }

        /// Adds a bias before the activation.
        #[must_use]
        pub fn bias(mut self, bias: &$t) -> Self {
            self.epilogue.bias = Some(bias.clone());
            self
        }

        /// Applies an activation.
        #[must_use]
        pub fn act(mut self, act: Act) -> Self {
            self.epilogue.act = Some(act);
            self
        }

        /// Multiplies the activation by `gate`.
        #[must_use]
        pub fn gate(mut self, gate: &$t) -> Self {
            self.epilogue.gate = Some(gate.clone());
            self
        }

        /// Adds `residual` last. It may be y itself.
        #[must_use]
        pub fn residual(mut self, residual: &$t) -> Self {
            self.epilogue.residual = Some(residual.clone());
            self
        }

        /// Adds to y instead of replacing it.
        #[must_use]
        pub fn accumulate(mut self) -> Self {
            self.epilogue.accumulate = true;
            self
        }
    };
}
pub(super) use epilogue_setters;

macro_rules! precision_setter {
    () => {
        /// Accepts less precise arithmetic.
        #[must_use]
        pub fn precision(mut self, precision: Precision) -> Self {
            self.precision = precision;
            self
        }
    };
}
pub(super) use precision_setter;
