//! Dequantize, Quantize, GatherRows, Reduce, TopK, Copy.

use super::{List, normal, output};
use crate::{
    Copy, DType, Dequantize, GatherRows, RedOp, Reduce, TopK, Weight,
    conformance::{Case, Fill, Spec, Tier},
    quant::QuantFormat,
};

pub(super) fn add(list: &mut List) {
    for &q in QuantFormat::ALL {
        let shape = [3, 2 * q.block_len() as u32];
        let op = Dequantize::new(&normal(q, &shape), &output(DType::F32, &shape));
        let name = q.name().to_ascii_lowercase();
        list.push(
            Case::new(format!("dequantize/smoke/{name}/{}", super::by(&shape)), op)
                .tier(Tier::Smoke),
        );
    }
    let x = normal(DType::F32, &[4, 50]);
    let op = TopK::new(
        &x,
        &output(DType::F32, &[4, 5]),
        &output(DType::I32, &[4, 5]),
    );
    list.push(Case::new("top_k/smoke", op).tier(Tier::Smoke));
    let op = Reduce::new(RedOp::Sum, &x, 1, &output(DType::F32, &[4, 1]));
    list.push(Case::new("reduce/smoke", op).tier(Tier::Smoke));
    let op = Copy::new(&x, &output(DType::F16, &[4, 50]));
    list.push(Case::new("copy/smoke", op).tier(Tier::Smoke));
    let ids = Spec::new(super::desc(DType::I32, &[3]), Fill::Ints(0, 4));
    let op = GatherRows::new(Weight::Rows(x), &ids, &output(DType::F32, &[3, 50]));
    list.push(Case::new("gather_rows/smoke", op).tier(Tier::Smoke));
}
