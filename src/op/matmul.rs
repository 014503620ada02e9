//! [`MatMul`], [`MatMulMany`], [`GroupedMatMul`] and what they share.

use super::{
    Act, Arg, Arguments, OpKind, Precision, Rules,
    check::{Checker, product},
    map_opt,
};
use crate::{
    element::{DType, Element},
    error::Result,
    layout::TensorDesc,
};

/// Names a prepacked layout: a hash of backend, kernel layout, format and version. A pack is
/// accepted only by the kernels that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PackTag(pub u64);

impl PackTag {
    /// FNV-1a of `backend`, `layout` and `version`.
    pub const fn new(backend: &str, layout: &str, version: u32) -> Self {
        let mut h: u64 = 0xcbf2_9ce4_8422_2325;
        let parts: [&[u8]; 3] = [
            backend.as_bytes(),
            layout.as_bytes(),
            &version.to_le_bytes(),
        ];
        let mut p = 0;
        while p < parts.len() {
            let mut i = 0;
            while i < parts[p].len() {
                h = (h ^ parts[p][i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
                i += 1;
            }
            h = (h ^ 0xff).wrapping_mul(0x0000_0100_0000_01b3);
            p += 1;
        }
        PackTag(h)
    }
}

/// How a weight matrix is stored.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Weight<T> {
    /// `[.., N, K]`, plain or quantized along K: the layout of every open checkpoint.
    Rows(T),
    /// `[.., K, N]`, plain.
    Transposed(T),
    /// Rows rearranged by [`Device::prepack`](crate::Device::prepack).
    Packed {
        /// The bytes, as u8 `[len]`.
        data: T,
        /// The layout that the device chose.
        tag: PackTag,
        /// The `[.., N, K]` weight that was packed.
        logical: TensorDesc,
    },
}

impl<T: Clone> From<&T> for Weight<T> {
    fn from(t: &T) -> Self {
        Weight::Rows(t.clone())
    }
}

impl<T> Weight<T> {
    /// The same weight over operands of another kind.
    ///
    /// # Errors
    /// The first error that `f` returns.
    pub fn try_map<'a, U, E>(
        &'a self,
        name: &'static str,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Weight<U>, E> {
        Ok(match self {
            Weight::Rows(t) => Weight::Rows(f(Arg::input(name), t)?),
            Weight::Transposed(t) => Weight::Transposed(f(Arg::input(name), t)?),
            Weight::Packed { data, tag, logical } => Weight::Packed {
                data: f(Arg::input(name), data)?,
                tag: *tag,
                logical: *logical,
            },
        })
    }

    /// True for [`Weight::Transposed`].
    pub fn is_transposed(&self) -> bool {
        matches!(self, Weight::Transposed(_))
    }

    /// The operand that holds the bytes.
    pub fn tensor(&self) -> &T {
        match self {
            Weight::Rows(t) | Weight::Transposed(t) => t,
            Weight::Packed { data, .. } => data,
        }
    }
}

impl Weight<TensorDesc> {
    /// Description of the numbers: the operand itself, or what was packed.
    pub fn logical(&self) -> &TensorDesc {
        match self {
            Weight::Rows(t) | Weight::Transposed(t) => t,
            Weight::Packed { logical, .. } => logical,
        }
    }

    /// N: rows of the matrix.
    pub fn n(&self) -> u32 {
        self.logical()
            .dim_back(if self.is_transposed() { 0 } else { 1 })
    }

    /// K: columns of the matrix, the axis that is summed over.
    pub fn k(&self) -> u32 {
        self.logical()
            .dim_back(if self.is_transposed() { 1 } else { 0 })
    }

    /// Axes before the matrix.
    pub fn batch(&self) -> &[u32] {
        let shape = self.logical().shape();
        &shape[..shape.len().saturating_sub(2)]
    }

    pub(super) fn check(&self, c: Checker, name: &'static str) -> Result<()> {
        match self {
            Weight::Rows(_) => Ok(()),
            Weight::Transposed(t) => c.require(t.plain().is_some(), name, || {
                format!("is {t}; quantized weights are [N, K] rows, never transposed")
            }),
            Weight::Packed { data, .. } => {
                let ok =
                    data.plain() == Some(DType::U8) && data.rank() == 1 && data.is_contiguous();
                c.require(ok, name, || {
                    format!("prepacked data is {data}; expected contiguous u8 of rank 1")
                })
            }
        }
    }
}

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
    /// [`GroupedMatMul`]: `[E, N]`).
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

