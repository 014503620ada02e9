//! Dequantize, Quantize, GatherRows, Reduce, TopK.

use super::{
    FLOATS, List, by, desc, formats, ints, laid, normal, output, padded, permuted, strided,
};
use crate::{
    DType, Dequantize, Element, GatherRows, Quantize, RedOp, Reduce, TopK, Weight,
    conformance::{Fill, Spec},
};

pub(super) fn add(list: &mut List) {
    blocks(list);
    gather(list);
    reduce(list);
    top_k(list);
}

fn blocks(list: &mut List) {
    for (q, name, b) in formats() {
        let shape = [3, 2 * b];
        let op = Dequantize::new(&normal(q, &shape), &output(DType::F32, &shape));
        list.smoke(format!("dequantize/smoke/{name}"), op);
        for y in FLOATS {
            for shape in [&[b][..], &[7, 3 * b], &[2, 3, 5 * b], &[1, 33 * b]] {
                let op = Dequantize::new(&normal(q, shape), &output(y, shape));
                list.full(format!("dequantize/{name}/{y}/{}", by(shape)), op);
            }
            let op = Dequantize::new(
                &laid(padded(q, &[5, 2 * b], 1)).at(2 * Element::Quant(q).align()),
                &laid(padded(y, &[5, 2 * b], 3)).at(y.size() as u64),
            );
            list.full(format!("dequantize/{name}/{y}/apart"), op);
        }
        let swapped = permuted(q, &[3, 2, b], &[1, 0, 2]);
        let op = Dequantize::new(&laid(swapped), &output(DType::F32, &[2, 3, b]));
        list.full(format!("dequantize/{name}/permuted"), op);
        let row = strided(q, &[4, b], &[0, 1]);
        let op = Dequantize::new(&laid(row), &output(DType::F32, &[4, b]));
        list.full(format!("dequantize/{name}/repeated"), op);
        let op = Dequantize::new(&normal(q, &[0, b]), &output(DType::F32, &[0, b]));
        list.full(format!("dequantize/{name}/empty"), op);
        if !q.can_encode() {
            continue;
        }
        for x in FLOATS {
            for shape in [&[b][..], &[3, 2 * b]] {
                let op = Quantize::new(&normal(x, shape), &output(q, shape));
                list.full(format!("quantize/{name}/{x}/{}", by(shape)), op);
            }
        }
        let op = Quantize::new(
            &laid(padded(DType::F32, &[3, b], 4)).at(4),
            &laid(padded(q, &[3, b], 1)).at(2 * Element::Quant(q).align()),
        );
        list.full(format!("quantize/{name}/apart"), op);
        for (word, fill) in [
            ("zeros", Fill::Values(vec![0.0])),
            ("small", Fill::Normal(0.0, 1e-3)),
            ("large", Fill::Normal(0.0, 200.0)),
        ] {
            let x = normal(DType::F32, &[2, b]).fill(fill);
            let op = Quantize::new(&x, &output(q, &[2, b]));
            list.full(format!("quantize/{name}/{word}"), op);
        }
    }
    let q = crate::QuantFormat::Q8_0;
    let op = Quantize::new(&normal(DType::F32, &[2, 64]), &output(q, &[2, 64]));
    list.smoke("quantize/smoke", op);
}

fn gather(list: &mut List) {
    let plain = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F8E4M3,
        DType::F8E5M2,
    ];
    let tables: Vec<(Element, String, u32)> = plain
        .into_iter()
        .map(|d| (d.into(), d.name().to_owned(), 33))
        .chain(formats().map(|(q, name, b)| (q.into(), name, 2 * b)))
        .collect();
    for (e, name, d) in tables {
        let table = || Weight::Rows(normal(e, &[11, d]));
        for y in FLOATS {
            let ids = ints(&[5], Fill::Ints(0, 11));
            let op = GatherRows::new(table(), &ids, &output(y, &[5, d]));
            list.full(format!("gather_rows/{name}/{y}"), op);
        }
        let odd = ints(&[2, 3], Fill::Values(vec![10.0, -1.0, 11.0, 0.0, 1e9, 3.0]));
        let op = GatherRows::new(table(), &odd, &output(DType::F32, &[2, 3, d]));
        list.full(format!("gather_rows/{name}/outside"), op);
        let unsigned = Spec::new(strided(DType::U32, &[4], &[3]), Fill::Ints(0, 11)).at(4);
        let op = GatherRows::new(
            Weight::Rows(laid(padded(e, &[11, d], 1)).at(2 * e.align())),
            &unsigned,
            &laid(padded(DType::F32, &[4, d], 5)).at(4),
        );
        list.full(format!("gather_rows/{name}/apart"), op);
    }
    let table = Weight::Rows(normal(DType::F32, &[4, 50]));
    let ids = ints(&[3], Fill::Ints(0, 4));
    let op = GatherRows::new(table.clone(), &ids, &output(DType::F32, &[3, 50]));
    list.smoke("gather_rows/smoke", op);
    let one = ints(&[], Fill::Values(vec![2.0]));
    list.full(
        "gather_rows/rank0",
        GatherRows::new(table.clone(), &one, &output(DType::F32, &[50])),
    );
    let none = ints(&[0], Fill::Ints(0, 4));
    list.full(
        "gather_rows/empty",
        GatherRows::new(table, &none, &output(DType::F32, &[0, 50])),
    );
}

