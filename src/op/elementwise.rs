//! Elementwise ops: [`Unary`], [`Binary`], [`Glu`].

use super::{Arg, Arguments, OpKind, Rules, check::Checker};
use crate::{error::Result, layout::TensorDesc};

/// Activation functions and other functions of one number.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Act {
    /// x.
    Identity,
    /// x / (1 + e^-x) (Hendrycks & Gimpel 2016, Ramachandran et al. 2017).
    Silu,
    /// x * Phi(x) with the exact normal distribution (erf).
    Gelu,
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    GeluTanh,
    /// x / (1 + e^(-1.702 x)).
    GeluQuick,
    /// max(x, 0).
    Relu,
    /// max(x, 0)^2.
    ReluSquared,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// tanh x.
    Tanh,
    /// ln(1 + e^x).
    Softplus,
    /// e^x.
    Exp,
    /// ln x.
    Log,
    /// -x.
    Neg,
    /// |x|.
    Abs,
    /// x^2.
    Square,
    /// sqrt x.
    Sqrt,
    /// 1 / sqrt x.
    Rsqrt,
    /// 1 / x.
    Recip,
    /// sin x.
    Sin,
    /// cos x.
    Cos,
}

impl Act {
    /// Every function.
    pub const ALL: &'static [Act] = &[
        Act::Identity,
        Act::Silu,
        Act::Gelu,
        Act::GeluTanh,
        Act::GeluQuick,
        Act::Relu,
        Act::ReluSquared,
        Act::Sigmoid,
        Act::Tanh,
        Act::Softplus,
        Act::Exp,
        Act::Log,
        Act::Neg,
        Act::Abs,
        Act::Square,
        Act::Sqrt,
        Act::Rsqrt,
        Act::Recip,
        Act::Sin,
        Act::Cos,
    ];

    /// Name as in captures and kernel ids.
    pub const fn name(self) -> &'static str {
        match self {
            Act::Identity => "identity",
            Act::Silu => "silu",
            Act::Gelu => "gelu",
            Act::GeluTanh => "gelu_tanh",
            Act::GeluQuick => "gelu_quick",
            Act::Relu => "relu",
            Act::ReluSquared => "relu_squared",
            Act::Sigmoid => "sigmoid",
            Act::Tanh => "tanh",
            Act::Softplus => "softplus",
            Act::Exp => "exp",
            Act::Log => "log",
            Act::Neg => "neg",
            Act::Abs => "abs",
            Act::Square => "square",
            Act::Sqrt => "sqrt",
            Act::Rsqrt => "rsqrt",
            Act::Recip => "recip",
            Act::Sin => "sin",
            Act::Cos => "cos",
        }
    }
}

/// y = act(scale * x + offset), elementwise; x broadcasts to y.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Unary<T> {
    /// Floats, broadcast to the shape of y.
    pub x: T,
    /// Floats.
    pub y: T,
    /// The function.
    pub act: Act,
    /// Factor before the function.
    #[cfg_attr(feature = "serde", serde(default = "super::elementwise::one"))]
    pub scale: f32,
    /// Summand before the function.
    #[cfg_attr(feature = "serde", serde(default))]
    pub offset: f32,
}

#[cfg(feature = "serde")]
pub(crate) fn one() -> f32 {
    1.0
}

impl<T: Clone> Unary<T> {
    /// y = act(x).
    pub fn new(act: Act, x: &T, y: &T) -> Self {
        Unary {
            x: x.clone(),
            y: y.clone(),
            act,
            scale: 1.0,
            offset: 0.0,
        }
    }

    /// y = scale * x + offset.
    pub fn affine(scale: f32, offset: f32, x: &T, y: &T) -> Self {
        Unary {
            scale,
            offset,
            ..Unary::new(Act::Identity, x, y)
        }
    }
}

impl<T> Arguments<T> for Unary<T> {
    const KIND: OpKind = OpKind::Unary;
    type With<U> = Unary<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Unary<U>, E> {
        Ok(Unary {
            x: f(Arg::input("x"), &self.x)?,
            y: f(Arg::output("y"), &self.y)?,
            act: self.act,
            scale: self.scale,
            offset: self.offset,
        })
    }
}

impl Rules for Unary<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::Unary);
        c.float("x", &self.x)?;
        c.float("y", &self.y)?;
        c.finite("scale", self.scale)?;
        c.finite("offset", self.offset)?;
        c.broadcasts("x", &self.x, self.y.shape())
    }
    fn flops(&self) -> u64 {
        self.y.elements()
    }
    fn in_place(&self, _: &'static str) -> bool {
        true
    }
}

