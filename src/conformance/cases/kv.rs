//! KvWrite.

use super::{FLOATS, List, desc, ints, laid, normal, permuted, strided};
use crate::{
    DType, Element, Kv, KvWrite, QuantFormat,
    conformance::{Fill, Spec},
};

const CACHES: [Element; 4] = [
    Element::Plain(DType::F32),
    Element::Plain(DType::F16),
    Element::Plain(DType::BF16),
    Element::Quant(QuantFormat::Q8_0),
];

pub(super) fn add(list: &mut List) {
    let new = |e: DType| normal(e, &[1, 2, 3, 32]);
    let cache = |e: Element| normal(e, &[1, 2, 10, 32]);
    let op = KvWrite::dense(
        &new(DType::F32),
        &new(DType::F32),
        &cache(DType::F16.into()),
        &cache(DType::F16.into()),
        &ints(&[3], Fill::Steps(4.0, 1.0)),
    );
    list.smoke("kv_write/smoke", op);
    for e in CACHES {
        for x in FLOATS {
            for (b, s, d) in [(1, 1, 64), (1, 7, 96), (2, 5, 128), (3, 1, 32)] {
                let new = || normal(x, &[b, 2, s, d]);
                let cache = || normal(e, &[b, 2, 20, d]);
                // Distinct within each sequence: a step of 7 modulo 20.
                let slots: Vec<f64> = (0..b * s).map(|i| f64::from(i * 7 % 20)).collect();
                let op = KvWrite::dense(
                    &new(),
                    &new(),
                    &cache(),
                    &cache(),
                    &ints(&[b, s], Fill::Values(slots)),
                );
                list.full(format!("kv_write/dense/{e}/{x}/b{b}s{s}d{d}"), op);
                let pool = || normal(e, &[6, 2, 8, d]);
                let kv = Kv::Paged {
                    k: pool(),
                    v: pool(),
                    table: ints(&[b, 2], Fill::Permutation(6)),
                };
                let slots = ints(&[b, s], Fill::Permutation(48));
                let op = KvWrite::new(&new(), &new(), kv, &slots);
                list.full(format!("kv_write/paged/{e}/{x}/b{b}s{s}d{d}"), op);
            }
        }
        let new = |d: u32| normal(DType::F32, &[1, 2, 5, d]);
        let cache = |d: u32| normal(e, &[1, 2, 12, d]);
        let odd = ints(&[5], Fill::Values(vec![3.0, -1.0, 11.0, 12.0, 1e6]));
        let op = KvWrite::dense(&new(64), &new(64), &cache(64), &cache(64), &odd);
        list.full(format!("kv_write/dropped/{e}"), op);
        let kv = Kv::Paged {
            k: normal(e, &[3, 2, 4, 64]),
            v: normal(e, &[3, 2, 4, 64]),
            table: ints(&[1, 2], Fill::Permutation(3)),
        };
        let odd = ints(&[5], Fill::Values(vec![3.0, -1.0, 11.0, 12.0, 1e6]));
        list.full(
            format!("kv_write/dropped_paged/{e}"),
            KvWrite::new(&new(64), &new(64), kv, &odd),
        );
        let unsigned = Spec::new(desc(DType::U32, &[1, 5]), Fill::Permutation(12));
        let op = KvWrite::dense(&new(576), &new(512), &cache(576), &cache(512), &unsigned);
        list.full(format!("kv_write/mla/{e}"), op);
        // Projections leave [B, S, H, D]; caches may too.
        let swapped = |e: Element, n: u32| laid(permuted(e, &[2, n, 3, 64], &[0, 2, 1, 3]));
        let slots = ints(&[2, 5], Fill::Values(vec![0.0, 11.0, 4.0, 5.0, 1.0]));
        let op = KvWrite::dense(
            &swapped(DType::F32.into(), 5),
            &swapped(DType::F32.into(), 5),
            &swapped(e, 12),
            &swapped(e, 12),
            &slots,
        );
        list.full(format!("kv_write/heads_inside/{e}"), op);
        let apart = Spec::new(
            strided(DType::I32, &[2, 5], &[16, 2]),
            Fill::Permutation(12),
        )
        .at(4);
        let new = || normal(DType::F16, &[2, 3, 5, 64]).at(2);
        let cache = |at: u64| normal(e, &[2, 3, 12, 64]).at(at);
        let op = KvWrite::dense(
            &new(),
            &new(),
            &cache(e.align()),
            &cache(3 * e.align()),
            &apart,
        );
        list.full(format!("kv_write/offset/{e}"), op);
        let op = KvWrite::dense(
            &normal(DType::F32, &[1, 2, 0, 64]),
            &normal(DType::F32, &[1, 2, 0, 64]),
            &normal(e, &[1, 2, 12, 64]),
            &normal(e, &[1, 2, 12, 64]),
            &ints(&[0], Fill::Steps(0.0, 1.0)),
        );
        list.full(format!("kv_write/empty/{e}"), op);
        let zero = || normal(DType::F32, &[1, 2, 2, 64]).fill(Fill::Values(vec![0.0]));
        let op = KvWrite::dense(
            &zero(),
            &zero(),
            &normal(e, &[1, 2, 4, 64]),
            &normal(e, &[1, 2, 4, 64]),
            &ints(&[2], Fill::Steps(1.0, 1.0)),
        );
        list.full(format!("kv_write/zeros/{e}"), op);
    }
}