fn reduce(list: &mut List) {
    let smoke = Reduce::new(
        RedOp::Sum,
        &normal(DType::F32, &[4, 50]),
        1,
        &output(DType::F32, &[4, 1]),
    );
    list.smoke("reduce/smoke", smoke);
    for &f in RedOp::ALL {
        let name = format!("{f:?}").to_lowercase();
        let result = |d: DType| if f == RedOp::ArgMax { DType::I32 } else { d };
        for d in FLOATS {
            for (shape, axis) in [
                (&[1u32][..], 0u8),
                (&[1000], 0),
                (&[5, 33], 1),
                (&[33, 5], 0),
                (&[3, 4, 70], 2),
                (&[3, 70, 4], 1),
                (&[70, 3, 4], 0),
                (&[2, 3, 1, 5], 2),
                (&[2, 2, 2, 2, 3, 9], 3),
                (&[1, 5000], 1),
            ] {
                let mut to = shape.to_vec();
                to[axis as usize] = 1;
                let op = Reduce::new(f, &normal(d, shape), axis, &output(result(d), &to));
                list.full(format!("reduce/{name}/{d}/{}axis{axis}", by(shape)), op);
            }
        }
        let e = DType::F32;
        let y = |shape: &[u32]| output(result(e), shape);
        for (layout, x, axis, to) in [
            ("transposed", permuted(e, &[33, 6], &[1, 0]), 1, [6u32, 1]),
            (
                "transposed_outer",
                permuted(e, &[33, 6], &[1, 0]),
                0,
                [1, 33],
            ),
            ("apart", padded(e, &[6, 33], 3), 1, [6, 1]),
            ("repeated", strided(e, &[6, 33], &[0, 1]), 0, [1, 33]),
        ] {
            let op = Reduce::new(f, &laid(x).at(4), axis, &y(&to).at(4));
            list.full(format!("reduce/{name}/{layout}"), op);
        }
        let ties = normal(e, &[5, 40]).fill(Fill::Ints(-2, 3));
        list.full(
            format!("reduce/{name}/ties"),
            Reduce::new(f, &ties, 1, &y(&[5, 1])),
        );
        let odd = normal(e, &[12, 9]).fill(Fill::Special);
        list.full(
            format!("reduce/special/{name}"),
            Reduce::new(f, &odd, 1, &y(&[12, 1])),
        );
        list.full(
            format!("reduce/special/{name}_outer"),
            Reduce::new(f, &odd, 0, &y(&[1, 9])),
        );
        let low = normal(e, &[2, 5]).fill(Fill::Values(vec![f64::NEG_INFINITY]));
        list.full(
            format!("reduce/special/{name}_low"),
            Reduce::new(f, &low, 1, &y(&[2, 1])),
        );
        let none = normal(e, &[0, 4]);
        list.full(
            format!("reduce/{name}/empty"),
            Reduce::new(f, &none, 1, &y(&[0, 1])),
        );
    }
}

fn top_k(list: &mut List) {
    let push = |list: &mut List, name: String, x: Spec, k: u32, values: DType| {
        let mut shape = x.desc.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = k;
        }
        let op = TopK::new(&x, &output(values, &shape), &output(DType::I32, &shape));
        list.full(name, op);
    };
    for d in FLOATS {
        for (shape, k) in [
            (&[1u32][..], 1),
            (&[50], 1),
            (&[4, 50], 5),
            (&[4, 50], 50),
            (&[2, 3, 256], 8),
            (&[1, 5000], 40),
            (&[3, 1025], 1),
            (&[1, 33_000], 3),
        ] {
            push(
                list,
                format!("top_k/{d}/{}k{k}", by(shape)),
                normal(d, shape),
                k,
                d,
            );
        }
        let ties = || normal(d, &[6, 70]).fill(Fill::Ints(0, 4));
        push(list, format!("top_k/{d}/ties"), ties(), 20, DType::F32);
        let same = normal(d, &[3, 300]).fill(Fill::Values(vec![1.5]));
        push(list, format!("top_k/{d}/equal"), same, 12, d);
    }
    let odd = normal(DType::F32, &[9, 40]).fill(Fill::Special);
    push(list, "top_k/special".to_owned(), odd, 10, DType::F32);
    let low = normal(DType::F32, &[2, 20]).fill(Fill::Values(vec![f64::NEG_INFINITY]));
    push(list, "top_k/special/low".to_owned(), low, 4, DType::F32);
    let apart = laid(padded(DType::F32, &[5, 40], 3)).at(4);
    push(list, "top_k/apart".to_owned(), apart, 4, DType::F16);
    let turned = laid(permuted(DType::F32, &[40, 5], &[1, 0]));
    push(list, "top_k/transposed".to_owned(), turned, 4, DType::F32);
    push(
        list,
        "top_k/empty/rows".to_owned(),
        normal(DType::F32, &[0, 40]),
        4,
        DType::F32,
    );
    push(
        list,
        "top_k/empty/k".to_owned(),
        normal(DType::F32, &[3, 40]),
        0,
        DType::F32,
    );
    let op = TopK::new(
        &normal(DType::F32, &[4, 50]),
        &output(DType::F32, &[4, 5]),
        &Spec::new(desc(DType::I32, &[4, 5]), Fill::Keep),
    );
    list.smoke("top_k/smoke", op);
}
