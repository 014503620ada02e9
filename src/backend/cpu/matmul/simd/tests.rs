//! Every row by name against the f64 reference: formats, odd sizes, strides, batches,
//! epilogues, on the instruction sets that this machine has.

use super::ROWS;
use crate::{
    Act, DType, Element, MatMul, MatMulMany, Part, Precision, TensorDesc, Weight,
    backend::cpu::rows::{levels, run_simd_rows},
    conformance::{Case, Fill, Spec},
    op::OpKind,
    quant::QuantFormat,
};

fn spec(element: impl Into<Element>, shape: &[u32]) -> Spec {
    Spec::new(
        TensorDesc::new(element, shape).unwrap(),
        Fill::Normal(0.0, 1.0),
    )
}

/// Rows of `k` in rows of `stride`.
fn strided(element: impl Into<Element>, shape: &[u32], strides: &[i64]) -> Spec {
    Spec::new(
        TensorDesc::strided(element, shape, strides).unwrap(),
        Fill::Normal(0.0, 1.0),
    )
}

fn weights() -> Vec<Element> {
    use QuantFormat::*;
    [DType::F32, DType::F16, DType::BF16]
        .map(Element::Plain)
        .into_iter()
        .chain([Q4_0, Q4_1, Q5_0, Q8_0, Q4_K, Q6_K, Q5_1, IQ4_XS].map(Element::Quant))
        .collect()
}

fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    let f32s = |shape: &[u32]| spec(DType::F32, shape);
    for w in weights() {
        for precision in [Precision::F32, Precision::Q8] {
            let name = format!("{}/{:?}", w.name(), precision.activations);
            let block = w.block_len() as u32;
            let mut add = |what: String, op: MatMul<Spec>| {
                list.push(Case::new(format!("{name}/{what}"), op.precision(precision)));
            };
            for m in [1, 2, 3, 4, 5, 6, 7, 8, 13, 37] {
                let n = if m % 2 == 0 { 33 } else { 70 };
                // An odd number of blocks, and more than one panel of k.
                let k = if block == 1 {
                    37 * m + 1
                } else {
                    block * if m % 3 == 0 { 1 } else { 19 }
                };
                let (x, y) = (f32s(&[m, k]), f32s(&[m, n]));
                add(
                    format!("m{m}"),
                    MatMul::new(&x, Weight::Rows(spec(w, &[n, k])), &y),
                );
            }
            for m in [3, 9] {
                let k = block.max(32) * 2;
                for (x, y) in [(DType::F16, DType::BF16), (DType::BF16, DType::F16)] {
                    let (x, y) = (spec(x, &[2, m, k]), spec(y, &[2, m, 21]));
                    let weight = Weight::Rows(spec(w, &[2, 21, k]));
                    let op = MatMul::new(&x, weight, &y)
                        .scale(0.5)
                        .bias(&spec(DType::F16, &[21]))
                        .act(Act::Silu)
                        .gate(&spec(DType::BF16, &[2, m, 21]))
                        .residual(&f32s(&[2, m, 21]));
                    add(format!("epilogue/m{m}/{:?}", y.desc.plain()), op);
                }
                let stride = i64::from(k) + 5;
                let x = strided(DType::F32, &[m, k], &[stride, 1]);
                let y = strided(DType::F32, &[m, 40], &[47, 1]);
                let op = MatMul::new(&x, Weight::Rows(spec(w, &[40, k])), &y);
                add(format!("strided/m{m}"), op.accumulate());
                // x has one axis that w lacks, and the other way round.
                let (x, y) = (f32s(&[3, 1, m, k]), f32s(&[3, 2, m, 9]));
                let op = MatMul::new(&x, Weight::Rows(spec(w, &[2, 9, k])), &y);
                add(format!("broadcast/m{m}"), op);
            }
        }
    }
    for act in [
        Act::Relu,
        Act::ReluSquared,
        Act::Sigmoid,
        Act::GeluQuick,
        Act::GeluTanh,
        Act::Gelu,
    ] {
        let op = MatMul::new(
            &f32s(&[2, 64]),
            Weight::Rows(f32s(&[50, 64])),
            &f32s(&[2, 50]),
        );
        list.push(Case::new(format!("act/{}", act.name()), op.act(act)));
    }
    for precision in [Precision::F32, Precision::Q8] {
        for m in [1, 11] {
            let part = |q: QuantFormat, n| {
                Part::new(Weight::Rows(spec(q, &[n, 512])), &f32s(&[m, n])).scale(0.25)
            };
            let parts = [
                part(QuantFormat::Q4_K, 48),
                part(QuantFormat::Q6_K, 7),
                part(QuantFormat::Q8_0, 130),
            ];
            let op = MatMulMany::new(&f32s(&[m, 512]), parts).precision(precision);
            list.push(Case::new(
                format!("many/{:?}/m{m}", precision.activations),
                op,
            ));
        }
    }
    list
}

#[test]
fn every_row_agrees_with_the_reference() {
    let cases = cases();
    for level in levels(false) {
        let (isa, report) = run_simd_rows(level, &cases);
        let ran = |id: &str| {
            report
                .outcomes
                .iter()
                .any(|o| o.kernel.as_deref() == Some(id))
        };
        for row in ROWS {
            let expected = match row.id.0.rsplit('-').next() {
                Some("avx2") => isa.avx2,
                Some("neon") => isa.neon,
                _ => isa.avx512_vnni,
            };
            assert_eq!(ran(row.id.0), expected, "{} at {level:?}", row.id);
        }
    }
    let many = ROWS.iter().filter(|r| r.op == OpKind::MatMulMany).count();
    assert_eq!(many, if cfg!(target_arch = "aarch64") { 1 } else { 4 });
}
