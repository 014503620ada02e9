//! MatMul: formats, element types, sizes, special numbers.

use super::{FLOATS, List, PRECISIONS, formats, laid, normal, output, padded};
use crate::{
    Accumulator, Activations, DType, Element, MatMul, Precision, Weight, conformance::Fill,
};

pub(super) fn add(list: &mut List) {
    smoke(list);
    quantized(list);
    plain(list);
    sizes(list);
    special(list);
    empty(list);
}

fn smoke(list: &mut List) {
    for (m, n, k) in [(1, 33, 64), (5, 17, 129), (33, 40, 96)] {
        let op = MatMul::new(
            &normal(DType::F32, &[m, k]),
            Weight::Rows(normal(DType::F32, &[n, k])),
            &output(DType::F32, &[m, n]),
        );
        list.smoke(format!("mat_mul/smoke/f32/m{m}n{n}k{k}"), op);
    }
    for (q, name, block) in formats() {
        let k = 2 * block;
        for m in [1, 3] {
            let op = MatMul::new(
                &normal(DType::F32, &[m, k]),
                Weight::Rows(normal(q, &[33, k])),
                &output(DType::F32, &[m, 33]),
            );
            list.smoke(format!("mat_mul/smoke/{name}/m{m}"), op);
        }
    }
}

/// Every format at every precision: one block, a few, many; one row to a tile and a tail.
fn quantized(list: &mut List) {
    for (q, name, b) in formats() {
        let long = 2048 / b * b;
        let shapes = [
            (1, 1, b),
            (1, 33, 3 * b),
            (2, 31, 2 * b),
            (3, 8, b),
            (5, 48, 3 * b),
            (17, 65, 2 * b),
            (64, 33, (1280 / b).max(1) * b),
            (1, 130, long),
        ];
        for (precision, word) in PRECISIONS {
            for (i, (m, n, k)) in shapes.into_iter().enumerate() {
                let (x, y) = match (precision.activations, i % 3) {
                    (Activations::Half, 0) => (DType::F16, DType::F16),
                    (Activations::Half, 1) => (DType::BF16, DType::BF16),
                    (_, 2) => (DType::F32, DType::F16),
                    _ => (DType::F32, DType::F32),
                };
                let op = MatMul::new(
                    &normal(x, &[m, k]),
                    Weight::Rows(normal(q, &[n, k])),
                    &output(y, &[m, n]),
                )
                .precision(precision);
                list.full(
                    format!("mat_mul/format/{name}/{word}/{x}-{y}/m{m}n{n}k{k}"),
                    op,
                );
            }
        }
        for (x, y) in [
            (DType::F16, DType::F32),
            (DType::BF16, DType::F16),
            (DType::F16, DType::BF16),
        ] {
            let op = MatMul::new(
                &normal(x, &[4, 2 * b]),
                Weight::Rows(normal(q, &[19, 2 * b])),
                &output(y, &[4, 19]),
            );
            list.full(format!("mat_mul/format/{name}/exact/{x}-{y}"), op);
        }
        if q.can_encode() {
            let w = normal(q, &[16, b]).fill(Fill::Encoded);
            let op = MatMul::new(
                &normal(DType::F32, &[2, b]),
                Weight::Rows(w),
                &output(DType::F32, &[2, 16]),
            );
            list.full(format!("mat_mul/format/{name}/encoded"), op);
        }
        let op = MatMul::new(
            &laid(padded(DType::F32, &[3, 2 * b], 5)),
            Weight::Rows(laid(padded(q, &[21, 2 * b], 1))),
            &laid(padded(DType::F32, &[3, 21], 3)),
        );
        list.full(format!("mat_mul/format/{name}/rows_apart"), op);
    }
}

