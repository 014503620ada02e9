//! [`GatherRows`]: rows of a table by id.

use super::{
    Arg, Arguments, OpKind, Rules, Weight,
    check::{Checker, product},
};
use crate::{error::Result, layout::TensorDesc};

/// y[.., :] = table[ids[..], :]: embedding lookup, also from a quantized table. An id outside
/// the table gives a row of zeros.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct GatherRows<T> {
    /// `[R, D]`, floats or quantized; must be [`Weight::Rows`] or a prepacked weight.
    pub table: Weight<T>,
    /// i32 or u32, any shape.
    pub ids: T,
    /// Floats, the shape of ids followed by D.
    pub y: T,
}

impl<T: Clone> GatherRows<T> {
    /// y = table\[ids\].
    pub fn new(table: impl Into<Weight<T>>, ids: &T, y: &T) -> Self {
        GatherRows {
            table: table.into(),
            ids: ids.clone(),
            y: y.clone(),
        }
    }
}

impl<T> Arguments<T> for GatherRows<T> {
    const KIND: OpKind = OpKind::GatherRows;
    type With<U> = GatherRows<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<GatherRows<U>, E> {
        Ok(GatherRows {
            table: self.table.try_map("table", f)?,
            ids: f(Arg::input("ids"), &self.ids)?,
            y: f(Arg::output("y"), &self.y)?,
        })
    }
}

impl Rules for GatherRows<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::GatherRows);
        self.table.check(c, "table")?;
        let w = self.table.logical();
        c.real("table", w)?;
        c.rank("table", w, 2)?;
        c.require(!self.table.is_transposed(), "table", || {
            "must be [R, D] rows, not transposed".to_owned()
        })?;
        c.index("ids", &self.ids)?;
        c.float("y", &self.y)?;
        let mut want = self.ids.shape().to_vec();
        want.push(w.dim(1));
        c.shape("y", &self.y, &want)
    }
    fn flops(&self) -> u64 {
        0
    }
    fn bytes(&self) -> Option<u64> {
        let w = self.table.logical();
        let block = w.element.block_len().max(1) as u64;
        let row = w.dim(1) as u64 / block * w.element.block_bytes() as u64;
        let read = product([self.ids.elements(), row + 4]);
        Some(read.saturating_add(self.y.data_bytes()))
    }
}
