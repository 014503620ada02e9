//! [`TopK`]: the largest numbers along the last axis.

use super::{Arg, Arguments, OpKind, Rules, check::Checker};
use crate::{element::DType, error::Result, layout::TensorDesc};

/// The k largest numbers of each row of x`[.., N]`, falling, and where they were: values and
/// ids`[.., k]`. Of equal numbers the lower index comes first; NaN counts as the largest. k is
/// the length of the last axis of ids; k = 1 is argmax.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct TopK<T> {
    /// Floats `[.., N]`.
    pub x: T,
    /// Floats `[.., k]`.
    pub values: T,
    /// i32 `[.., k]`.
    pub ids: T,
}

impl<T: Clone> TopK<T> {
    /// The largest numbers of each row.
    pub fn new(x: &T, values: &T, ids: &T) -> Self {
        TopK {
            x: x.clone(),
            values: values.clone(),
            ids: ids.clone(),
        }
    }
}

impl<T> Arguments<T> for TopK<T> {
    const KIND: OpKind = OpKind::TopK;
    type With<U> = TopK<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<TopK<U>, E> {
        Ok(TopK {
            x: f(Arg::input("x"), &self.x)?,
            values: f(Arg::output("values"), &self.values)?,
            ids: f(Arg::output("ids"), &self.ids)?,
        })
    }
}

impl TopK<TensorDesc> {
    /// How many numbers of each row.
    pub fn k(&self) -> u32 {
        self.ids.dim_back(0)
    }
}

impl Rules for TopK<TensorDesc> {
    fn check(&self) -> Result<()> {
        let c = Checker(OpKind::TopK);
        c.float("x", &self.x)?;
        c.rank_at_least("x", &self.x, 1)?;
        c.rank_at_least("ids", &self.ids, 1)?;
        let (k, n) = (self.k(), self.x.dim_back(0));
        c.require(k <= n, "ids", || format!("asks for {k} of {n} numbers"))?;
        let mut want = self.x.shape().to_vec();
        if let Some(last) = want.last_mut() {
            *last = k;
        }
        c.require(self.ids.plain() == Some(DType::I32), "ids", || {
            format!("is {}; expected i32", self.ids)
        })?;
        c.shape("ids", &self.ids, &want)?;
        c.float("values", &self.values)?;
        c.shape("values", &self.values, &want)
    }
    fn flops(&self) -> u64 {
        self.x.elements()
    }
}
