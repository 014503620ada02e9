//! Norm and Softmax.

use super::{FLOATS, List, by, desc, laid, normal, output, padded, permuted, strided};
use crate::{DType, Norm, NormKind, Softmax, conformance::Fill};

pub(super) fn add(list: &mut List) {
    let x = normal(DType::F32, &[3, 100]);
    let y = output(DType::F32, &[3, 100]);
    let w = normal(DType::F32, &[100]);
    list.smoke("norm/smoke/rms", Norm::rms(&x, &w, 1e-5, &y));
    list.smoke("norm/smoke/layer", Norm::layer(&x, &w, 1e-5, &y));
    let planes = normal(DType::F32, &[1, 4, 5, 3]);
    let op = Norm::group(2, &planes, &normal(DType::F32, &[4]), 1e-5, &planes.clone());
    list.smoke("norm/smoke/group", op);
    list.smoke("softmax/smoke", Softmax::new(&x, &y));
    rows(list);
    residuals(list);
    group(list);
    softmax(list);
}

const KINDS: [(NormKind, &str); 3] = [
    (NormKind::Rms, "rms"),
    (NormKind::Layer, "layer"),
    (NormKind::L2, "l2"),
];

fn rows(list: &mut List) {
    for (kind, name) in KINDS {
        for d in FLOATS {
            for n in [1, 3, 31, 64, 100, 576, 1000, 4096] {
                let (x, y) = (normal(d, &[3, n]), output(d, &[3, n]));
                let w = normal(d, &[n]);
                let op = Norm::new(kind, &x, 1e-5, &y).weight(&w);
                list.full(format!("norm/{name}/{d}/n{n}"), op);
            }
            let (x, y) = (normal(DType::F32, &[2, 3, 80]), output(d, &[2, 3, 80]));
            let (w, b) = (normal(DType::F32, &[80]), normal(d, &[80]));
            let plain = Norm::new(kind, &x, 1e-6, &y);
            list.full(format!("norm/{name}/plain/f32-{d}"), plain.clone());
            list.full(format!("norm/{name}/bias/f32-{d}"), plain.clone().bias(&b));
            let op = plain.weight(&w).weight_offset(1.0).bias(&b);
            list.full(format!("norm/{name}/offset/f32-{d}"), op);
        }
        let f = DType::F32;
        let w = normal(f, &[33]);
        let layouts = [
            ("rows_apart", padded(f, &[4, 33], 5), desc(f, &[4, 33])),
            ("written_apart", desc(f, &[4, 33]), padded(f, &[4, 33], 5)),
            (
                "transposed",
                permuted(f, &[33, 4], &[1, 0]),
                desc(f, &[4, 33]),
            ),
            (
                "permuted",
                permuted(f, &[2, 3, 4, 33], &[0, 2, 1, 3]),
                desc(f, &[2, 4, 3, 33]),
            ),
            ("rank1", desc(f, &[33]), desc(f, &[33])),
            ("repeated", strided(f, &[4, 33], &[0, 1]), desc(f, &[4, 33])),
        ];
        for (layout, x, y) in layouts {
            let op = Norm::new(kind, &laid(x).at(4), 1e-5, &laid(y).at(12)).weight(&w);
            list.full(format!("norm/{name}/layout_{layout}"), op);
        }
        let both = normal(f, &[4, 33]).shared(0, 4);
        list.full(
            format!("norm/{name}/in_place"),
            Norm::new(kind, &both, 1e-5, &both).weight(&w),
        );
        let far = normal(f, &[4, 200]).fill(Fill::Normal(10.0, 1.0));
        let y = output(f, &[4, 200]);
        list.full(
            format!("norm/{name}/far_mean"),
            Norm::new(kind, &far, 1e-5, &y),
        );
        let zeros = normal(f, &[2, 64]).fill(Fill::Values(vec![0.0]));
        let y = output(f, &[2, 64]);
        list.full(
            format!("norm/{name}/zeros"),
            Norm::new(kind, &zeros, 1e-5, &y),
        );
        let small = normal(f, &[2, 64]).fill(Fill::Normal(0.0, 1e-4));
        list.full(
            format!("norm/{name}/small"),
            Norm::new(kind, &small, 1e-3, &y),
        );
        let odd = normal(f, &[8, 6]).fill(Fill::Special);
        list.full(
            format!("norm/special/{name}"),
            Norm::new(kind, &odd, 1e-5, &output(f, &[8, 6])),
        );
        let e = normal(f, &[0, 33]);
        list.full(
            format!("norm/{name}/empty"),
            Norm::new(kind, &e, 1e-5, &e.clone()).weight(&w),
        );
    }
}

fn residuals(list: &mut List) {
    for (kind, name) in KINDS {
        for d in FLOATS {
            let shape = [5, 72];
            let t = || normal(d, &shape);
            let op = Norm::new(kind, &t(), 1e-5, &output(d, &shape)).weight(&normal(d, &[72]));
            let name = format!("norm/{name}/residual/{d}");
            let mut push = |word: &str, op| list.full(format!("{name}/{word}"), op);
            push("stored", op.clone().residual(&t(), &output(d, &shape)));
            let wide = || normal(DType::F32, &shape);
            push("wide", op.clone().residual(&wide(), &wide()));
            let both = t().shared(0, 0);
            push("sum_is_residual", op.clone().residual(&both, &both));
            let mut onto_x = op.clone().residual(&t(), &both);
            onto_x.x = both;
            push("sum_is_x", onto_x);
            let mut unsaved = op;
            unsaved.residual = Some(t());
            push("not_stored", unsaved);
        }
    }
}

