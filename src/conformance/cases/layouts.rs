//! MatMul over views: strides, batches, broadcasts, offsets, shared buffers.

use super::{List, after, depth, desc, laid, normal, output, padded, permuted, strided};
use crate::{
    DType, Element, MatMul, QuantFormat, TensorDesc, Weight,
    conformance::{Fill, Spec},
};

const WEIGHTS: [Element; 5] = [
    Element::Plain(DType::F32),
    Element::Plain(DType::F16),
    Element::Plain(DType::BF16),
    Element::Quant(QuantFormat::Q8_0),
    Element::Quant(QuantFormat::Q4_K),
];

pub(super) fn add(list: &mut List) {
    views(list);
    batches(list);
    offsets(list);
    shared(list);
}

/// Views of a `[rows, columns]` matrix, by name.
fn matrix(e: Element, rows: u32, columns: u32) -> Vec<(&'static str, TensorDesc)> {
    let mut all = vec![
        ("dense", desc(e, &[rows, columns])),
        ("apart", padded(e, &[rows, columns], 3)),
    ];
    if e.quant().is_none() {
        all.push(("columns", permuted(e, &[columns, rows], &[1, 0])));
        let skip = i64::from(columns) * 2;
        all.push(("every_other", strided(e, &[rows, columns], &[skip, 2])));
    }
    all
}

fn views(list: &mut List) {
    let f32s = Element::from(DType::F32);
    for (m, n, k) in [(1, 33, 64), (19, 34, 70)] {
        for w in WEIGHTS {
            let k = depth(w, k);
            for (xn, x) in matrix(f32s, m, k) {
                for (wn, wd) in matrix(w, n, k) {
                    for (yn, y) in matrix(f32s, m, n) {
                        let op = MatMul::new(&laid(x), Weight::Rows(laid(wd)), &laid(y));
                        list.full(format!("mat_mul/view/{w}/m{m}/x_{xn}/w_{wn}/y_{yn}"), op);
                    }
                }
                if w.quant().is_none() {
                    for (wn, wd) in matrix(w, k, n) {
                        let op = MatMul::new(
                            &laid(x),
                            Weight::Transposed(laid(wd)),
                            &output(f32s, &[m, n]),
                        );
                        list.full(format!("mat_mul/view/{w}/m{m}/x_{xn}/wt_{wn}"), op);
                    }
                }
            }
        }
        // One row repeated.
        let x = laid(strided(f32s, &[m, k], &[0, 1]));
        let op = MatMul::new(
            &x,
            Weight::Rows(normal(DType::F32, &[n, k])),
            &output(f32s, &[m, n]),
        );
        list.full(format!("mat_mul/view/repeated_row/m{m}"), op);
    }
}

