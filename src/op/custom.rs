//! [`Custom`]: a named op of a third party.

use super::{Arg, Arguments, OpKind, Rules};
use crate::{error::Result, layout::TensorDesc};
use std::borrow::Cow;

/// An op that this crate does not know: a backend recognises it by name. It is never decomposed
/// and never falls back to the host.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Custom<T> {
    /// Name, by convention `crate/op`.
    pub name: Cow<'static, str>,
    /// Operands that are read.
    pub inputs: Vec<T>,
    /// Operands that are written.
    pub outputs: Vec<T>,
    /// Attributes in a form that the backend knows.
    #[cfg_attr(feature = "serde", serde(default))]
    pub params: Vec<u8>,
}

impl<T> Arguments<T> for Custom<T> {
    const KIND: OpKind = OpKind::Custom;
    type With<U> = Custom<U>;
    fn try_map<'a, U, E>(
        &'a self,
        f: &mut dyn FnMut(Arg, &'a T) -> Result<U, E>,
    ) -> Result<Custom<U>, E> {
        Ok(Custom {
            name: self.name.clone(),
            inputs: self
                .inputs
                .iter()
                .map(|t| f(Arg::input("inputs"), t))
                .collect::<Result<_, E>>()?,
            outputs: self
                .outputs
                .iter()
                .map(|t| f(Arg::output("outputs"), t))
                .collect::<Result<_, E>>()?,
            params: self.params.clone(),
        })
    }
}

impl Rules for Custom<TensorDesc> {
    fn check(&self) -> Result<()> {
        Ok(())
    }
    fn flops(&self) -> u64 {
        0
    }
}
