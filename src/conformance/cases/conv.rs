//! Conv2d, Upsample.

use super::{List, normal, output};
use crate::{
    Conv2d, DType, Upsample,
    conformance::{Case, Tier},
};

pub(super) fn add(list: &mut List) {
    let x = normal(DType::F32, &[1, 3, 6, 5]);
    let w = normal(DType::F32, &[4, 3, 3, 3]);
    let op = Conv2d::new(&x, &w, &output(DType::F32, &[1, 4, 6, 5])).pad(1, 1);
    list.push(Case::new("conv2d/smoke", op).tier(Tier::Smoke));
    let op = Upsample::new(&x, &output(DType::F32, &[1, 3, 12, 15]));
    list.push(Case::new("upsample/smoke", op).tier(Tier::Smoke));
}
