//! Copy: casts, permutations, broadcasts.

use super::{List, desc, formats, laid, normal, output, padded, permuted, strided};
use crate::{
    Copy, DType, Element, TensorDesc,
    conformance::{Fill, Spec},
};

/// Numbers that a type holds, among them those that others do not.
fn numbers(d: DType) -> Fill {
    let inf = f64::INFINITY;
    Fill::Values(match d {
        DType::I8 => vec![0.0, 1.0, -1.0, 127.0, -128.0, 77.0],
        DType::U8 => vec![0.0, 1.0, 255.0, 128.0, 77.0],
        DType::I32 => vec![
            0.0,
            -1.0,
            300.0,
            -70_000.0,
            2_147_483_647.0,
            -2_147_483_648.0,
            16_777_217.0,
        ],
        DType::U32 => vec![0.0, 1.0, 300.0, 70_000.0, 4_294_967_295.0, 16_777_217.0],
        DType::I64 => vec![
            0.0,
            -1.0,
            300.0,
            -70_000.0,
            5e12,
            -5e12,
            16_777_217.0,
            2_147_483_648.0,
        ],
        DType::F8E4M3 | DType::F8E5M2 => vec![
            0.0,
            1.0,
            -1.5,
            0.015625,
            448.0,
            -240.0,
            0.001953125,
            f64::NAN,
        ],
        _ => vec![
            0.0,
            -0.0,
            1.0,
            -1.5,
            2.5,
            0.333_333,
            -0.999,
            127.6,
            -128.9,
            255.5,
            300.7,
            500.0,
            65504.0,
            65519.0,
            65520.0,
            -70_000.3,
            3e9,
            -3e9,
            1e20,
            6e-5,
            5.9e-8,
            1e-3,
            f64::NAN,
            inf,
            -inf,
        ],
    })
}

pub(super) fn add(list: &mut List) {
    let x = normal(DType::F32, &[4, 50]);
    list.smoke("copy/smoke", Copy::new(&x, &output(DType::F16, &[4, 50])));
    for &from in DType::ALL {
        for &to in DType::ALL {
            let x = Spec::new(desc(from, &[3, 29]), numbers(from));
            list.full(
                format!("copy/cast/{from}-{to}"),
                Copy::new(&x, &output(to, &[3, 29])),
            );
            if from.is_float() && to.is_float() {
                let x = normal(from, &[1027]).at(from.size() as u64);
                let y = output(to, &[1027]).at(to.size() as u64 * 3);
                list.full(format!("copy/cast/{from}-{to}/offset"), Copy::new(&x, &y));
            }
        }
    }
    for (d, word) in [
        (DType::F32, "f32"),
        (DType::F16, "f16"),
        (DType::U8, "u8"),
        (DType::I64, "i64"),
    ] {
        let fill = Fill::Ints(0, 100);
        for (name, x, y) in layouts(d.into()) {
            let x = Spec::new(x, fill.clone());
            list.full(
                format!("copy/layout/{word}/{name}"),
                Copy::new(&x, &Spec::new(y, Fill::Keep)),
            );
        }
    }
    for (name, x, y) in layouts(DType::BF16.into()) {
        let y = strided(DType::F32, y.shape(), y.strides());
        list.full(
            format!("copy/layout/bf16-f32/{name}"),
            Copy::new(&laid(x), &laid(y)),
        );
    }
    for (q, name, b) in formats() {
        let shape = [3, 2 * b];
        list.full(
            format!("copy/blocks/{name}"),
            Copy::new(&normal(q, &shape), &output(q, &shape)),
        );
        let from = laid(permuted(q, &[2, 3, b], &[1, 0, 2]));
        let to = laid(padded(q, &[3, 2, b], 1)).at(2 * Element::Quant(q).align());
        list.full(
            format!("copy/blocks/{name}/permuted"),
            Copy::new(&from, &to),
        );
    }
    let none = normal(DType::F32, &[0, 3]);
    list.full("copy/empty", Copy::new(&none, &output(DType::F16, &[0, 3])));
}

fn layouts(e: Element) -> Vec<(&'static str, TensorDesc, TensorDesc)> {
    vec![
        ("rank0", desc(e, &[]), desc(e, &[])),
        (
            "transposed",
            permuted(e, &[37, 6], &[1, 0]),
            desc(e, &[6, 37]),
        ),
        (
            "written_transposed",
            desc(e, &[37, 6]),
            permuted(e, &[6, 37], &[1, 0]),
        ),
        (
            "large_transposed",
            permuted(e, &[70, 65], &[1, 0]),
            desc(e, &[65, 70]),
        ),
        (
            "heads",
            permuted(e, &[2, 5, 3, 16], &[0, 2, 1, 3]),
            desc(e, &[2, 3, 5, 16]),
        ),
        (
            "rank6",
            permuted(e, &[2, 3, 2, 2, 3, 4], &[5, 0, 3, 1, 4, 2]),
            desc(e, &[4, 2, 2, 3, 3, 2]),
        ),
        ("apart", padded(e, &[6, 37], 5), padded(e, &[6, 37], 2)),
        (
            "every_other",
            strided(e, &[6, 17], &[40, 2]),
            strided(e, &[6, 17], &[60, 3]),
        ),
        ("row", desc(e, &[37]), desc(e, &[6, 37])),
        ("column", desc(e, &[6, 1]), desc(e, &[6, 37])),
        ("scalar", desc(e, &[1]), desc(e, &[3, 5])),
    ]
}
