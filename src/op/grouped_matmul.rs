//! [`GroupedMatMul`]: mixture of experts.

use super::{
    Act, Arg, Arguments, OpKind, Precision, Rules,
    check::{Checker, product},
    epilogue::{Epilogue, epilogue_setters, precision_setter},
    matmul::check_elements,
    weight::Weight,
};
use crate::{error::Result, layout::TensorDesc};

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

    precision_setter!();
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
