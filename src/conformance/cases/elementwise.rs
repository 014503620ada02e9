//! Unary, Binary, Glu.

use super::{List, normal, output};
use crate::{
    Act, Binary, DType, Glu, Unary,
    conformance::{Case, Tier},
};

pub(super) fn add(list: &mut List) {
    let t = || normal(DType::F32, &[3, 37]);
    let y = output(DType::F32, &[3, 37]);
    list.push(Case::new("unary/smoke", Unary::new(Act::Silu, &t(), &y)).tier(Tier::Smoke));
    list.push(Case::new("binary/smoke", Binary::add(&t(), &t(), &y)).tier(Tier::Smoke));
    list.push(Case::new("glu/smoke", Glu::new(Act::Silu, &t(), &t(), &y)).tier(Tier::Smoke));
}