fn batches(list: &mut List) {
    let f = DType::F32;
    for w in WEIGHTS {
        let k = depth(w, 40);
        let forms: Vec<(&str, TensorDesc, TensorDesc, TensorDesc)> = vec![
            (
                "both",
                desc(f, &[3, 4, k]),
                desc(w, &[3, 9, k]),
                desc(f, &[3, 4, 9]),
            ),
            (
                "one_weight",
                desc(f, &[2, 3, 4, k]),
                desc(w, &[9, k]),
                desc(f, &[2, 3, 4, 9]),
            ),
            (
                "single_rows",
                desc(f, &[6, 1, k]),
                desc(w, &[9, k]),
                desc(f, &[6, 1, 9]),
            ),
            (
                "one_x",
                desc(f, &[4, k]),
                desc(w, &[5, 9, k]),
                desc(f, &[5, 4, 9]),
            ),
            (
                "inner",
                desc(f, &[2, 3, 4, k]),
                desc(w, &[3, 9, k]),
                desc(f, &[2, 3, 4, 9]),
            ),
            (
                "outer",
                desc(f, &[2, 3, 4, k]),
                desc(w, &[2, 1, 9, k]),
                desc(f, &[2, 3, 4, 9]),
            ),
            (
                "crossed",
                desc(f, &[2, 1, 4, k]),
                desc(w, &[3, 9, k]),
                desc(f, &[2, 3, 4, 9]),
            ),
            (
                "heads",
                permuted(f, &[2, 4, 3, k], &[0, 2, 1, 3]),
                desc(w, &[2, 3, 9, k]),
                permuted(f, &[2, 4, 3, 9], &[0, 2, 1, 3]),
            ),
            (
                "rank6",
                desc(f, &[1, 2, 1, 2, 3, k]),
                desc(w, &[2, 1, 1, 9, k]),
                desc(f, &[1, 2, 1, 2, 3, 9]),
            ),
            (
                "repeated",
                strided(f, &[4, 3, k], &[0, i64::from(k), 1]),
                desc(w, &[4, 9, k]),
                desc(f, &[4, 3, 9]),
            ),
        ];
        for (name, x, wd, y) in forms {
            let op = MatMul::new(&laid(x), Weight::Rows(laid(wd)), &laid(y));
            list.full(format!("mat_mul/batch/{w}/{name}"), op);
        }
        let op = MatMul::new(
            &normal(f, &[0, 4, k]),
            Weight::Rows(normal(w, &[9, k])),
            &output(f, &[0, 4, 9]),
        );
        list.full(format!("mat_mul/batch/{w}/none"), op);
    }
}

/// Every operand at the least alignment that its element type has.
fn offsets(list: &mut List) {
    let elements: Vec<Element> = [DType::F32, DType::F16, DType::BF16, DType::F8E4M3]
        .into_iter()
        .map(Element::from)
        .chain(QuantFormat::ALL.iter().map(|&q| q.into()))
        .collect();
    for w in elements {
        let k = depth(w, 48);
        for (m, x, y) in [
            (1, DType::F32, DType::F32),
            (6, DType::F16, DType::F16),
            (1, DType::BF16, DType::BF16),
        ] {
            let op = MatMul::new(
                &normal(x, &[m, k]).at(x.size() as u64),
                Weight::Rows(normal(w, &[17, k]).at(w.align() * 3)),
                &output(y, &[m, 17]).at(y.size() as u64 * 5),
            );
            list.full(format!("mat_mul/offset/{w}/{x}/m{m}"), op);
        }
    }
}

/// All operands in one buffer, side by side.
fn shared(list: &mut List) {
    for w in WEIGHTS {
        for m in [1, 6] {
            let k = depth(w, 48);
            let (xd, wd) = (desc(DType::F32, &[m, k]), desc(w, &[17, k]));
            let yd = desc(DType::F32, &[m, 17]);
            let w_at = after(0, &xd);
            let y_at = after(w_at, &wd);
            let r_at = after(y_at, &yd);
            let op = MatMul::new(
                &laid(xd).shared(0, 0),
                Weight::Rows(laid(wd).shared(0, w_at)),
                &laid(yd).shared(0, y_at),
            )
            .residual(&laid(yd).shared(0, r_at));
            list.full(format!("mat_mul/shared/{w}/m{m}"), op);
        }
    }
    // x and w are the same numbers: a Gram matrix.
    let d = desc(DType::F32, &[20, 48]);
    let again = Spec::new(d, Fill::Keep).shared(0, 0);
    let op = MatMul::new(
        &laid(d).shared(0, 0),
        Weight::Rows(again),
        &output(DType::F32, &[20, 20]),
    );
    list.full("mat_mul/shared/gram", op);
    // y is a column range of a wider matrix whose other columns belong to someone else.
    for (first, m) in [(0u64, 1), (16, 5)] {
        let op = MatMul::new(
            &normal(DType::F32, &[m, 64]),
            Weight::Rows(normal(DType::F32, &[16, 64])),
            &laid(strided(DType::F32, &[m, 16], &[40, 1])).at(first * 4),
        );
        list.full(format!("mat_mul/shared/columns_from_{first}/m{m}"), op);
    }
}
