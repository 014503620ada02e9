//! MatMulMany and GroupedMatMul.

use super::{FLOATS, List, PRECISIONS, after, desc, formats, ints, laid, normal, output, strided};
use crate::{
    Act, DType, Element, GroupedMatMul, MatMulMany, Part, QuantFormat, Routing, Weight,
    conformance::{Fill, Spec},
};

pub(super) fn add(list: &mut List) {
    many(list);
    experts(list);
}

fn many(list: &mut List) {
    let part = |e: Element, m: u32, n: u32, k: u32| {
        Part::new(
            Weight::Rows(normal(e, &[n, k])),
            &output(DType::F32, &[m, n]),
        )
    };
    let mixes: Vec<(&str, Vec<Element>)> = vec![
        ("f32", vec![DType::F32.into(); 3]),
        ("f16", vec![DType::F16.into(); 2]),
        ("bf16", vec![DType::BF16.into(); 3]),
        ("q8_0", vec![QuantFormat::Q8_0.into(); 3]),
        ("q4_0", vec![QuantFormat::Q4_0.into(); 2]),
        ("q4_k", vec![QuantFormat::Q4_K.into(); 3]),
        ("q6_k", vec![QuantFormat::Q6_K.into(); 2]),
        ("iq4_xs", vec![QuantFormat::IQ4_XS.into(); 3]),
        (
            "q4_k-q4_k-q6_k",
            vec![
                QuantFormat::Q4_K.into(),
                QuantFormat::Q4_K.into(),
                QuantFormat::Q6_K.into(),
            ],
        ),
        (
            "f32-q8_0",
            vec![DType::F32.into(), QuantFormat::Q8_0.into()],
        ),
        ("one", vec![QuantFormat::Q5_K.into()]),
    ];
    for (name, elements) in mixes {
        for m in [1, 5, 34] {
            for (precision, word) in PRECISIONS {
                let parts = elements
                    .iter()
                    .zip([48, 17, 33])
                    .map(|(&e, n)| part(e, m, n, 256));
                let op =
                    MatMulMany::new(&normal(DType::F32, &[m, 256]), parts).precision(precision);
                list.full(format!("mat_mul_many/{name}/{word}/m{m}"), op);
            }
        }
    }
    let op = MatMulMany::new(
        &normal(DType::F32, &[2, 64]),
        [
            part(DType::F32.into(), 2, 9, 64),
            part(QuantFormat::Q8_0.into(), 2, 7, 64),
        ],
    );
    list.smoke("mat_mul_many/smoke", op);
    for x in FLOATS {
        for m in [1, 6] {
            let p = |n: u32| {
                Part::new(
                    Weight::Rows(normal(QuantFormat::Q8_0, &[n, 64])),
                    &output(x, &[m, n]),
                )
            };
            let parts = [
                p(20).bias(&normal(x, &[20])).act(Act::Silu),
                p(9).residual(&normal(x, &[m, 9])).scale(0.5),
                p(20).accumulate(),
            ];
            let op = MatMulMany::new(&normal(x, &[m, 64]), parts);
            list.full(format!("mat_mul_many/epilogue/{x}/m{m}"), op);
        }
    }
    // Q, K and V side by side in the rows of one matrix.
    for m in [1, 5] {
        let y =
            |n: u32, first: u64| laid(strided(DType::F32, &[m, n], &[64, 1])).shared(0, first * 4);
        let w = |n: u32| Weight::Rows(normal(DType::F32, &[n, 64]));
        let op = MatMulMany::new(
            &normal(DType::F32, &[m, 64]),
            [
                Part::new(w(32), &y(32, 0)),
                Part::new(w(16), &y(16, 32)),
                Part::new(w(16), &y(16, 48)),
            ],
        );
        list.full(format!("mat_mul_many/one_buffer/m{m}"), op);
    }
    let op = MatMulMany::new(
        &normal(DType::F32, &[3, 4, 64]),
        [
            Part::new(
                Weight::Rows(normal(DType::F32, &[3, 9, 64])),
                &output(DType::F32, &[3, 4, 9]),
            ),
            Part::new(
                Weight::Transposed(normal(DType::F16, &[64, 11])),
                &output(DType::F16, &[3, 4, 11]),
            ),
        ],
    );
    list.full("mat_mul_many/batch", op);
    let op = MatMulMany::new(
        &normal(DType::F32, &[2, 64]),
        [
            part(DType::F32.into(), 2, 0, 64),
            part(DType::F32.into(), 2, 9, 64),
        ],
    );
    list.full("mat_mul_many/one_empty", op);
}

fn experts(list: &mut List) {
    let all: Vec<(Element, String, u32)> = FLOATS
        .into_iter()
        .map(|d| (d.into(), d.name().to_owned(), 40))
        .chain(formats().map(|(q, name, b)| (q.into(), name, b)))
        .collect();
    for (e, name, k) in all {
        for (precision, word) in PRECISIONS {
            let w = || Weight::Rows(normal(e, &[4, 19, k]));
            let op = GroupedMatMul::new(
                &normal(DType::F32, &[5, k]),
                w(),
                Routing::Ids(ints(&[5, 2], Fill::Ints(0, 4))),
                &output(DType::F32, &[5, 2, 19]),
            )
            .precision(precision);
            list.full(format!("grouped_mat_mul/ids/{name}/{word}"), op);
            let op = GroupedMatMul::new(
                &normal(DType::F32, &[9, k]),
                w(),
                Routing::Offsets(ints(&[5], Fill::Values(vec![0.0, 3.0, 3.0, 8.0, 9.0]))),
                &output(DType::F32, &[9, 19]),
            )
            .precision(precision);
            list.full(format!("grouped_mat_mul/offsets/{name}/{word}"), op);
        }
        let op = GroupedMatMul::new(
            &normal(DType::F32, &[1, k]),
            Weight::Rows(normal(e, &[6, 8, k])),
            Routing::Ids(ints(&[1, 3], Fill::Permutation(6))),
            &output(DType::F32, &[1, 3, 8]),
        );
        list.full(format!("grouped_mat_mul/one_row/{name}"), op);
    }
    let op = GroupedMatMul::new(
        &normal(DType::F32, &[3, 64]),
        Weight::Rows(normal(DType::F32, &[4, 9, 64])),
        Routing::Ids(ints(&[3, 2], Fill::Ints(0, 4))),
        &output(DType::F32, &[3, 2, 9]),
    );
    list.smoke("grouped_mat_mul/smoke", op);
    routing(list);
}

