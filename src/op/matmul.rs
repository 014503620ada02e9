//! [`MatMul`] and [`MatMulMany`].

use super::{
    Act, Arg, Arguments, OpKind, Precision, Rules,
    check::{Checker, product},
    epilogue::{Epilogue, epilogue_setters, precision_setter},
    weight::Weight,
};
use crate::{
    element::{DType, Element},
    error::Result,
    layout::TensorDesc,
};

/// Element types that may be multiplied: floats with anything real, or i8 with i8.
pub(super) fn check_elements(
    c: Checker,
    x: &TensorDesc,
    w: &TensorDesc,
    y: &TensorDesc,
) -> Result<()> {
    let i8s = |d: &TensorDesc| d.plain() == Some(DType::I8);
    if i8s(x) || i8s(w) {
        c.require(i8s(x) && i8s(w), "w", || {
            format!("is {w} and x is {x}; i8 multiplies i8 only")
        })?;
        let ok = matches!(
            y.element,
            Element::Plain(DType::I32 | DType::F32 | DType::F16 | DType::BF16)
        );
        return c.require(ok, "y", || {
            format!("is {y}; the product of i8 is i32, f32, f16 or bf16")
        });
    }
    let real = |d: &TensorDesc| matches!(d.element, Element::Plain(t) if t.is_float());
    c.require(real(x), "x", || format!("is {x}; expected floats or i8"))?;
    c.real("w", w)?;
    c.float("y", y)
}

/// y = epilogue(x . w^T): x`[.., M, K]`, w`[.., N, K]`, y`[.., M, N]`. Batch axes of x and w
/// broadcast to those of y.
///
/// Elements: x any float; w any float or quantized format; y f32, f16 or bf16. Or x and w i8 and
/// y i32 (exact) or a float.
///
/// ```
/// use gristmill::{Act, DType, MatMul, Op, TensorDesc};
/// # fn main() -> gristmill::Result<()> {
/// let d = |shape: &[u32]| TensorDesc::new(DType::F32, shape);
/// let (x, w, bias, y) = (d(&[4, 64])?, d(&[32, 64])?, d(&[32])?, d(&[4, 32])?);
/// let question = Op::from(MatMul::new(&x, &w, &y).bias(&bias).act(Act::Silu));
/// question.check()?;
/// assert_eq!(question.flops(), 2 * 4 * 32 * 64);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(
    feature = "serde",
    serde(bound = "T: serde::Serialize + for<'a> serde::Deserialize<'a>")
)]
pub struct MatMul<T> {
    /// Activations `[.., M, K]`.
    pub x: T,
    /// Weights.
    pub w: Weight<T>,
    /// Result `[.., M, N]`.
    pub y: T,
    /// What follows the product.
    #[cfg_attr(feature = "serde", serde(default))]
    pub epilogue: Epilogue<T>,
    /// Least precise arithmetic accepted.
    #[cfg_attr(feature = "serde", serde(default))]
    pub precision: Precision,
}

impl<T: Clone> MatMul<T> {
    /// y = x . w^T.
    pub fn new(x: &T, w: impl Into<Weight<T>>, y: &T) -> Self {
        MatMul {
            x: x.clone(),
            w: w.into(),
            y: y.clone(),
            epilogue: Epilogue::default(),
            precision: Precision::default(),
        }
    }

    epilogue_setters!(T);

    precision_setter!();
}

impl<T> Arguments<T> for MatMul<T> {
    const KIND: OpKind = OpKind::MatMul;
    type With<U> = MatMul<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<MatMul<U>, E> {
        Ok(MatMul {
            x: f(Arg::input("x"), &self.x)?,
            w: self.w.try_map("w", f)?,
            epilogue: self.epilogue.try_map(f)?,
            y: f(self.epilogue.y(), &self.y)?,
            precision: self.precision,
        })
    }
}

impl MatMul<TensorDesc> {
    /// M: rows of x, per batch.
    pub fn m(&self) -> u32 {
        self.x.dim_back(1)
    }

    /// N: rows of w, per batch.
    pub fn n(&self) -> u32 {
        self.w.n()
    }

    /// K: the axis that is summed over.
    pub fn k(&self) -> u32 {
        self.x.dim_back(0)
    }

    /// Number of matrices in y.
    pub fn batches(&self) -> u64 {
        let shape = self.y.shape();
        shape[..shape.len().saturating_sub(2)]
            .iter()
            .map(|&d| d as u64)
            .product()
    }
}