/// Element types that may be multiplied: floats with anything real, or i8 with i8.
fn check_elements(c: Checker, x: &TensorDesc, w: &TensorDesc, y: &TensorDesc) -> Result<()> {
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

    /// Accepts less precise arithmetic.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }
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

    /// Accepts less precise arithmetic.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

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

/// Which expert multiplies which row.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Routing<T> {
    /// i32 or u32 `[rows, top]`: the experts of each row.
    Ids(T),
    /// i32 or u32 `[E + 1]`: rows `offsets[e]..offsets[e + 1]` belong to expert e; rows beyond
    /// the last offset give zeros.
    Offsets(T),
}

/// Mixture of experts: each row is multiplied by the weights of its experts, whose numbers live
/// on the device.
///
/// With [`Routing::Ids`] `[rows, top]`: x`[rows, K]` (shared by a row's experts) or
/// `[rows, top, K]`, y`[rows, top, N]`. With [`Routing::Offsets`]: x`[rows, K]` sorted by expert,
/// y`[rows, N]`. Weights `[E, N, K]`. An expert number outside 0..E gives zeros (before gate and
/// residual).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[cfg_attr(
    feature = "serde",
    serde(bound = "T: serde::Serialize + for<'a> serde::Deserialize<'a>")
)]
pub struct GroupedMatMul<T> {
    /// Activations.
    pub x: T,
    /// Weights `[E, N, K]`.
    pub w: Weight<T>,
    /// Result.
    pub y: T,
    /// Experts of each row.
    pub routing: Routing<T>,
    /// What follows the product; the bias is `[E, N]`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub epilogue: Epilogue<T>,
    /// Least precise arithmetic accepted.
    #[cfg_attr(feature = "serde", serde(default))]
    pub precision: Precision,
}

impl<T: Clone> GroupedMatMul<T> {
    /// y = x . w\[expert\]^T.
    pub fn new(x: &T, w: impl Into<Weight<T>>, routing: Routing<T>, y: &T) -> Self {
        GroupedMatMul {
            x: x.clone(),
            w: w.into(),
            y: y.clone(),
            routing,
            epilogue: Epilogue::default(),
            precision: Precision::default(),
        }
    }

    epilogue_setters!(T);

    /// Accepts less precise arithmetic.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }
}

impl<T> Arguments<T> for GroupedMatMul<T> {
    const KIND: OpKind = OpKind::GroupedMatMul;
    type With<U> = GroupedMatMul<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<GroupedMatMul<U>, E> {
        Ok(GroupedMatMul {
            x: f(Arg::input("x"), &self.x)?,
            w: self.w.try_map("w", f)?,
            routing: match &self.routing {
                Routing::Ids(t) => Routing::Ids(f(Arg::input("ids"), t)?),
                Routing::Offsets(t) => Routing::Offsets(f(Arg::input("offsets"), t)?),
            },
            epilogue: self.epilogue.try_map(f)?,
            y: f(self.epilogue.y(), &self.y)?,
            precision: self.precision,
        })
    }
}

impl Rules for GroupedMatMul<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::GroupedMatMul);
        self.w.check(c, "w")?;
        let w = self.w.logical();
        check_elements(c, &self.x, w, &self.y)?;
        c.rank("w", w, 3)?;
        let (e, n, k) = (w.dim(0), self.w.n(), self.w.k());
        match &self.routing {
            Routing::Ids(ids) => {
                c.index("ids", ids)?;
                c.rank("ids", ids, 2)?;
                let (rows, top) = (ids.dim(0), ids.dim(1));
                if self.x.rank() == 3 {
                    c.shape("x", &self.x, &[rows, top, k])?;
                } else {
                    c.shape("x", &self.x, &[rows, k])?;
                }
                c.shape("y", &self.y, &[rows, top, n])?;
            }
            Routing::Offsets(offsets) => {
                c.index("offsets", offsets)?;
                c.shape("offsets", offsets, &[e.saturating_add(1)])?;
                c.rank("x", &self.x, 2)?;
                let rows = self.x.dim(0);
                c.shape("x", &self.x, &[rows, k])?;
                c.shape("y", &self.y, &[rows, n])?;
            }
        }
        if !self.y.is_empty() {
            c.reduces("x", k)?;
        }
        self.epilogue.check(c, &self.y, &[e, n])
    }
    fn flops(&self) -> u64 {
        product([2, self.y.elements(), u64::from(self.w.k())])
    }
    fn bytes(&self) -> Option<u64> {
        // Of the experts' weights at most one matrix per routed row is read.
        let w = self.w.logical();
        let rows = self.y.elements() / (w.dim(1).max(1) as u64);
        let read = (w.dim(0) as u64).min(rows);
        let per_expert = w.data_bytes() / (w.dim(0).max(1) as u64);
        Some(read * per_expert + self.x.data_bytes() + self.y.data_bytes())
    }
    fn in_place(&self, arg: &'static str) -> bool {
        matches!(arg, "residual" | "gate")
    }
}