/// Functions of two numbers.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum BinOp {
    /// a + b.
    Add,
    /// a - b.
    Sub,
    /// a * b.
    Mul,
    /// a / b.
    Div,
    /// The larger; NaN if either is NaN.
    Max,
    /// The smaller; NaN if either is NaN.
    Min,
}

impl BinOp {
    /// Every function.
    pub const ALL: &'static [BinOp] = &[
        BinOp::Add,
        BinOp::Sub,
        BinOp::Mul,
        BinOp::Div,
        BinOp::Max,
        BinOp::Min,
    ];

    /// Name as in captures and kernel ids.
    pub const fn name(self) -> &'static str {
        match self {
            BinOp::Add => "add",
            BinOp::Sub => "sub",
            BinOp::Mul => "mul",
            BinOp::Div => "div",
            BinOp::Max => "max",
            BinOp::Min => "min",
        }
    }
}

/// y = a op b, elementwise; a and b broadcast to y.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Binary<T> {
    /// Floats, broadcast to the shape of y.
    pub a: T,
    /// Floats, broadcast to the shape of y.
    pub b: T,
    /// Floats.
    pub y: T,
    /// The function.
    pub function: BinOp,
}

impl<T: Clone> Binary<T> {
    /// y = a op b.
    pub fn new(function: BinOp, a: &T, b: &T, y: &T) -> Self {
        Binary {
            a: a.clone(),
            b: b.clone(),
            y: y.clone(),
            function,
        }
    }

    /// y = a + b.
    pub fn add(a: &T, b: &T, y: &T) -> Self {
        Binary::new(BinOp::Add, a, b, y)
    }

    /// y = a * b.
    pub fn mul(a: &T, b: &T, y: &T) -> Self {
        Binary::new(BinOp::Mul, a, b, y)
    }
}

impl<T> Arguments<T> for Binary<T> {
    const KIND: OpKind = OpKind::Binary;
    type With<U> = Binary<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Binary<U>, E> {
        Ok(Binary {
            a: f(Arg::input("a"), &self.a)?,
            b: f(Arg::input("b"), &self.b)?,
            y: f(Arg::output("y"), &self.y)?,
            function: self.function,
        })
    }
}

impl Rules for Binary<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::Binary);
        for (arg, d) in [("a", &self.a), ("b", &self.b)] {
            c.float(arg, d)?;
            c.broadcasts(arg, d, self.y.shape())?;
        }
        c.float("y", &self.y)
    }
    fn flops(&self) -> u64 {
        self.y.elements()
    }
    fn in_place(&self, _: &'static str) -> bool {
        true
    }
}

/// y = act(gate) * up, elementwise, all of one shape. Gate and up are often the two halves of
/// one tensor: pass two narrowed views.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Glu<T> {
    /// Floats that go through the activation.
    pub gate: T,
    /// Floats of the same shape.
    pub up: T,
    /// Floats of the same shape.
    pub y: T,
    /// SwiGLU: [`Act::Silu`]; GeGLU: [`Act::Gelu`] or [`Act::GeluTanh`].
    pub act: Act,
}

impl<T: Clone> Glu<T> {
    /// y = act(gate) * up.
    pub fn new(act: Act, gate: &T, up: &T, y: &T) -> Self {
        Glu {
            gate: gate.clone(),
            up: up.clone(),
            y: y.clone(),
            act,
        }
    }
}

impl<T> Arguments<T> for Glu<T> {
    const KIND: OpKind = OpKind::Glu;
    type With<U> = Glu<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Glu<U>, E> {
        Ok(Glu {
            gate: f(Arg::input("gate"), &self.gate)?,
            up: f(Arg::input("up"), &self.up)?,
            y: f(Arg::output("y"), &self.y)?,
            act: self.act,
        })
    }
}

impl Rules for Glu<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::Glu);
        for (arg, d) in [("gate", &self.gate), ("up", &self.up), ("y", &self.y)] {
            c.float(arg, d)?;
            c.shape(arg, d, self.y.shape())?;
        }
        Ok(())
    }
    fn flops(&self) -> u64 {
        2 * self.y.elements()
    }
    fn in_place(&self, _: &'static str) -> bool {
        true
    }
}