impl Rules for MatMul<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::MatMul);
        self.w.check(c, "w")?;
        let w = self.w.logical();
        check_elements(c, &self.x, w, &self.y)?;
        c.rank_at_least("x", &self.x, 2)?;
        c.rank_at_least("w", w, 2)?;
        c.rank_at_least("y", &self.y, 2)?;
        let (k, n) = (self.k(), self.n());
        c.require(self.w.k() == k, "w", || {
            format!("has K = {} but x has K = {k}", self.w.k())
        })?;
        c.require(
            self.y.dim_back(0) == n && self.y.dim_back(1) == self.m(),
            "y",
            || format!("is {}; expected [.., {}, {n}]", self.y, self.m()),
        )?;
        let batch = &self.y.shape()[..self.y.rank() - 2];
        for (arg, shape) in [
            ("x", &self.x.shape()[..self.x.rank() - 2]),
            ("w", self.w.batch()),
        ] {
            let fits = shape.len() <= batch.len()
                && shape
                    .iter()
                    .rev()
                    .zip(batch.iter().rev())
                    .all(|(&a, &b)| a == b || a == 1);
            c.require(fits, arg, || {
                format!("has batch axes {shape:?}, which do not broadcast to y's {batch:?}")
            })?;
        }
        if !self.y.is_empty() {
            c.reduces("x", k)?;
        }
        self.epilogue.check(c, &self.y, &[n])
    }
    fn flops(&self) -> u64 {
        product([2, self.y.elements(), u64::from(self.k())])
    }
    fn in_place(&self, arg: &'static str) -> bool {
        matches!(arg, "residual" | "gate")
    }
}

/// One weight of a [`MatMulMany`].
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(
    feature = "serde",
    serde(bound = "T: serde::Serialize + for<'a> serde::Deserialize<'a>")
)]
pub struct Part<T> {
    /// Weights.
    pub w: Weight<T>,
    /// Result `[.., M, N]`.
    pub y: T,
    /// What follows the product.
    #[cfg_attr(feature = "serde", serde(default))]
    pub epilogue: Epilogue<T>,
}

impl<T: Clone> Part<T> {
    /// y = x . w^T.
    pub fn new(w: impl Into<Weight<T>>, y: &T) -> Self {
        Part {
            w: w.into(),
            y: y.clone(),
            epilogue: Epilogue::default(),
        }
    }

    epilogue_setters!(T);
}

/// Several products that share x: Q, K and V; gate and up. The work on x (8-bit rounding,
/// packing) and the parallel region happen once.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(
    feature = "serde",
    serde(bound = "T: serde::Serialize + for<'a> serde::Deserialize<'a>")
)]
pub struct MatMulMany<T> {
    /// Activations `[.., M, K]`.
    pub x: T,
    /// The products, each as in [`MatMul`].
    pub parts: Vec<Part<T>>,
    /// Least precise arithmetic accepted.
    #[cfg_attr(feature = "serde", serde(default))]
    pub precision: Precision,
}

impl<T: Clone> MatMulMany<T> {
    /// y_i = x . w_i^T for each part.
    pub fn new(x: &T, parts: impl IntoIterator<Item = Part<T>>) -> Self {
        MatMulMany {
            x: x.clone(),
            parts: parts.into_iter().collect(),
            precision: Precision::default(),
        }
    }

    precision_setter!();

    /// The products as ops of their own.
    pub fn split(&self) -> impl Iterator<Item = MatMul<T>> + '_ {
        self.parts.iter().map(|p| MatMul {
            x: self.x.clone(),
            w: p.w.clone(),
            y: p.y.clone(),
            epilogue: p.epilogue.clone(),
            precision: self.precision,
        })
    }
}

impl<T> Arguments<T> for MatMulMany<T> {
    const KIND: OpKind = OpKind::MatMulMany;
    type With<U> = MatMulMany<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<MatMulMany<U>, E> {
        Ok(MatMulMany {
            x: f(Arg::input("x"), &self.x)?,
            parts: self
                .parts
                .iter()
                .map(|p| {
                    Ok(Part {
                        w: p.w.try_map("w", f)?,
                        epilogue: p.epilogue.try_map(f)?,
                        y: f(p.epilogue.y(), &p.y)?,
                    })
                })
                .collect::<Result<_, E>>()?,
            precision: self.precision,
        })
    }
}

impl Rules for MatMulMany<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::MatMulMany);
        c.require(!self.parts.is_empty(), "parts", || {
            "is empty; expected at least one weight".to_owned()
        })?;
        self.split().try_for_each(|m| m.check())
    }
    fn flops(&self) -> u64 {
        self.split().fold(0, |sum, m| sum.saturating_add(m.flops()))
    }
    fn in_place(&self, arg: &'static str) -> bool {
        matches!(arg, "residual" | "gate")
    }
}