fn routing(list: &mut List) {
    for e in [
        Element::from(DType::F32),
        DType::F16.into(),
        QuantFormat::Q8_0.into(),
        QuantFormat::Q4_0.into(),
    ] {
        let w = || Weight::Rows(normal(e, &[4, 19, 64]));
        let y = || output(DType::F32, &[6, 2, 19]);
        let x = normal(DType::F32, &[6, 64]);
        let odd = Fill::Values(vec![3.0, -1.0, 4.0, 0.0, 1000.0, 2.0, 1.0]);
        let outside = GroupedMatMul::new(&x, w(), Routing::Ids(ints(&[6, 2], odd)), &y());
        list.full(format!("grouped_mat_mul/outside/{e}"), outside.clone());
        list.full(
            format!("grouped_mat_mul/outside_epilogue/{e}"),
            outside
                .bias(&normal(DType::F32, &[4, 19]))
                .act(Act::Silu)
                .residual(&normal(DType::F32, &[6, 2, 19])),
        );
        let unsigned = Spec::new(desc(DType::U32, &[6, 2]), Fill::Ints(0, 4));
        let op = GroupedMatMul::new(&x, w(), Routing::Ids(unsigned), &y());
        list.full(format!("grouped_mat_mul/u32/{e}"), op);
        let apart = Spec::new(strided(DType::I32, &[6, 2], &[8, 1]), Fill::Ints(0, 4));
        let op = GroupedMatMul::new(&x, w(), Routing::Ids(apart), &y());
        list.full(format!("grouped_mat_mul/strided_ids/{e}"), op);
        let ids = || Routing::Ids(ints(&[6, 2], Fill::Ints(0, 4)));
        let per_expert = normal(DType::F32, &[6, 2, 64]);
        let op = GroupedMatMul::new(&per_expert, w(), ids(), &y());
        list.full(format!("grouped_mat_mul/rows_of_experts/{e}"), op);
        let op = GroupedMatMul::new(&x, w(), ids(), &y())
            .bias(&normal(DType::F32, &[4, 19]))
            .act(Act::Silu)
            .gate(&normal(DType::F32, &[6, 2, 19]));
        list.full(format!("grouped_mat_mul/epilogue/{e}"), op);
        for d in FLOATS {
            let op = GroupedMatMul::new(&normal(d, &[6, 64]), w(), ids(), &output(d, &[6, 2, 19]));
            list.full(format!("grouped_mat_mul/types/{e}/{d}"), op);
        }
        // Rows beyond the last offset, an expert without rows, an offset beyond the rows.
        for (name, o) in [
            ("tail", vec![0.0, 2.0, 2.0, 4.0, 5.0]),
            ("none", vec![0.0; 5]),
            ("one_expert", vec![0.0, 0.0, 7.0, 7.0, 7.0]),
        ] {
            let op = GroupedMatMul::new(
                &normal(DType::F32, &[7, 64]),
                w(),
                Routing::Offsets(ints(&[5], Fill::Values(o))),
                &output(DType::F32, &[7, 19]),
            );
            list.full(format!("grouped_mat_mul/offsets_{name}/{e}"), op);
        }
        let op = GroupedMatMul::new(
            &normal(DType::F32, &[0, 64]),
            w(),
            Routing::Ids(ints(&[0, 2], Fill::Ints(0, 4))),
            &output(DType::F32, &[0, 2, 19]),
        );
        list.full(format!("grouped_mat_mul/empty/{e}"), op);
    }
    // Many rows of one expert: a tile's worth.
    let op = GroupedMatMul::new(
        &normal(DType::F32, &[70, 64]),
        Weight::Rows(normal(QuantFormat::Q4_0, &[8, 33, 64])),
        Routing::Ids(ints(&[70, 2], Fill::Ints(0, 8))),
        &output(DType::F32, &[70, 2, 33]),
    );
    list.full("grouped_mat_mul/many_rows", op);
    let wt = Weight::Transposed(normal(DType::F32, &[4, 64, 19]));
    let op = GroupedMatMul::new(
        &normal(DType::F32, &[6, 64]),
        wt,
        Routing::Ids(ints(&[6, 2], Fill::Ints(0, 4))),
        &output(DType::F32, &[6, 2, 19]),
    );
    list.full("grouped_mat_mul/transposed", op);
    let xd = desc(DType::F32, &[6, 64]);
    let yd = desc(DType::F32, &[6, 2, 19]);
    let op = GroupedMatMul::new(
        &laid(xd).shared(0, 4),
        Weight::Rows(normal(DType::F32, &[4, 19, 64]).at(4)),
        Routing::Ids(ints(&[6, 2], Fill::Ints(0, 4)).at(4)),
        &laid(yd).shared(0, after(8, &xd) + 4),
    );
    list.full("grouped_mat_mul/offset", op);
}
