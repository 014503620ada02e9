//! Attention, KvWrite.

use super::{List, normal, output};
use crate::{
    Attention, DType,
    conformance::{Case, Tier},
};

pub(super) fn add(list: &mut List) {
    for (sq, kv) in [(1, 33), (7, 40)] {
        let q = normal(DType::F32, &[1, 4, sq, 64]);
        let k = normal(DType::F32, &[1, 2, 48, 64]);
        let v = normal(DType::F32, &[1, 2, 48, 64]);
        let out = output(DType::F32, &[1, 4, sq, 64]);
        let op = Attention::dense(&q, &k, &v, kv, 0.125, &out).causal();
        list.push(Case::new(format!("attention/smoke/q{sq}kv{kv}"), op).tier(Tier::Smoke));
    }
}