fn plain(list: &mut List) {
    let shapes = [(1, 37, 100), (7, 33, 64), (35, 20, 130)];
    let weights = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F8E4M3,
        DType::F8E5M2,
    ];
    for w in weights {
        for x in FLOATS {
            for y in FLOATS {
                for (precision, word) in PRECISIONS {
                    if precision.activations == Activations::Q8
                        && (x, y) != (DType::F32, DType::F32)
                    {
                        continue;
                    }
                    for (m, n, k) in shapes {
                        let op = MatMul::new(
                            &normal(x, &[m, k]),
                            Weight::Rows(normal(w, &[n, k])),
                            &output(y, &[m, n]),
                        )
                        .precision(precision);
                        list.full(format!("mat_mul/plain/{x}-{w}-{y}/{word}/m{m}n{n}k{k}"), op);
                    }
                }
            }
        }
        for (m, n, k) in [(1, 37, 100), (18, 33, 65)] {
            let op = MatMul::new(
                &normal(DType::F32, &[m, k]),
                Weight::Transposed(normal(w, &[k, n])),
                &output(DType::F32, &[m, n]),
            );
            list.full(format!("mat_mul/transposed/{w}/m{m}n{n}k{k}"), op);
        }
    }
    for x in [DType::F8E4M3, DType::F8E5M2] {
        for (m, n, k) in shapes {
            let op = MatMul::new(
                &normal(x, &[m, k]),
                Weight::Rows(normal(x, &[n, k])),
                &output(DType::F32, &[m, n]),
            );
            list.full(format!("mat_mul/plain/{x}-{x}/m{m}n{n}k{k}"), op);
        }
    }
    let half = Precision {
        activations: Activations::Half,
        accumulator: Accumulator::F16,
    };
    for (m, n, k) in shapes {
        let op = MatMul::new(
            &normal(DType::F16, &[m, k]),
            Weight::Rows(normal(DType::F16, &[n, k])),
            &output(DType::F16, &[m, n]),
        )
        .precision(half);
        list.full(format!("mat_mul/plain/f16_accumulator/m{m}n{n}k{k}"), op);
    }
    for y in [DType::I32, DType::F32, DType::F16, DType::BF16] {
        for (m, n, k) in [(1, 33, 64), (5, 18, 129), (33, 40, 1000), (2, 9, 1)] {
            let bytes = |shape: &[u32]| normal(DType::I8, shape).fill(Fill::Ints(-127, 128));
            let op = MatMul::new(
                &bytes(&[m, k]),
                Weight::Rows(bytes(&[n, k])),
                &output(y, &[m, n]),
            );
            // Products of K = 1000 bytes exceed f16.
            if y == DType::F16 && k == 1000 {
                list.full(
                    format!("mat_mul/i8/{y}/m{m}n{n}k{k}"),
                    op.scale(1.0 / 1024.0),
                );
            } else {
                list.full(format!("mat_mul/i8/{y}/m{m}n{n}k{k}"), op);
            }
        }
    }
}

/// One axis at a time through tile edges.
fn sizes(list: &mut List) {
    let edges = [
        1u32, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 47, 48, 49, 63, 64, 65, 96,
        127, 128, 129,
    ];
    for w in FLOATS {
        let mut push = |m: u32, n: u32, k: u32| {
            let op = MatMul::new(
                &normal(DType::F32, &[m, k]),
                Weight::Rows(normal(w, &[n, k])),
                &output(DType::F32, &[m, n]),
            );
            list.full(format!("mat_mul/size/{w}/m{m}n{n}k{k}"), op);
        };
        for e in edges {
            push(e, 34, 66);
            push(3, e, 50);
            push(2, 11, e);
            push(20, 19, e + 200);
        }
        for k in [255, 256, 257, 511, 1000, 2048, 2049] {
            push(1, 7, k);
            push(6, 17, k);
        }
    }
}

fn special(list: &mut List) {
    let elements = [
        Element::from(DType::F32),
        DType::F16.into(),
        DType::BF16.into(),
        crate::QuantFormat::Q4_0.into(),
        crate::QuantFormat::Q8_0.into(),
        crate::QuantFormat::Q4_K.into(),
    ];
    for e in elements {
        for (m, n) in [(1, 9), (6, 20), (70, 40)] {
            let k = if e.quant().is_some() {
                e.block_len() as u32
            } else {
                8
            };
            let x = normal(DType::F32, &[m, k]).fill(Fill::Special);
            let op = MatMul::new(
                &x,
                Weight::Rows(normal(e, &[n, k])),
                &output(DType::F32, &[m, n]),
            );
            list.full(format!("mat_mul/special/{e}/m{m}n{n}k{k}"), op);
        }
    }
    for (m, n) in [(1, 9), (6, 20), (70, 40)] {
        let op = MatMul::new(
            &normal(DType::F32, &[m, 8]),
            Weight::Rows(normal(DType::F32, &[n, 8]).fill(Fill::Special)),
            &output(DType::F32, &[m, n]),
        );
        list.full(format!("mat_mul/special/weights/m{m}n{n}"), op);
    }
    // Zeros everywhere: a block scale of 0 must not divide.
    for (precision, word) in PRECISIONS {
        let op = MatMul::new(
            &normal(DType::F32, &[2, 64]).fill(Fill::Values(vec![0.0])),
            Weight::Rows(normal(crate::QuantFormat::Q4_0, &[9, 64])),
            &output(DType::F32, &[2, 9]),
        )
        .precision(precision);
        list.full(format!("mat_mul/special/zeros/{word}"), op);
    }
}

fn empty(list: &mut List) {
    for (m, n, k) in [(0, 5, 8), (3, 0, 8), (0, 0, 0), (0, 4, 0)] {
        let op = MatMul::new(
            &normal(DType::F32, &[m, k]),
            Weight::Rows(normal(DType::F32, &[n, k])),
            &output(DType::F32, &[m, n]),
        );
        list.full(format!("mat_mul/empty/m{m}n{n}k{k}"), op);
    }
}