fn group(list: &mut List) {
    for d in FLOATS {
        for (shape, groups) in [
            (&[1u32, 4, 5, 3][..], 2u32),
            (&[2, 32, 4, 4], 32),
            (&[2, 32, 9, 7], 8),
            (&[1, 6, 33], 1),
            (&[3, 6], 3),
            (&[1, 64, 16, 16], 32),
            (&[2, 8, 2, 3, 4], 4),
        ] {
            let c = shape[1];
            let (x, y) = (normal(d, shape), output(d, shape));
            let (w, b) = (normal(d, &[c]), normal(d, &[c]));
            let plain = Norm::new(NormKind::Group { groups }, &x, 1e-5, &y);
            let name = format!("norm/group/{d}/{}g{groups}", by(shape));
            list.full(format!("{name}/plain"), plain.clone());
            list.full(name, plain.weight(&w).bias(&b));
        }
    }
    let f = DType::F32;
    let last = permuted(f, &[2, 5, 6, 8], &[0, 3, 1, 2]);
    let op = Norm::group(4, &laid(last), &normal(f, &[8]), 1e-5, &laid(last));
    list.full("norm/group/channels_last", op.bias(&normal(f, &[8])));
    let x = normal(f, &[2, 8, 5, 5]);
    let op = Norm::group(2, &x, &normal(f, &[8]), 1e-5, &output(f, &[2, 8, 5, 5]))
        .residual(&x.clone(), &output(f, &[2, 8, 5, 5]));
    list.full("norm/group/residual", op);
}

fn softmax(list: &mut List) {
    for d in FLOATS {
        for n in [1, 2, 7, 33, 64, 257, 1000, 4097] {
            let op = Softmax::new(&normal(d, &[3, n]), &output(d, &[3, n]));
            list.full(format!("softmax/{d}/n{n}"), op.scale(1.7));
        }
        for (name, shape) in [
            ("full", &[2u32, 3, 4, 20][..]),
            ("rows", &[4, 20]),
            ("row", &[20]),
            ("heads", &[2, 1, 4, 20]),
        ] {
            for element in [DType::F32, DType::F16, DType::BF16, DType::U8] {
                let (kept, dropped) = match element {
                    DType::U8 => (1.0, 0.0),
                    _ => (0.5, f64::NEG_INFINITY),
                };
                let mask = normal(element, shape).fill(Fill::Coin {
                    keep: 0.7,
                    kept,
                    dropped,
                });
                let x = [2, 3, 4, 20];
                let op = Softmax::new(&normal(d, &x), &output(d, &x)).scale(0.3);
                list.full(format!("softmax/mask/{d}/{element}/{name}"), op.mask(&mask));
            }
        }
    }
    let f = DType::F32;
    let both = normal(f, &[5, 33]).shared(0, 4);
    list.full("softmax/in_place", Softmax::new(&both, &both));
    for (name, x, y) in [
        ("rows_apart", padded(f, &[4, 33], 5), padded(f, &[4, 33], 2)),
        (
            "transposed",
            permuted(f, &[33, 4], &[1, 0]),
            desc(f, &[4, 33]),
        ),
        (
            "written_transposed",
            desc(f, &[4, 33]),
            permuted(f, &[33, 4], &[1, 0]),
        ),
        (
            "permuted",
            permuted(f, &[2, 3, 4, 9], &[1, 2, 0, 3]),
            desc(f, &[3, 4, 2, 9]),
        ),
        ("rank1", desc(f, &[33]), desc(f, &[33])),
    ] {
        list.full(
            format!("softmax/layout/{name}"),
            Softmax::new(&laid(x), &laid(y).at(4)),
        );
    }
    let fixed = |values: Vec<f64>| normal(f, &[3, 4]).fill(Fill::Values(values));
    let inf = f64::INFINITY;
    for (name, values) in [
        (
            "hidden_rows",
            vec![-inf, -inf, -inf, -inf, 1.0, -inf, 2.0, 0.0],
        ),
        ("large", vec![1e4, 9999.0, -1e30, 1e4]),
        ("nan", vec![f64::NAN, 1.0, 2.0, 3.0, 0.0, 0.0, 1.0, 1.0]),
        ("zeros", vec![0.0]),
    ] {
        let op = Softmax::new(&fixed(values), &output(f, &[3, 4]));
        list.full(format!("softmax/special/{name}"), op);
    }
    let all = normal(DType::U8, &[4]).fill(Fill::Values(vec![0.0]));
    let op = Softmax::new(&normal(f, &[3, 4]), &output(f, &[3, 4])).mask(&all);
    list.full("softmax/special/all_hidden", op);
    list.full(
        "softmax/empty/rows",
        Softmax::new(&normal(f, &[0, 4]), &output(f, &[0, 4])),
    );
    list.full(
        "softmax/empty/columns",
        Softmax::new(&normal(f, &[4, 0]), &output(f, &[4, 0])),
    );
}
