//! The case list: plain loops, one file per op family.

mod attention;
mod conv;
mod elementwise;
mod matmul;
mod norm;
mod rows;

use super::{
    case::{Case, Spec, Tier},
    fill::Fill,
};
use crate::{
    element::Element,
    layout::{LayoutError, TensorDesc},
};

/// Every case up to `tier`, each under a name of its own.
pub fn cases(tier: Tier) -> Vec<Case> {
    let mut list = List(Vec::new());
    matmul::add(&mut list);
    attention::add(&mut list);
    elementwise::add(&mut list);
    norm::add(&mut list);
    rows::add(&mut list);
    conv::add(&mut list);
    list.0.retain(|c| c.tier <= tier);
    list.0
}

/// Collects cases.
struct List(Vec<Case>);

impl List {
    fn push(&mut self, case: Case) {
        self.0.push(case);
    }
}

/// A description; the lists below hold only shapes that exist.
fn desc(element: impl Into<Element>, shape: &[u32]) -> TensorDesc {
    valid(TensorDesc::new(element, shape))
}

/// A shape that does not exist becomes an empty description, which the op's own check refuses; a
/// test holds every case to that check.
fn valid(d: Result<TensorDesc, LayoutError>) -> TensorDesc {
    d.unwrap_or_else(|_| empty())
}

fn empty() -> TensorDesc {
    match TensorDesc::new(crate::DType::U8, &[0]) {
        Ok(d) => d,
        Err(e) => unreachable!("{e}"),
    }
}

/// An operand of standard normal numbers.
fn normal(element: impl Into<Element>, shape: &[u32]) -> Spec {
    Spec::new(desc(element, shape), Fill::Normal(0.0, 1.0))
}

/// An operand that is only written.
fn output(element: impl Into<Element>, shape: &[u32]) -> Spec {
    normal(element, shape)
}

/// `2x3x4`.
fn by(shape: &[u32]) -> String {
    let words: Vec<String> = shape.iter().map(u32::to_string).collect();
    words.join("x")
}
