//! MatMul, MatMulMany, GroupedMatMul.

use super::{List, normal, output};
use crate::{
    DType, MatMul, Weight,
    conformance::{Case, Tier},
    quant::QuantFormat,
};

pub(super) fn add(list: &mut List) {
    for (m, n, k) in [(1, 33, 64), (5, 17, 129), (33, 40, 96)] {
        let x = normal(DType::F32, &[m, k]);
        let w = normal(DType::F32, &[n, k]);
        let y = output(DType::F32, &[m, n]);
        let op = MatMul::new(&x, Weight::Rows(w), &y);
        list.push(Case::new(format!("mat_mul/smoke/f32/m{m}n{n}k{k}"), op).tier(Tier::Smoke));
    }
    for &q in QuantFormat::ALL {
        let k = 2 * q.block_len() as u32;
        for m in [1, 3] {
            let x = normal(DType::F32, &[m, k]);
            let op = MatMul::new(
                &x,
                Weight::Rows(normal(q, &[33, k])),
                &output(DType::F32, &[m, 33]),
            );
            let name = q.name().to_ascii_lowercase();
            list.push(Case::new(format!("mat_mul/smoke/{name}/m{m}"), op).tier(Tier::Smoke));
        }
    }
}
