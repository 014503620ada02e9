//! [`Dequantize`], [`Quantize`], [`GatherRows`], [`Reduce`], [`TopK`], [`Copy`].

use super::{Array, Nd, Output, numbers::round_to};
use crate::{
    element::Element,
    error::{Error, Result},
    op::{Arg, Copy, Dequantize, GatherRows, Quantize, RedOp, Reduce, TopK, Weight},
};
use std::cmp::Ordering;

/// For decoded blocks, what the decoder's own roundings scale with: the largest number of the
/// block (scale and minimum may nearly cancel in any one of them).
fn block_magnitudes(a: &Array, v: &[f64]) -> Vec<f64> {
    let Element::Quant(q) = a.desc.element else {
        return Vec::new();
    };
    v.chunks(q.block_len())
        .flat_map(|block| {
            let top = block.iter().fold(0f64, |m, x| m.max(x.abs()));
            std::iter::repeat_n(top, block.len())
        })
        .collect()
}

pub(super) fn dequantize(a: &Dequantize<Array>) -> Output {
    let w = Nd::of(&a.w);
    Output {
        magnitudes: block_magnitudes(&a.w, &w.v),
        ..Output::exact(Arg::output("y"), a.y.desc.shape(), w.v)
    }
}

/// The decoded result of the format's encoder.
pub(super) fn quantize(a: &Quantize<Array>) -> Result<Output> {
    let Element::Quant(q) = a.y.desc.element else {
        return Err(Error::InvalidTensor("y is not quantized".into()));
    };
    let x: Vec<f32> = Nd::of(&a.x).v.iter().map(|&v| v as f32).collect();
    let mut bytes = vec![0; x.len() / q.block_len() * q.block_bytes()];
    let mut values = vec![0f32; x.len()];
    q.encode(&x, &mut bytes)
        .and_then(|()| q.decode(&bytes, &mut values))
        .map_err(|e| Error::InvalidTensor(e.to_string().into()))?;
    let values = values.into_iter().map(f64::from).collect();
    Ok(Output::exact(Arg::output("y"), a.y.desc.shape(), values))
}

pub(super) fn gather_rows(a: &GatherRows<Array>) -> Result<Output> {
    let Weight::Rows(table) = &a.table else {
        return Err(Error::unsupported(
            "the reference",
            "a table that a device prepacked",
        ));
    };
    let t = Nd::of(table);
    let sizes = block_magnitudes(table, &t.v);
    let (rows, d) = (t.shape[0], t.shape[1]);
    let (mut values, mut magnitudes) = (Vec::new(), Vec::new());
    for id in Nd::of(&a.ids).ints() {
        let row = usize::try_from(id).ok().filter(|&r| r < rows);
        match row {
            Some(r) => {
                values.extend(&t.v[r * d..(r + 1) * d]);
                magnitudes.extend(sizes.get(r * d..(r + 1) * d).unwrap_or_default());
            }
            None => {
                values.extend(std::iter::repeat_n(0.0, d));
                magnitudes.extend(std::iter::repeat_n(
                    0.0,
                    if sizes.is_empty() { 0 } else { d },
                ));
            }
        }
    }
    Ok(Output {
        magnitudes,
        ..Output::exact(Arg::output("y"), a.y.desc.shape(), values)
    })
}

/// NaN above everything, then by value.
fn by_value(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        _ => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
    }
}

pub(super) fn reduce(a: &Reduce<Array>) -> Output {
    let x = Nd::of(&a.x);
    let axis = a.axis as usize;
    let len = x.shape[axis];
    let inner: usize = x.shape[axis + 1..].iter().product();
    let outer: usize = x.shape[..axis].iter().product();
    let (mut values, mut magnitudes) = (Vec::new(), Vec::new());
    for o in 0..outer {
        for i in 0..inner {
            let run = || (0..len).map(|j| x.v[(o * len + j) * inner + i]);
            let extreme = |pick: fn(f64, f64) -> f64| {
                run().reduce(|m, v| {
                    if m.is_nan() || v.is_nan() {
                        f64::NAN
                    } else {
                        pick(m, v)
                    }
                })
            };
            let size: f64 = run().map(f64::abs).sum();
            let (value, magnitude) = match a.function {
                RedOp::Sum => (run().sum(), size),
                RedOp::Mean => (run().sum::<f64>() / len as f64, size / len as f64),
                RedOp::Max => (extreme(f64::max).unwrap_or(0.0), 0.0),
                RedOp::Min => (extreme(f64::min).unwrap_or(0.0), 0.0),
                RedOp::ArgMax => {
                    let best = run().enumerate().reduce(|m, v| {
                        if by_value(v.1, m.1) == Ordering::Greater {
                            v
                        } else {
                            m
                        }
                    });
                    (best.map_or(0.0, |b| b.0 as f64), 0.0)
                }
            };
            values.push(value);
            magnitudes.push(magnitude);
        }
    }
    if !matches!(a.function, RedOp::Sum | RedOp::Mean) {
        magnitudes.clear();
    }
    Output {
        magnitudes,
        ..Output::exact(Arg::output("y"), a.y.desc.shape(), values)
    }
}

pub(super) fn top_k(a: &TopK<Array>) -> Vec<Output> {
    let x = Nd::of(&a.x);
    let (n, k) = (x.width(), a.ids.desc.dim_back(0) as usize);
    let (mut values, mut ids) = (Vec::new(), Vec::new());
    for row in x.v.chunks(n.max(1)) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&i, &j| by_value(row[j], row[i]).then(i.cmp(&j)));
        for &i in &order[..k] {
            values.push(row[i]);
            ids.push(i as f64);
        }
    }
    let shape = a.ids.desc.shape();
    vec![
        Output::exact(Arg::output("values"), shape, values),
        Output::exact(Arg::output("ids"), shape, ids),
    ]
}

pub(super) fn copy(a: &Copy<Array>) -> Output {
    let shape = a.y.desc.shape();
    let mut x = Nd::broadcast(&a.x, shape);
    if let Element::Plain(to) = a.y.desc.element {
        for v in &mut x.v {
            *v = round_to(to, *v);
        }
    }
    Output::exact(Arg::output("y"), shape, x.v)
}
