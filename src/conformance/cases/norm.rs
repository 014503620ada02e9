//! Norm, Softmax, Rope.

use super::{List, normal, output};
use crate::{
    DType, Norm, Rope, RopeKind, Softmax,
    conformance::{Case, Fill, Spec, Tier},
};

pub(super) fn add(list: &mut List) {
    let x = normal(DType::F32, &[3, 100]);
    let y = output(DType::F32, &[3, 100]);
    let w = normal(DType::F32, &[100]);
    list.push(Case::new("norm/smoke/rms", Norm::rms(&x, &w, 1e-5, &y)).tier(Tier::Smoke));
    list.push(Case::new("norm/smoke/layer", Norm::layer(&x, &w, 1e-5, &y)).tier(Tier::Smoke));
    list.push(Case::new("softmax/smoke", Softmax::new(&x, &y)).tier(Tier::Smoke));
    let x = normal(DType::F32, &[1, 2, 3, 16]);
    let y = output(DType::F32, &[1, 2, 3, 16]);
    let p = Spec::new(super::desc(DType::I32, &[3]), Fill::Steps(5.0, 1.0));
    let rope = Rope::new(RopeKind::HalfSplit, &x, &p, 1e4, 16, &y);
    list.push(Case::new("rope/smoke", rope).tier(Tier::Smoke));
}
